"""What the sinks of files share: rows go to pending files, a checkpoint seals them, a commit shows them.

Final names carry uid, claim, checkpoint, attempt, instance and subtask, so that no two commits ever fight for a name. Pending names carry
a counter and a random part in place of the checkpoint, whose id is not known yet when the file is opened; the transaction, which the
checkpoint holds, joins the two names.
"""

from __future__ import annotations

import io
import os
import posixpath
import re
import secrets
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, ClassVar, Literal

import numpy as np
import pyarrow as pa

from flinkray.columns import CHANGE, visible
from flinkray.connectors.base import Sink, SinkContext, SinkWriter
from flinkray.connectors.output_folder import PENDING, OutputFolder, output_folder
from flinkray.connectors.partitions import check_partitions, partition_columns, split_by_folder
from flinkray.errors import ConfigError, FlinkrayError, PlanError, SinkError, UsageError

Mode = Literal["error", "append", "overwrite"]

SEQUENCE = "_seq"
"""int64, grows with each row that one key's subtask writes, over all attempts: the row of a key with the largest is the answer."""

_SEQUENCE_BITS = 42
"""4e12 rows per subtask and attempt, 2 million attempts."""

MAX_OPEN = 64
"""Files that one writer has open; when rows of more partitions come, the one that was not written to for longest is ended."""


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

    `partition_by`: columns whose values become folders, `day=2026-01-31/hour=7/`, and are left out of the files; a file is shown when it
    is whole, in the folder where it belongs.
    """

    suffix: ClassVar[str]

    dir: str
    mode: Mode = "error"
    changelog: bool = False
    partition_by: str | Sequence[str] = ()
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
        object.__setattr__(self, "partition_by", partition_columns(self.partition_by))
        object.__setattr__(self, "accepts_changelog", self.changelog)

    @property
    def transactional(self) -> bool:
        return True

    @abstractmethod
    def open_writer(self, handle: BinaryIO, schema: pa.Schema) -> FileWriter: ...

    def folder(self) -> OutputFolder:
        return output_folder(self.dir, self.storage_options)

    def file_schema(self, schema: pa.Schema) -> pa.Schema:
        """Columns of the files for rows of this schema, and those that become folders."""
        extra = [pa.field(CHANGE, pa.int8()), pa.field(SEQUENCE, pa.int64())] if self.changelog else []
        return pa.schema([field.with_nullable(True) for field in (*visible(schema), *extra)])

    def written_schema(self, schema: pa.Schema) -> pa.Schema:
        """Columns of the files."""
        return pa.schema([column for column in self.file_schema(schema) if column.name not in self.partition_by])

    def committed(self, folder: OutputFolder) -> list[str]:
        """Names of the committed files, with their folders."""
        names = folder.names() if not self.partition_by else folder.tree()
        return [name for name in names if name.endswith(self.suffix)]

    def check_schema(self, schema: pa.Schema) -> None:
        check_partitions(self.partition_by, visible(schema), self.describe())
        if self.changelog and SEQUENCE in schema.names:
            raise PlanError(f"{self.describe()}: column {SEQUENCE!r} is written by changelog=True; rename yours")
        for column in self.written_schema(schema):
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
            committed = self.committed(folder)
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
        final = re.compile(r"(?:.*/)?" + re.escape(file_safe(uid)) + r"-c\d+-k(\d+)-a\d+-[^-]+-\d+(?:-\d+)?" + re.escape(self.suffix))
        with self.errors():
            found = [match for name in self.committed(self.folder()) if (match := final.fullmatch(name))]
        return max((int(match[1]) for match in found), default=0)

    def writer(self, context: SinkContext) -> FileSinkWriter:
        return FileSinkWriter(self, context)

    def finish(self, schema: pa.Schema) -> None:
        with self.errors():
            folder = self.folder()
            if not self.partition_by and not self.committed(folder):
                name = f"empty-{secrets.token_hex(8)}{self.suffix}"
                handle = folder.create(f"{PENDING}/{name}")
                self.open_writer(handle, self.file_schema(schema)).close()
                folder.seal(f"{PENDING}/{name}", handle)
                folder.publish(name, f"empty{self.suffix}")
                folder.sync({""})
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


@dataclass
class _OpenFile:
    """A pending file of a folder that is being written."""

    folder: str
    name: str
    handle: BinaryIO
    writer: FileWriter


class FileSinkWriter(SinkWriter):
    """Writes at most one file between two checkpoints; with partitions one for each, and more where very many are written at once."""

    def __init__(self, sink: FileSink, context: SinkContext) -> None:
        self._sink = sink
        self._context = context
        self._uid = file_safe(context.uid)
        self._schema = sink.file_schema(context.schema)
        self._written_schema = sink.written_schema(context.schema)
        self._folder = sink.folder()
        self._open: dict[str, _OpenFile] = {}
        """By folder; the one that was written to last is last."""
        self._sealed: list[_OpenFile] = []
        """Ended since the last checkpoint."""
        self._files = 0
        self._rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        rows = self._rows_for_file(batch)
        with self._sink.errors():
            for folder, part in split_by_folder(rows, self._sink.partition_by):
                file = self._open.pop(folder, None) or self._create(folder)
                self._open[folder] = file
                file.writer.write(part)

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

    def _create(self, folder: str) -> _OpenFile:
        if len(self._open) >= MAX_OPEN:
            self._seal(next(iter(self._open)))
        c = self._context
        self._files += 1
        token = secrets.token_hex(4)
        name = f"{self._uid}-c{c.claim}-a{c.attempt}-{c.instance}-{c.subtask}-n{self._files}.{token}{self._sink.suffix}"
        handle = self._folder.create(f"{PENDING}/{name}")
        return _OpenFile(folder, name, handle, self._sink.open_writer(handle, self._written_schema))

    def _seal(self, folder: str) -> None:
        file = self._open[folder]
        file.writer.close()
        self._folder.seal(f"{PENDING}/{file.name}", file.handle)
        del self._open[folder]
        self._sealed.append(file)

    def prepare(self, checkpoint_id: int) -> list[dict[str, Any]]:
        with self._sink.errors():
            for folder in list(self._open):
                self._seal(folder)
        c, places, transactions = self._context, Counter[str](), []
        for file in self._sealed:
            places[file.folder] += 1
            number = f"-{places[file.folder]}" if places[file.folder] > 1 else ""
            final = f"{self._uid}-c{c.claim}-k{checkpoint_id}-a{c.attempt}-{c.instance}-{c.subtask}{number}{self._sink.suffix}"
            transactions.append({"pending": file.name, "final": f"{file.folder}/{final}" if file.folder else final})
        self._sealed = []
        return transactions

    def commit(self, transactions: list[dict[str, Any]]) -> None:
        with self._sink.errors():
            for transaction in transactions:
                self._folder.publish(transaction["pending"], transaction["final"])
            if transactions:
                self._folder.sync({posixpath.dirname(transaction["final"]) for transaction in transactions})

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
        handles = [file.handle for file in self._open.values()]
        names = [file.name for file in (*self._open.values(), *self._sealed)]
        self._open, self._sealed = {}, []  # a Parquet writer writes its footer when it goes, for which its file must be open
        with self._sink.errors():
            for handle in handles:
                handle.close()
            for name in names:
                self._folder.delete(f"{PENDING}/{name}")


_PENDING_NAME = re.compile(r"(?P<uid>.+)-c(?P<claim>\d+)-a(?P<attempt>\d+)-(?P<instance>[^-]+)-(?P<subtask>\d+)-n\d+\.[0-9a-f]{8}\.[a-z]+")


def file_safe(uid: str) -> str:
    """The uid as a part of a file name: injective, and never hidden, since readers skip names that start with `_` or `.`."""
    safe = re.sub(r"[^A-Za-z0-9_.-]", lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), uid)
    return f"%{ord(safe[0]):02X}{safe[1:]}" if safe.startswith(("_", ".")) else safe
