"""Sinks around a sink, for rehearsing failures: one kills its process at a chosen step, one writes down when rows arrive."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from flinkray.columns import TIMESTAMP
from flinkray.connectors.base import Sink, SinkContext, SinkWriter

Step = Literal["write", "prepare", "commit"]


@dataclass(frozen=True)
class _Around(Sink):
    """Does what `inner` does, with something before each step."""

    inner: Sink

    @property
    def accepts_changelog(self) -> bool:  # type: ignore[override]
        return self.inner.accepts_changelog

    @property
    def transactional(self) -> bool:
        return self.inner.transactional

    def check_schema(self, schema: pa.Schema) -> None:
        self.inner.check_schema(schema)

    def check_fresh_start(self, uid: str) -> None:
        self.inner.check_fresh_start(uid)

    def finish(self, schema: pa.Schema) -> None:
        self.inner.finish(schema)

    def writer(self, context: SinkContext) -> SinkWriter:
        return _AroundWriter(self.inner.writer(context), partial(self._before, context))

    def _before(self, context: SinkContext, step: Step, batch: pa.RecordBatch | None) -> None:
        raise TypeError("a subclass says what happens before a step")


@dataclass(frozen=True)
class CrashingSink(_Around):
    """Kills its own process (SIGKILL) right before the first `step` there is, once in all: `marker` is a file that says it happened."""

    step: Step
    marker: str
    after_calls: int = 0
    """Let so many calls of the step pass in a process before."""

    def _before(self, context: SinkContext, step: Step, batch: pa.RecordBatch | None) -> None:
        if step != self.step or os.path.exists(self.marker):
            return
        calls = _calls.get(self.marker, 0)
        _calls[self.marker] = calls + 1
        if calls < self.after_calls:
            return
        try:
            os.close(os.open(self.marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


_calls: dict[str, int] = {}
"""Calls that passed in this process, by marker."""


@dataclass(frozen=True)
class ProbeSink(_Around):
    """Appends a JSON line `{"at": seconds, "attempt": number, "rows": n, "max": largest value of column}` to `log` for each batch that comes to
    the sink."""

    log: str
    column: str

    def _before(self, context: SinkContext, step: Step, batch: pa.RecordBatch | None) -> None:
        if step != "write" or batch is None:
            return
        column = batch.column(self.column)
        largest = pc.max(column.cast(pa.int64()) if column.type == TIMESTAMP else column).as_py()
        with open(self.log, "a") as file:
            file.write(json.dumps({"at": time.time(), "attempt": context.attempt, "rows": batch.num_rows, "max": largest}) + "\n")


def read_probe(log: str) -> list[dict[str, Any]]:
    """The lines of a ProbeSink's log, in order of time; a torn last line (its process was killed) is left out."""
    lines = []
    with open(log) as file:
        for line in file:
            try:
                lines.append(json.loads(line))
            except ValueError:
                continue
    return sorted(lines, key=lambda line: line["at"])


class _AroundWriter(SinkWriter):
    def __init__(self, inner: SinkWriter, before: Callable[[Step, pa.RecordBatch | None], None]) -> None:
        self._inner = inner
        self._before = before

    def write(self, batch: pa.RecordBatch) -> None:
        self._before("write", batch)
        self._inner.write(batch)

    def prepare(self, checkpoint_id: int) -> list[dict[str, Any]]:
        self._before("prepare", None)
        return self._inner.prepare(checkpoint_id)

    def commit(self, transactions: list[dict[str, Any]]) -> None:
        self._before("commit", None)
        self._inner.commit(transactions)

    def discard_older(self) -> None:
        self._inner.discard_older()

    def close(self) -> None:
        self._inner.close()
