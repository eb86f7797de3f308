"""A source whose input holds, between its rows, what is to happen when they have been read: a crash, a pause, the end.

    SentinelSource([first, Crash(), second, Pause(2.0), third, End(), never], place="/tmp/rehearsal")

Rows before a sentinel are read before it; a batch never reaches over one.
"""

from __future__ import annotations

import copy
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from flinkray.connectors.base import Source, Split, SplitEnumerator, SplitReader
from flinkray.connectors.enumerators import OnceEnumerator
from flinkray.connectors.schemas import choose, conform, engine_schema
from flinkray.errors import UsageError


class SentinelError(RuntimeError):
    """What a `Crash(kill=False)` raises: a failure of user code, which the job survives."""


@dataclass(frozen=True)
class Crash:
    """The first reader that comes here ends its process (SIGKILL); with `kill=False` it raises SentinelError, also where the job runs in
    the process of the test. Those that come later pass."""

    kill: bool = True


@dataclass(frozen=True)
class Pause:
    """Whoever comes here gives no rows for so long, each time; `until`: a file, and then for as long as it is not there."""

    seconds: float = 0.0
    until: str = ""


@dataclass(frozen=True)
class End:
    """The split ends here: what follows is never read."""


Sentinel = Crash | Pause | End
Script = Sequence[Any]
"""Record batches, tables and sentinels, in the order in which they are read."""


@dataclass(frozen=True)
class SentinelSource(Source):
    """`script`: what is read, or a list of such, one for each split. `place`: a folder that all processes share and that outlives them; it
    remembers which crashes there were. Raises UsageError when there are no rows, or their columns differ."""

    scripts: tuple[tuple[pa.RecordBatch | Sentinel, ...], ...]
    place: str
    rate: float | None = None
    max_skew_us: int | None = None

    def __init__(self, script: Script | Sequence[Script], place: str, rate: float | None = None) -> None:
        scripts = [list(one) for one in script] if all(isinstance(one, Sequence) for one in script) else [list(script)]
        self._set(_conformed(scripts), place, rate)

    def _set(self, scripts: Sequence[Sequence[pa.RecordBatch | Sentinel]], place: str, rate: float | None) -> None:
        values = (("scripts", tuple(map(tuple, scripts))), ("place", place), ("rate", rate), ("max_skew_us", None))
        for name, value in values:
            object.__setattr__(self, name, value)

    @property
    def bounded(self) -> bool:
        return True

    def schema(self) -> pa.Schema:
        return next(_rows(self.scripts)).schema

    def with_columns(self, columns: tuple[str, ...]) -> Source:
        names = choose(self.schema(), columns).names
        projected = copy.copy(self)
        projected._set([[_select(element, names) for element in script] for script in self.scripts], self.place, self.rate)
        return projected

    def enumerator(self, state: Any | None, event_time_column: str | None, parallelism: int) -> SplitEnumerator:
        splits = [Split(f"script-{number}", {"script": number}) for number in range(len(self.scripts))]
        return OnceEnumerator([] if state else splits)

    def open_split(self, split: Split, offset: Any | None) -> SplitReader:
        at = (0, 0) if offset is None else (offset["element"], offset["row"])
        return _SentinelReader(self.scripts[split.payload["script"]], self.schema(), os.path.join(self.place, split.id), *at)


class _SentinelReader(SplitReader):
    def __init__(self, script: Sequence[pa.RecordBatch | Sentinel], schema: pa.Schema, marker: str, element: int, row: int) -> None:
        self._script = script
        self._schema = schema
        self._marker = marker
        self._element = element
        self._row = row
        self._waits_until: float | None = None

    def read(self, max_rows: int) -> pa.RecordBatch | None:
        while self._element < len(self._script):
            here = self._script[self._element]
            if isinstance(here, pa.RecordBatch):
                if self._row < here.num_rows:
                    batch = here.slice(self._row, max_rows)
                    self._row += batch.num_rows
                    return batch
            elif isinstance(here, End):
                return None
            elif isinstance(here, Crash):
                self._crash_once(here)
            elif self._paused(here):
                return pa.RecordBatch.from_pylist([], self._schema)
            self._element, self._row, self._waits_until = self._element + 1, 0, None
        return None

    def offset(self) -> Any:
        return {"element": self._element, "row": self._row}

    def _paused(self, pause: Pause) -> bool:
        if pause.until:
            return not os.path.exists(pause.until)
        if self._waits_until is None:
            self._waits_until = time.monotonic() + pause.seconds
        return time.monotonic() < self._waits_until

    def _crash_once(self, crash: Crash) -> None:
        marker = f"{self._marker}-crash-{self._element}"
        os.makedirs(os.path.dirname(marker), exist_ok=True)
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        if crash.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        raise SentinelError(f"a Crash in the input ({marker})")


def _conformed(scripts: Sequence[Sequence[Any]]) -> list[list[pa.RecordBatch | Sentinel]]:
    """Tables as batches, with the engine's types; all of one schema."""
    flat = [[batch for element in script for batch in _batches(element)] for script in scripts]
    first = next(_rows(flat), None)
    if first is None:
        raise UsageError("SentinelSource: there are no rows, and so no columns; give at least one batch, it may be empty")
    wanted = engine_schema(first.schema, "SentinelSource")
    for batch in _rows(flat):
        if not batch.schema.equals(first.schema):
            raise UsageError(f"SentinelSource: all rows need the columns of the first batch, {first.schema.names}")
    return [[conform(e, wanted, "SentinelSource") if isinstance(e, pa.RecordBatch) else e for e in script] for script in flat]


def _batches(element: pa.RecordBatch | pa.Table | Sentinel) -> list[pa.RecordBatch | Sentinel]:
    return element.combine_chunks().to_batches() if isinstance(element, pa.Table) else [element]


def _rows(scripts: Sequence[Sequence[pa.RecordBatch | Sentinel]]) -> Iterator[pa.RecordBatch]:
    return (element for script in scripts for element in script if isinstance(element, pa.RecordBatch))


def _select(element: pa.RecordBatch | Sentinel, names: list[str]) -> pa.RecordBatch | Sentinel:
    return element.select(names) if isinstance(element, pa.RecordBatch) else element
