"""State with a time to live: what is over is not seen, and gives its memory back; also after restores, and against a small model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flinkray as fr
from flinkray.operators.process import ProcessOperator
from flinkray.operators.restore import restored_states
from flinkray.testing.harness import OperatorHarness, restore

SCHEMA = pa.schema([("user", pa.int64()), ("t", pa.int64()), ("n", pa.int64())])
OUT = pa.schema([("user", pa.int64()), ("what", pa.string())])
Row = dict[str, Any]


def operator(function: fr.KeyedProcessFunction) -> ProcessOperator:
    return ProcessOperator(keys=("user",), function=function, output_schema=OUT, side_schemas={})


def harness(function: fr.KeyedProcessFunction, event_time: str | None = "t", **options: Any) -> OperatorHarness:
    return OperatorHarness(operator(function), input_schemas=SCHEMA, event_time=event_time, **options)


def row(t: int, user: int | None = 1, n: int = 1) -> Row:
    return {"user": user, "t": t, "n": n}


def remembering(**ttl: Any) -> fr.KeyedProcessFunction:
    """Tells what it knows of the key, and adds n to all of it; n = 0 only looks."""

    class Remembering(fr.KeyedProcessFunction):
        total = fr.ValueState("total", int, **ttl)
        note = fr.ValueState("note", str, **ttl)
        rows = fr.ListState("rows", int, **ttl)
        counts = fr.MapState("counts", int, int, **ttl)
        most = fr.ReducingState("most", int, max, **ttl)

        def process(self, row: Row, ctx: fr.ProcessContext) -> Any:
            yield {
                "user": ctx.key,
                "what": repr((self.total.value, self.note.value, list(self.rows), dict(self.counts.items()), self.most.value)),
            }
            if row["n"]:
                self.total.value = (self.total.value or 0) + row["n"]
                self.note.value = f"{self.note.value or ''}{row['n']}"
                self.rows.add(row["n"])
                self.counts[row["n"]] = self.counts.get(row["n"], 0) + 1
                self.most.add(row["n"])

    return Remembering()


def said(driven: OperatorHarness) -> list[str]:
    return [each["what"] for each in driven.output_rows()]


NOTHING = "(None, None, [], {}, None)"
ONE = "(1, '1', [1], {1: 1}, 1)"


def test_a_value_is_over_when_the_watermark_is_its_life_behind_the_row_that_wrote_it() -> None:
    driven = harness(remembering(ttl=10e-6)).rows([row(5), row(6, 2)])
    driven.output()
    assert said(driven.watermark(14).rows([row(20, n=0)])) == [ONE]
    assert said(driven.watermark(15).rows([row(20, n=0), row(21, 2, n=0)])) == [NOTHING, ONE]
    assert said(driven.rows([row(22), row(23, n=0)])) == [NOTHING, ONE], "it may be written anew"
    driven.rows([row(2, n=1)]).output()
    assert said(driven.watermark(31).rows([row(40, n=0)])) == ["(2, '11', [1, 1], {1: 2}, 1)"], "a late row makes nothing older"


def test_reads_keep_a_value_alive_where_that_is_asked_for() -> None:
    driven = harness(remembering(ttl=fr.StateTtl(10e-6, refresh="read"))).rows([row(5)])
    driven.watermark(10).rows([row(14, n=0)]).output()
    assert said(driven.watermark(20).rows([row(25, n=0)])) == [ONE]
    assert said(driven.watermark(35).rows([row(36, n=0)])) == [NOTHING]


def test_by_processing_time_the_clock_counts_also_while_the_job_is_down() -> None:
    ttl = fr.StateTtl("10s", time="processing")
    driven = harness(remembering(ttl=ttl), event_time=None).processing_time(100.0).rows([row(1), row(1, 2)])
    driven.processing_time(105.0).rows([row(1, 2)]).output()
    taken = driven.snapshot(1)
    for each in (driven, *restore(lambda: operator(remembering(ttl=ttl)), [taken], 1)):
        each.processing_time(112.0)
        assert said(each.rows([row(1, n=0), row(1, 2, n=0)])) == [NOTHING, "(2, '11', [1, 1], {1: 2}, 1)"]
        assert said(each.processing_time(115.0).rows([row(1, 2, n=0)])) == [NOTHING]


class Many(fr.KeyedProcessFunction):
    total = fr.ValueState("total", int, ttl=10e-6)

    def process_keys(self, batch: pa.RecordBatch, keys: Any, ctx: fr.ProcessContext) -> Any:
        known = self.total.read(keys)
        self.total.write(keys, np.where(known.valid, known, 0) + np.bincount(keys.index, minlength=len(keys)))
        return {"user": keys.unique, "what": pa.array([str(int(v)) if ok else "-" for v, ok in zip(known, known.valid, strict=True)])}


def test_for_all_keys_at_once_each_has_the_time_of_its_own_rows() -> None:
    driven = harness(Many()).rows([row(5), row(9, 2), row(3)])
    driven.output()
    assert said(driven.watermark(15).rows([row(20), row(21, 2)])) == ["-", "1"]
    assert said(driven.watermark(30).rows([row(31), row(32, 2)])) == ["-", "2"]


def test_what_is_over_gives_its_memory_back_and_is_gone_from_deltas() -> None:
    driven = harness(remembering(ttl=100e-6)).rows([row(user, user) for user in range(1, 50)])
    driven.snapshot(1)
    driven.watermark(125)
    delta = driven.snapshot(2, base_id=1)
    for state in ("total", "note", "rows", "counts", "most"):
        chunk = delta.written[f"state:{state}"]
        assert sorted(chunk.filter(pa.array(np.logical_not(chunk["_live"].to_numpy())))["_key0"].to_pylist()) == list(range(1, 26))
    again = restore(lambda: operator(remembering(ttl=100e-6)), [delta], 1)[0]
    again.watermark(125)
    assert set(said(again.rows([row(200, user, n=0) for user in range(1, 26)]))) == {NOTHING}
    assert again.rows([row(200, 26, n=0)]).output_rows()[0]["what"] == ONE


def test_the_end_of_input_is_not_the_end_of_all_lives() -> None:
    class Last(fr.KeyedProcessFunction):
        total = fr.ValueState("total", int, ttl=10e-6)

        def process(self, row: Row, ctx: fr.ProcessContext) -> None:
            self.total.value = row["n"]
            ctx.register_event_timer(row["t"] + 5)

        def on_timer(self, timestamp: int, ctx: fr.ProcessContext) -> Any:
            yield {"user": ctx.key, "what": repr(self.total.value)}

    assert said(harness(Last()).rows([row(5)]).end()) == ["1"]


def test_a_life_may_be_given_to_state_that_had_none_and_taken_away() -> None:
    own = harness(remembering()).key_groups
    without = harness(remembering()).rows([row(5)]).watermark(50).snapshot(1)
    now = harness(remembering(ttl=10e-6), restored=restored_states(without.chains, own, 0), restored_checkpoint=1)
    assert said(now.watermark(59).rows([row(60, n=0)])) == [ONE], "its life begins with the restore"
    assert said(now.watermark(60).rows([row(60, n=0)])) == [NOTHING]
    limited = harness(remembering(ttl=10e-6)).rows([row(5)]).snapshot(1)
    for_ever = harness(remembering(), restored=restored_states(limited.chains, own, 0), restored_checkpoint=1)
    assert said(for_ever.watermark(1000).rows([row(2000, n=0)])) == [ONE]


def test_lives_that_make_no_sense_are_refused() -> None:
    with pytest.raises(fr.PlanError, match="not above zero"):
        fr.StateTtl(0)
    with pytest.raises(fr.PlanError, match="no duration"):
        fr.ValueState("v", int, ttl="soon")
    with pytest.raises(fr.PlanError, match="refresh='never'"):
        fr.StateTtl("1s", refresh="never")  # type: ignore[arg-type]
    with pytest.raises(fr.PlanError, match="lives by event time, but the rows have none"):
        harness(remembering(ttl=fr.StateTtl("1s", time="event")), event_time=None)


EVENTS = st.lists(
    st.one_of(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30), st.integers(0, 2)), min_size=1, max_size=5),
        st.sampled_from(["watermark", "snapshot", "restore"]),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(events=EVENTS, refresh=st.sampled_from(["write", "read"]))
def test_it_is_a_dictionary_that_forgets(events: list[Any], refresh: Any) -> None:
    """The model: of each key the rows since it was last forgotten, and when it was used. A life of 20, a watermark every 7."""

    def make() -> fr.KeyedProcessFunction:
        return remembering(ttl=fr.StateTtl(20e-6, refresh=refresh))

    driven, now, taken, known, used, chain = harness(make()), 0, 0, dict[int, list[int]](), dict[int, int](), None
    for event in events:
        if event == "watermark":
            driven.watermark(now := now + 7)
        elif event == "snapshot":
            taken += 1
            chain = driven.snapshot(taken, taken - 1 if chain is not None else None)
        elif event == "restore":
            taken += 1
            (driven,) = restore(lambda: operator(make()), [driven.snapshot(taken, taken - 1 if chain is not None else None)], 1)
            driven.watermark(now)
            chain = None
        else:
            expected = []
            for user in known.copy():
                if used[user] + 20 <= now:
                    del known[user], used[user]
            for user, ahead, n in event:
                rows = known.get(user, [])
                expected.append(
                    repr((sum(rows), "".join(map(str, rows)), rows, {k: rows.count(k) for k in dict.fromkeys(rows)}, max(rows)))
                    if rows
                    else NOTHING
                )
                if n:
                    known[user] = [*rows, n]
                if n or (rows and refresh == "read"):
                    used[user] = max(used.get(user, 0), now + ahead)
            assert said(driven.rows([row(now + ahead, user, n) for user, ahead, n in event])) == expected
