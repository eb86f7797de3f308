"""A transactional sink whose transactions outlive all simulated processes: what a run is judged by."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from flinkray.columns import CHANGE, visible
from flinkray.connectors.base import Sink, SinkContext, SinkWriter
from flinkray.errors import SinkError, UsageError

_NAME = re.compile(r"(?P<uid>.+)-c(?P<claim>\d+)-k(?P<checkpoint>\d+)-a(?P<attempt>\d+)-(?P<instance>[0-9A-Za-z]+)-(?P<subtask>\d+)")

Row = str
"""A row as text: comparable, whatever its types are."""

Rows = dict[str, list[Row]]
"""By the sink's uid, sorted."""


@dataclass
class Output:
    """Everything that the sinks of one run wrote: prepared transactions, and those committed."""

    prepared: dict[str, bytes] = field(default_factory=dict)
    committed: dict[str, tuple[str, list[Row]]] = field(default_factory=dict)
    """By the transaction's name: the sink's uid, and the rows."""
    retracted: set[str] = field(default_factory=set)
    """Names that were committed and taken back to restore an older checkpoint."""
    on_commit: Callable[[str, str, list[Row]], None] = lambda name, uid, rows: None
    """Asked before each first commit of a transaction."""
    on_prepare: Callable[[str, bool], None] = lambda name, again: None
    as_text: bool = True
    """Rows are compared one by one. Else only `tables` has them."""

    def rows(self) -> Rows:
        """Committed rows by the sink's uid, sorted."""
        found: Rows = {}
        for uid, rows in self.committed.values():
            found.setdefault(uid, []).extend(rows)
        return {uid: sorted(found[uid]) for uid in sorted(found)}

    def tables(self) -> dict[str, pa.Table]:
        """Committed rows by the sink's uid, with `_change` where they have one, in the order of their checkpoints: all changes of a key are
        in the order in which they were made."""
        found: dict[str, list[tuple[int, str]]] = {}
        for name, (uid, _) in self.committed.items():
            found.setdefault(uid, []).append((checkpoint_of(name), name))
        return {uid: pa.concat_tables(_read(self.prepared[name]) for _, name in sorted(found[uid])) for uid in sorted(found)}

    def count(self) -> Counter[tuple[str, Row]]:
        return Counter((uid, row) for uid, rows in self.committed.values() for row in rows)

    def take_back(self, checkpoint: int) -> int:
        """Undo every commit of a later checkpoint; returns how many."""
        later = [name for name in self.committed if checkpoint_of(name) > checkpoint]
        for name in later:
            del self.committed[name]
        self.retracted.update(later)
        return len(later)


def checkpoint_of(name: str) -> int:
    match = _NAME.fullmatch(name)
    assert match is not None, name
    return int(match["checkpoint"])


def _read(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(io.BytesIO(data)).read_all()


_outputs: dict[str, Output] = {}


def open_output(key: str) -> Output:
    """A fresh output that sinks of this key write to."""
    _outputs[key] = Output()
    return _outputs[key]


@dataclass(frozen=True)
class SimulatedSink(Sink):
    """Stands for any sink of a user's graph, in a simulation."""

    key: str
    takes_changes: bool = False

    @property
    def accepts_changelog(self) -> bool:  # type: ignore[override]
        return self.takes_changes

    @property
    def transactional(self) -> bool:
        return True

    def check_fresh_start(self, uid: str) -> None:
        if any(known == uid for known, _ in _outputs[self.key].committed.values()):
            raise UsageError(f"the output of {uid} holds rows of another run")

    def writer(self, context: SinkContext) -> SinkWriter:
        return _Writer(_outputs[self.key], context)


class _Writer(SinkWriter):
    def __init__(self, output: Output, context: SinkContext) -> None:
        self._output = output
        self._context = context
        self._batches: list[pa.RecordBatch] = []

    def write(self, batch: pa.RecordBatch) -> None:
        names = visible(batch.schema).names
        self._batches.append(batch.select([*names, CHANGE] if CHANGE in batch.schema.names else names))

    def prepare(self, checkpoint_id: int) -> list[dict[str, Any]]:
        if not self._batches:
            return []
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, self._batches[0].schema) as writer:
            for batch in self._batches:
                writer.write_batch(batch)
        self._batches.clear()
        context = self._context
        name = f"{context.uid}-c{context.claim}-k{checkpoint_id}-a{context.attempt}-{context.instance}-{context.subtask}"
        self._output.on_prepare(name, name in self._output.prepared)
        self._output.prepared[name] = sink.getvalue()
        return [{"name": name}]

    def commit(self, transactions: list[dict[str, Any]]) -> None:
        for transaction in transactions:
            name = transaction["name"]
            if name in self._output.committed:
                continue
            data = self._output.prepared.get(name)
            if data is None:
                raise SinkError(f"transaction {name} was never prepared, or has been discarded")
            table = _read(data)
            rows = [repr(row) for row in table.select(visible(table.schema).names).to_pylist()] if self._output.as_text else []
            self._output.on_commit(name, self._context.uid, rows)
            self._output.committed[name] = (self._context.uid, rows)

    def discard_older(self) -> None:
        context, output = self._context, self._output
        for name in list(output.prepared):
            match = _NAME.fullmatch(name)
            if match is None or match["uid"] != context.uid or name in output.committed:
                continue
            if (int(match["claim"]), int(match["attempt"])) < (context.claim, context.attempt):
                del output.prepared[name]
