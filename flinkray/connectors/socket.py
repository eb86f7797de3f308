"""Lines of text from a TCP connection, for trying things out. What was read cannot be asked for again: after a failure the rows since the
newest checkpoint are lost."""

from __future__ import annotations

import copy
import select
import socket
from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa

from flinkray.config import Duration, duration_us
from flinkray.connectors.base import Source, Split, SplitEnumerator, SplitReader
from flinkray.connectors.enumerators import OnceEnumerator
from flinkray.connectors.schemas import choose
from flinkray.errors import ConfigError, SourceError

LINE = "line"
CONNECT_S = 10.0
_PIECE_BYTES = 1 << 18
_MOST_BYTES = 16 << 20
"""Of one line."""


@dataclass(frozen=True, init=False)
class SocketSource(Source):
    """Connects to `host:port` and gives each line as a row with the one column `line`, a string without its newline; ends when the other side
    closes the connection. One reader. `nc -lk 9999` is something to connect to."""

    host: str
    port: int
    rate: float | None
    max_skew_us: int | None

    def __init__(self, host: str, port: int, rate: float | None = None, max_skew: Duration | None = "10s") -> None:
        if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
            raise ConfigError(f"Socket: port={port!r}: a whole number from 1 to 65535")
        if rate is not None and rate <= 0:
            raise ConfigError(f"Socket: rate={rate!r}: rows per second, above 0, or None")
        skew = None if max_skew is None else duration_us(max_skew, "max_skew")
        for name, value in (("host", host), ("port", port), ("rate", rate), ("max_skew_us", skew)):
            object.__setattr__(self, name, value)

    @property
    def bounded(self) -> bool:
        return False

    def schema(self) -> pa.Schema:
        return pa.schema([(LINE, pa.string())])

    def with_columns(self, columns: tuple[str, ...]) -> Self:
        choose(self.schema(), columns)
        return copy.copy(self)

    def enumerator(self, state: Any | None, event_time_column: str | None, parallelism: int) -> SplitEnumerator:
        return OnceEnumerator([] if state else [Split(f"{self.host}:{self.port}", {})])

    def open_split(self, split: Split, offset: Any | None) -> SplitReader:
        return _SocketReader(self, 0 if offset is None else offset["lines"])

    def describe(self) -> str:
        return f"Socket({self.host}:{self.port}), which cannot be read again after a failure"


class _SocketReader(SplitReader):
    """Never waits for rows."""

    def __init__(self, source: SocketSource, lines: int) -> None:
        self._name, self._lines, self._text, self._ended = f"Socket({source.host}:{source.port})", lines, b"", False
        try:
            self._socket = socket.create_connection((source.host, source.port), CONNECT_S)
        except OSError as error:
            raise SourceError(f"{self._name} cannot be connected to: {error}; does something listen there?", permanent=False) from error
        self._socket.setblocking(False)

    def read(self, max_rows: int) -> pa.RecordBatch | None:
        if b"\n" not in self._text:
            self._receive()
        *lines, rest = self._text.split(b"\n", max_rows)
        if self._ended and len(lines) < max_rows and rest and b"\n" not in rest:
            lines, rest = [*lines, rest], b""  # the last line needs no newline
        if len(lines) == 0 and self._ended:
            return None
        if not lines and len(rest) > _MOST_BYTES:
            raise SourceError(f"{self._name}, line {self._lines + 1}: has more than {_MOST_BYTES >> 20} MiB")
        try:
            texts = pa.array([line.removesuffix(b"\r") for line in lines], pa.binary()).cast(pa.string())
        except pa.ArrowInvalid as error:
            raise SourceError(f"{self._name}, after line {self._lines}: what came is no UTF-8: {error}") from error
        self._text, self._lines = rest, self._lines + len(lines)
        return pa.RecordBatch.from_arrays([texts], names=[LINE])

    def _receive(self) -> None:
        """What is there by now."""
        pieces = [self._text]
        while not self._ended and select.select([self._socket], [], [], 0)[0]:
            try:
                piece = self._socket.recv(_PIECE_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                raise SourceError(f"{self._name}, after line {self._lines}: the connection broke: {error}", permanent=False) from error
            self._ended = not piece
            pieces.append(piece)
            if sum(map(len, pieces)) > _PIECE_BYTES:
                break
        self._text = b"".join(pieces)

    def offset(self) -> Any:
        return {"lines": self._lines}

    def close(self) -> None:
        self._socket.close()
