"""Windows that forget rows before they answer, against a small model, with snapshots, deltas and restores."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flinkray.graph.general_windows import Evictor, GlobalWindow
from flinkray.operators.general_window import GeneralWindowOperator
from flinkray.testing.harness import OperatorHarness, restore
from tests.unit.test_general_window import LIST, SCHEMA, STORY, WINDOWS, Row, model, operator, row

EVICTORS = st.sampled_from([Evictor(rows=1), Evictor(rows=3), Evictor(within_us=0), Evictor(within_us=4)])


def kept(rows: list[Row], evictor: Evictor) -> tuple[int, ...]:
    """The n of the rows, which are in order of arrival, that an answer is of."""
    if evictor.rows is not None:
        return tuple(each["n"] for each in rows[-evictor.rows :])
    assert evictor.within_us is not None
    newest = max(each["t"] for each in rows)
    return tuple(each["n"] for each in rows if each["t"] >= newest - evictor.within_us)


@settings(max_examples=120, deadline=None)
@given(story=STORY, window=st.sampled_from([*WINDOWS[:3], GlobalWindow()]), evictor=EVICTORS)
def test_an_answer_is_of_the_rows_that_were_not_forgotten(story: list[Any], window: Any, evictor: Evictor) -> None:
    def make() -> GeneralWindowOperator:
        return operator(window, (LIST,), evictor=evictor)

    driven = OperatorHarness(make(), input_schemas=SCHEMA, event_time="t", batch_rows=3)
    now, base, found = 0, None, Counter[tuple[Any, ...]]()
    rows: list[Row] = []

    def gather() -> None:
        for each in driven.output_rows():
            found[(each["key"], each.get("window_start"), each.get("window_end"), tuple(each["ns"]))] += 1

    for number, (what, value) in enumerate(story, 1):
        if what == "rows":
            made = [row(now + ahead, 100 * number + i, key, gap) for i, (key, ahead, gap) in enumerate(value)]
            rows += made
            driven.rows(made)
        elif what == "watermark":
            now += value
            driven.watermark(now)
        else:
            gather()
            taken = driven.snapshot(number, None if value is True else base)
            base = number
            if what == "restore":
                (driven,) = restore(make, [taken], 1)
    driven.end()
    gather()
    by_n = {each["n"]: each for each in rows}
    expected = Counter((*place, kept([by_n[n] for n in ns], evictor)) for *place, ns in model(window, rows))
    assert found == expected
