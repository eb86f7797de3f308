"""What failed in user code is saved, sealed, and runs again from the command line on the same rows and state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import flinkray as fr
from flinkray.cli import run


class Totals(fr.KeyedProcessFunction):
    """Fails when a user's total becomes 100 or more: what it was before is in state."""

    output_schema = {"user": "int64", "total": "int64"}
    total = fr.ValueState("total", int)

    def process(self, row: dict[str, Any], ctx: fr.ProcessContext) -> Any:
        total = (self.total.value or 0) + row["n"]
        if total >= 100:
            raise OverflowError(f"user {ctx.key} had {self.total.value}")
        self.total.value = total
        yield {"user": ctx.key, "total": total}


class Alarm(fr.KeyedProcessFunction):
    """Fails when a timer fires."""

    seen = fr.ValueState("seen", int)

    def process(self, row: dict[str, Any], ctx: fr.ProcessContext) -> None:
        self.seen.value = row["n"]
        if ctx.key == 1:
            ctx.register_event_timer(1_000)

    def on_timer(self, timestamp: int, ctx: fr.ProcessContext) -> Any:
        raise ValueError(f"user {ctx.key} had {self.seen.value} at {timestamp}")


class AlarmClock(Alarm):
    """Fails when a timer by the clock fires."""

    def process(self, row: dict[str, Any], ctx: fr.ProcessContext) -> None:
        self.seen.value = row["n"]
        if ctx.key == 1:
            ctx.register_processing_timer(1_000)


def picky_at_the_end(rows: pa.RecordBatch, window: Any) -> dict[str, Any]:
    raise ValueError(f"user {window.key} had {rows.column('n').to_pylist()}")


def steady(row: dict[str, Any]) -> dict[str, Any]:
    return {"n": 1 // (90 - row["n"])}


STEPS: dict[str, tuple[Callable[[fr.DataStream], fr.DataStream], str]] = {
    "process": (lambda rows: rows.key_by("user").process(Totals(), uid="step"), "user 1 had 90"),
    "timer": (
        lambda rows: rows.assign_watermarks(fr.Watermarks.monotonous("n")).key_by("user").process(Alarm(), {"user": "int64"}, uid="step"),
        "had 10 at 1000",
    ),
    "timer by the clock": (
        lambda rows: rows.key_by("user").process(AlarmClock(), {"user": "int64"}, uid="step"),
        "at 1000",
    ),
    "window by the clock, at the end": (
        lambda rows: (
            rows.filter(fr.col("user") == 1)
            .key_by("user")
            .window(fr.windows.Tumbling("1h", time="processing"))
            .process(picky_at_the_end, {"user": "int64"})
            .uid("step")
        ),
        "user 1 had [90, 10]",
    ),
    "map": (lambda rows: rows.map(steady, {"n": "int64"}, uid="step"), "modulo by zero"),
    "stage": (
        lambda rows: rows.map_batches(
            lambda batch: {"n": [1 // (90 - n.as_py()) for n in batch["n"]]}, {"n": "int64"}, concurrency=1, uid="step"
        ),
        "modulo by zero",
    ),
}


SLOW = {"timer by the clock": 10}
"""Rows a second: the clock is looked at while the job runs."""


def fail(folder: Path, step: str) -> fr.OperatorError:
    checkpointing = fr.Checkpointing(interval="10ms", min_pause="0s", storage=f"file://{folder}/checkpoints")
    env = fr.StreamEnvironment(
        "failing", runtime="local", checkpointing=checkpointing, restart=fr.RestartStrategy(initial="1ms", attempts=1), batch_rows=1
    )
    rows = env.from_source(
        fr.sources.Memory([pa.table({"user": [1, 2, 1], "n": [90, 50, 10]}).to_batches()[0]], rate=SLOW.get(step, 200)), uid="rows"
    )
    STEPS[step][0](rows).sink_to(fr.sinks.Blackhole(), uid="out")
    with pytest.raises(fr.OperatorError) as raised:
        env.execute()
    return raised.value


@pytest.mark.parametrize("step", STEPS)
def test_an_incident_fails_again_on_the_same_rows_and_state(step: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = fail(tmp_path, step)
    assert error.incident.startswith("failing/c")
    assert f"flinkray replay {error.incident}" in str(error)
    storage = ["--storage", f"file://{tmp_path}/checkpoints"]
    assert run(["replay", error.incident, *storage, "--no-debugger"]) == 1
    shown = capsys.readouterr().out
    assert "operator 'step'" in shown
    assert STEPS[step][1] in shown
    assert run(["replay", "failing", "--list", *storage]) == 0
    assert capsys.readouterr().out.split() == [error.incident]


def test_what_was_saved_is_sealed_and_what_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fail(tmp_path, "process")
    (saved,) = Path(tmp_path, "checkpoints", "failing", "incidents").rglob("*step*")
    assert b"Totals" not in saved.read_bytes()
    assert run(["replay", "failing/other", "--storage", f"file://{tmp_path}/checkpoints"]) == 2
    assert "there is no incident 'other'" in capsys.readouterr().err


def test_an_incident_that_is_mended_does_not_fail_any_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = fail(tmp_path, "process")
    monkeypatch.setattr(Totals, "process", lambda self, row, ctx: None)
    assert run(["replay", error.incident, "--storage", f"file://{tmp_path}/checkpoints"]) == 0
    assert "does not fail any more" in capsys.readouterr().out
