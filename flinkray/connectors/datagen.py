"""Rows made from their number: the same at any parallelism and after any restore.

    Datagen(1_000_000, {"id": sequence(), "user": random_int(0, 100), "at": timestamps("2024-01-01", "10ms", jitter="1s")}, seed=7)

A value depends on the seed, the column's name and the row's number only (a counter through the mixing function of splitmix64), so that
any reader can make any row.
"""

from __future__ import annotations

import copy
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

import numpy as np
import pyarrow as pa

from flinkray.columns import TIMESTAMP
from flinkray.config import Duration, duration_us
from flinkray.connectors.base import Source, Split, SplitEnumerator, SplitReader
from flinkray.connectors.enumerators import OnceEnumerator
from flinkray.connectors.schemas import choose, engine_schema
from flinkray.errors import ConfigError


class Generator(ABC):
    """Makes the values of one column from row numbers."""

    @property
    @abstractmethod
    def type(self) -> pa.DataType: ...

    @abstractmethod
    def values(self, rows: np.ndarray, random: np.ndarray) -> pa.Array:
        """`rows`: int64 row numbers; `random`: uint64, uniform, one for each."""

    def lower_bound(self, row: int) -> int | None:
        """No value of this row or a later one is smaller; None where that is not known."""
        return None


@dataclass(frozen=True)
class _Sequence(Generator):
    start: int
    step: int

    @property
    def type(self) -> pa.DataType:
        return pa.int64()

    def values(self, rows: np.ndarray, random: np.ndarray) -> pa.Array:
        return pa.array(self.start + self.step * rows)

    def lower_bound(self, row: int) -> int | None:
        return self.start + self.step * row if self.step >= 0 else None


@dataclass(frozen=True)
class _RandomInt(Generator):
    low: int
    high: int

    @property
    def type(self) -> pa.DataType:
        return pa.int64()

    def values(self, rows: np.ndarray, random: np.ndarray) -> pa.Array:
        return pa.array((random % np.uint64(self.high - self.low)).astype(np.int64) + self.low)


@dataclass(frozen=True)
class _RandomFloat(Generator):
    low: float
    high: float

    @property
    def type(self) -> pa.DataType:
        return pa.float64()

    def values(self, rows: np.ndarray, random: np.ndarray) -> pa.Array:
        return pa.array(self.low + (random >> np.uint64(11)).astype(np.float64) * (2.0**-53 * (self.high - self.low)))


@dataclass(frozen=True)
class _Choice(Generator):
    options: tuple[Any, ...]

    @property
    def type(self) -> pa.DataType:
        return pa.array(self.options).type

    def values(self, rows: np.ndarray, random: np.ndarray) -> pa.Array:
        return pa.array(self.options).take(pa.array(random % np.uint64(len(self.options))))


@dataclass(frozen=True)
class _Timestamps(Generator):
    start_us: int
    step_us: int
    jitter_us: int

    @property
    def type(self) -> pa.DataType:
        return TIMESTAMP

    def values(self, rows: np.ndarray, random: np.ndarray) -> pa.Array:
        back = (random % np.uint64(self.jitter_us + 1)).astype(np.int64)
        return pa.array(self.start_us + self.step_us * rows - back).cast(TIMESTAMP)

    def lower_bound(self, row: int) -> int | None:
        return self.start_us + self.step_us * row - self.jitter_us


def sequence(start: int = 0, step: int = 1) -> Generator:
    """int64: start, start + step, ..."""
    return _Sequence(start, step)


def random_int(low: int, high: int) -> Generator:
    """int64, uniform in low <= value < high."""
    if high <= low:
        raise ConfigError(f"random_int({low}, {high}): high must be above low")
    return _RandomInt(low, high)


def random_float(low: float = 0.0, high: float = 1.0) -> Generator:
    """double, uniform in low <= value < high."""
    return _RandomFloat(low, high)


def choice(options: Sequence[Any]) -> Generator:
    """One of the options, each as likely."""
    if not options:
        raise ConfigError("choice([]): at least one option")
    return _Choice(tuple(options))


def timestamps(start: str | datetime, step: Duration, jitter: Duration = 0) -> Generator:
    """timestamp[us, UTC]: start + row * step, less a random part of up to `jitter`: rows out of order by that much. Naive means UTC."""
    moment = datetime.fromisoformat(start) if isinstance(start, str) else start
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    start_us = round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1_000_000)
    return _Timestamps(start_us, duration_us(step, "step"), duration_us(jitter, "jitter"))


@dataclass(frozen=True, init=False)
class DatagenSource(Source):
    """Makes `rows` rows (None: for ever) with these columns. `rate`: rows/s at most over all readers."""

    rows: int | None
    generators: Mapping[str, Generator] = field(hash=False)
    rate: float | None
    seed: int
    max_skew_us: int | None

    def __init__(
        self, rows: int | None, columns: Mapping[str, Generator], rate: float | None = None, seed: int = 0,
        max_skew: Duration | None = "10s",
    ) -> None:  # fmt: skip
        if rows is not None and rows < 0:
            raise ConfigError(f"rows={rows}: how many to make, or None for ever")
        if not columns:
            raise ConfigError("columns is empty: name at least one, like {'id': sequence()}")
        if rate is not None and rate <= 0:
            raise ConfigError(f"rate={rate!r}: rows per second, above 0, or None")
        skew = None if max_skew is None else duration_us(max_skew, "max_skew")
        self._set(rows=rows, generators=dict(columns), rate=rate, seed=seed, max_skew_us=skew)

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def bounded(self) -> bool:
        return self.rows is not None

    def schema(self) -> pa.Schema:
        return engine_schema(pa.schema([(name, made.type) for name, made in self.generators.items()]), "Datagen")

    def with_columns(self, columns: tuple[str, ...]) -> Self:
        projected = copy.copy(self)
        projected._set(generators={name: self.generators[name] for name in choose(self.schema(), columns).names})
        return projected

    def enumerator(self, state: Any | None, event_time_column: str | None, parallelism: int) -> SplitEnumerator:
        return OnceEnumerator([] if state else self._splits(event_time_column, parallelism))

    def _splits(self, event_time_column: str | None, parallelism: int) -> list[Split]:
        """Reader i of n makes the rows i, i + n, i + 2n ...: all readers are at the same event time."""
        made = self.generators.get(event_time_column or "")
        number = parallelism if self.rows is None else min(parallelism, self.rows)
        return [
            Split(
                id=f"rows-{first}-of-{number}",
                payload={"first": first, "step": number},
                min_event_time_us=made.lower_bound(first) if made else None,
                size=0 if self.rows is None else (self.rows - first + number - 1) // number,
            )
            for first in range(number)
        ]

    def open_split(self, split: Split, offset: Any | None) -> SplitReader:
        return _DatagenReader(self, split.payload["first"] if offset is None else offset["row"], split.payload["step"])


class _DatagenReader(SplitReader):
    def __init__(self, source: DatagenSource, row: int, step: int) -> None:
        self._schema = source.schema()
        self._generators = source.generators
        self._stop = source.rows
        self._row = row
        self._step = step
        self._salts = {name: _salt(source.seed, name) for name in source.generators}

    def read(self, max_rows: int) -> pa.RecordBatch | None:
        count = max_rows
        if self._stop is not None:
            count = min(max_rows, (self._stop - self._row + self._step - 1) // self._step)
        if count <= 0:
            return None
        rows = self._row + self._step * np.arange(count, dtype=np.int64)
        arrays = []
        for field_, made in zip(self._schema, self._generators.values(), strict=True):
            arrays.append(made.values(rows, _mix(rows.view(np.uint64), self._salts[field_.name])).cast(field_.type))
        self._row += self._step * count
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def offset(self) -> Any:
        return {"row": self._row}


def _salt(seed: int, name: str) -> np.uint64:
    start = np.array([(seed & (2**64 - 1)) ^ (zlib.crc32(name.encode()) << 32)], np.uint64)
    return np.uint64(_mix(start, np.uint64(0))[0])


def _mix(numbers: np.ndarray, salt: np.uint64) -> np.ndarray:
    """The output function of splitmix64 at position `numbers`, from state `salt`. Arithmetic wraps."""
    z = numbers * np.uint64(0x9E3779B97F4A7C15) + salt
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
