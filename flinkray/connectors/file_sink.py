"""What the sinks of files share: rows go to pending files, a checkpoint seals them, a commit shows them.

Final names carry uid, claim, checkpoint, attempt, instance and subtask, so that no two commits ever fight for a name. Pending names carry
a counter and a random part in place of the checkpoint, whose id is not known yet when the file is opened; the transaction, which the
checkpoint holds, joins the two names.
"""

from __future__ import annotations

import io
import os
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, ClassVar, Literal

import numpy as np
import pyarrow as pa

from flinkray.columns import CHANGE, visible
from flinkray.connectors.base import Sink, SinkContext, SinkWriter
from flinkray.connectors.output_folder import PENDING, OutputFolder, output_folder
from flinkray.errors import ConfigError, FlinkrayError, PlanError, SinkError, UsageError

Mode = Literal["error", "append", "overwrite"]

SEQUENCE = "_seq"
"""int64, grows with each row that one key's subtask writes, over all attempts: the row of a key with the largest is the answer."""

_SEQUENCE_BITS = 42
"""4e12 rows per subtask and attempt, 2 million attempts."""


class FileWriter(ABC):
    """Encodes batches into one open file; does not close it."""

    @abstractmethod
    def write(self, batch: pa.RecordBatch) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Write what ends the file."""


@dataclass(frozen=True)
class FileSink(Sink):
    """Base of the sinks that write files into `dir`, exactly once; everything there with the format's suffix is committed.

    `mode`, when a job starts afresh and `dir` holds files of another run: "error" refuses, "append" adds to them, "overwrite" deletes them
    (files of other suffixes stay). `changelog=True` accepts rows that are refined later and writes `_change` (+1, +2 newest row of its key, -1, -2
    gone) and `_seq` (the largest of a key is the answer). `dir` is a path or a URL that fsspec knows.
    """

    suffix: ClassVar[str]

    dir: str
    mode: Mode = "error"
    changelog: bool = False
    storage_options: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    accepts_changelog: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        place = os.fspath(self.dir).removeprefix("file://")
        if not place:
            raise ConfigError("dir is empty: name a directory or a URL")
        if self.mode not in ("error", "append", "overwrite"):
            raise ConfigError(f"mode={self.mode!r}: 'error', 'append' or 'overwrite'")
        absolute = place.rstrip("/") if "://" in place else os.path.abspath(os.path.expanduser(place))
        object.__setattr__(self, "dir", absolute)
        object.__setattr__(self, "accepts_changelog", self.changelog)

    @property
    def transactional(self) -> bool:
        return True

    @abstractmethod
    def open_writer(self, handle: BinaryIO, schema: pa.Schema) -> FileWriter: ...

    def folder(self) -> OutputFolder:
        return output_folder(self.dir, self.storage_options)

    def file_schema(self, schema: pa.Schema) -> pa.Schema:
        """Columns of the files for rows of this schema."""
        extra = [pa.field(CHANGE, pa.int8()), pa.field(SEQUENCE, pa.int64())] if self.changelog else []
        return pa.schema([field.with_nullable(True) for field in (*visible(schema), *extra)])

    def check_schema(self, schema: pa.Schema) -> None:
        if self.changelog and SEQUENCE in schema.names:
            raise PlanError(f"{self.describe()}: column {SEQUENCE!r} is written by changelog=True; rename yours")
        for column in self.file_schema(schema):
            alone = pa.schema([column])
            try:
                writer = self.open_writer(io.BytesIO(), alone)
                writer.write(pa.RecordBatch.from_arrays([pa.nulls(1, column.type)], schema=alone))
                writer.close()
            except (pa.ArrowException, TypeError, NotImplementedError) as error:
                raise PlanError(f"{self.describe()}: column {column.name!r} of type {column.type} cannot be written: {error}") from error

    def check_fresh_start(self, uid: str) -> None:
        with self.errors():
            folder = self.folder()
            committed = [name for name in folder.names() if name.endswith(self.suffix)]
            if committed and self.mode == "error":
                raise UsageError(
                    f"{self.dir}: holds {len(committed)} {self.suffix} files of another run, the first {committed[0]}. Take another "
                    'directory, delete them, say mode="append" or mode="overwrite", or restore the run that wrote them'
                )
            if self.mode == "overwrite":
                for name in committed:
                    folder.delete(name)
                for name in folder.names(PENDING):
                    if _PENDING_NAME.fullmatch(name) and name.endswith(self.suffix):
                        folder.delete(f"{PENDING}/{name}")

    def newest_checkpoint(self, uid: str) -> int:
        final = re.compile(re.escape(file_safe(uid)) + r"-c\d+-k(\d+)-a\d+-[^-]+-\d+" + re.escape(self.suffix))
        with self.errors():
            found = [match for name in self.folder().names() if (match := final.fullmatch(name))]
        return max((int(match[1]) for match in found), default=0)

    def writer(self, context: SinkContext) -> FileSinkWriter:
        return FileSinkWriter(self, context)

    def finish(self, schema: pa.Schema) -> None:
        with self.errors():
            folder = self.folder()
            if not any(name.endswith(self.suffix) for name in folder.names()):
                name = f"empty-{secrets.token_hex(8)}{self.suffix}"
                handle = folder.create(f"{PENDING}/{name}")
                self.open_writer(handle, self.file_schema(schema)).close()
                folder.seal(f"{PENDING}/{name}", handle)
                folder.publish(name, f"empty{self.suffix}")
                folder.sync()
            folder.drop_pending()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turns whatever a filesystem raises (S3, GCS, HTTP ... each have errors of their own) into a SinkError that names the place."""
        try:
            yield
        except FlinkrayError:
            raise
        except Exception as error:
            raise SinkError(f"{self.dir}: cannot be written: {type(error).__name__}: {error}") from error

    def describe(self) -> str:
        return f"{type(self).__name__.removesuffix('Sink')} {self.dir}"


class FileSinkWriter(SinkWriter):
    """Writes at most one file between two checkpoints."""

    def __init__(self, sink: FileSink, context: SinkContext) -> None:
        self._sink = sink
        self._context = context
        self._uid = file_safe(context.uid)
        self._schema = sink.file_schema(context.schema)
        self._folder = sink.folder()
        self._name: str | None = None
        self._handle: BinaryIO | None = None
        self._file: FileWriter | None = None
        self._files = 0
        self._rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        rows = self._rows_for_file(batch)
        with self._sink.errors():
            if self._file is None:
                self._open()
            assert self._file is not None
            self._file.write(rows)

    def _rows_for_file(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch without hidden columns, or with change and sequence."""
        arrays = []
        for column in self._schema:
            index = batch.schema.get_field_index(column.name)
            if index < 0 and column.name == CHANGE:
                arrays.append(pa.array(np.ones(batch.num_rows, np.int8)))
            elif column.name == SEQUENCE and self._sink.changelog:
                arrays.append(self._sequence(batch.num_rows))
            elif index < 0 or batch.schema.field(index).type != column.type:
                found = "missing" if index < 0 else str(batch.schema.field(index).type)
                raise SinkError(f"{self._sink.describe()}: column {column.name!r} is {found}, and was {column.type} before", permanent=True)
            else:
                arrays.append(batch.column(index))
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _sequence(self, rows: int) -> pa.Array:
        """Attempts never repeat and only grow, and within one a key stays in one subtask: no key's sequence ever goes back."""
        first = (self._context.attempt << _SEQUENCE_BITS) + self._rows
        self._rows += rows
        return pa.array(np.arange(first, first + rows, dtype=np.int64))

    def _open(self) -> None:
        c = self._context
        self._files += 1
        token = secrets.token_hex(4)
        self._name = f"{self._uid}-c{c.claim}-a{c.attempt}-{c.instance}-{c.subtask}-n{self._files}.{token}{self._sink.suffix}"
        self._handle = self._folder.create(f"{PENDING}/{self._name}")
        self._file = self._sink.open_writer(self._handle, self._schema)

    def prepare(self, checkpoint_id: int) -> list[dict[str, Any]]:
        if self._file is None or self._handle is None:
            return []
        with self._sink.errors():
            self._file.close()
            self._folder.seal(f"{PENDING}/{self._name}", self._handle)
        c = self._context
        final = f"{self._uid}-c{c.claim}-k{checkpoint_id}-a{c.attempt}-{c.instance}-{c.subtask}{self._sink.suffix}"
        transaction = {"pending": self._name, "final": final}
        self._name = self._handle = self._file = None
        return [transaction]

    def commit(self, transactions: list[dict[str, Any]]) -> None:
        with self._sink.errors():
            for transaction in transactions:
                self._folder.publish(transaction["pending"], transaction["final"])
            if transactions:
                self._folder.sync()

    def discard_older(self) -> None:
        with self._sink.errors():
            for name in self._folder.names(PENDING):
                match = _PENDING_NAME.fullmatch(name)
                if match is None or match["uid"] != self._uid or not name.endswith(self._sink.suffix):
                    continue
                if (int(match["claim"]), int(match["attempt"])) < (self._context.claim, self._context.attempt):
                    self._folder.delete(f"{PENDING}/{name}")

    def close(self) -> None:
        """Rows that no checkpoint took are written again by the next attempt: their file goes."""
        if self._handle is None:
            return
        handle, name = self._handle, self._name
        self._name = self._handle = self._file = None
        with self._sink.errors():
            handle.close()
            self._folder.delete(f"{PENDING}/{name}")


_PENDING_NAME = re.compile(r"(?P<uid>.+)-c(?P<claim>\d+)-a(?P<attempt>\d+)-(?P<instance>[^-]+)-(?P<subtask>\d+)-n\d+\.[0-9a-f]{8}\.[a-z]+")


def file_safe(uid: str) -> str:
    """The uid as a part of a file name: injective, and never hidden, since readers skip names that start with `_` or `.`."""
    safe = re.sub(r"[^A-Za-z0-9_.-]", lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), uid)
    return f"%{ord(safe[0]):02X}{safe[1:]}" if safe.startswith(("_", ".")) else safe
