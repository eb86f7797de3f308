"""Process functions as users write them: typed at plan time, run on the local runtime."""

from __future__ import annotations

import pyarrow as pa
import pytest

import flinkray as fr


class Totals(fr.KeyedProcessFunction):
    output_schema = {"user": "int64", "total": "int64"}
    side_outputs = {"large": {"n": "int64"}}
    input_columns = ("n",)
    total = fr.ValueState("total", int)

    def process(self, row, ctx):  # type: ignore[no-untyped-def]
        self.total.value = (self.total.value or 0) + row["n"]
        if row["n"] > 2:
            ctx.output("large", {"n": row["n"]})
        ctx.register_event_timer(1000)

    def on_timer(self, timestamp, ctx):  # type: ignore[no-untyped-def]
        yield {"user": ctx.key, "total": self.total.value}


@pytest.fixture
def rows() -> fr.KeyedStream:
    env = fr.StreamEnvironment("process", parallelism=2, runtime="local")
    table = pa.table({"user": [1, 2, 1, 3], "n": [1, 2, 3, 4], "t": [1, 2, 3, 4], "unused": list("abcd")})
    return env.from_batches(table, watermark=fr.Watermarks.monotonous("t")).key_by("user")


def test_a_process_function_runs_with_its_side_output(rows: fr.KeyedStream) -> None:
    totals = rows.process(Totals(), uid="totals")
    assert sorted(totals.collect().to_pylist(), key=lambda row: row["user"]) == [
        {"user": 1, "total": 4},
        {"user": 2, "total": 2},
        {"user": 3, "total": 4},
    ]
    assert sorted(totals.get_side_output("large").collect()["n"].to_pylist()) == [3, 4]


def test_only_wanted_columns_are_sent_and_explain_names_the_states(rows: fr.KeyedStream) -> None:
    text = rows.process(Totals()).explain()
    assert "calls Totals.process per user; keeps value 'total'" in text
    assert "sends user, n, event time" in text


def test_what_comes_after_is_checked_against_the_output_schema(rows: fr.KeyedStream) -> None:
    with pytest.raises(fr.PlanError, match="did you mean 'total'"):
        rows.process(Totals()).select("totals")
    with pytest.raises(fr.PlanError, match="it has: 'large'"):
        rows.process(Totals()).get_side_output("larg")
    with pytest.raises(fr.PlanError, match=r"Totals.input_columns: no column 'm'"):
        rows.process(type("Totals", (Totals,), {"input_columns": ("m",)})())
    with pytest.raises(fr.PlanError, match=r"is no fr\.KeyedProcessFunction"):
        rows.process(print)  # type: ignore[arg-type]
