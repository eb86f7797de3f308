"""What all sources of files share: finding files, their identity, the schema they have together, and the enumerator of their splits."""

from __future__ import annotations

import copy
import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import fsspec
import pyarrow as pa

from flinkray.config import Duration, duration_s, duration_us
from flinkray.connectors.base import Source, Split
from flinkray.connectors.enumerators import FileEnumerator
from flinkray.connectors.schemas import SchemaLike, choose, declared_schema
from flinkray.errors import ConfigError, FlinkrayError, SourceError, UsageError

Missing = Literal["error", "null"]
Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class InputFile:
    """A file as it was when it was found; reading it later checks that it still is."""

    path: str
    """An absolute local path, or a URL."""
    size: int
    version: str
    """ETag or time of modification, as text."""

    @property
    def is_local(self) -> bool:
        return "://" not in self.path

    def payload(self, **more: Any) -> dict[str, Any]:
        """The file's part of a split's payload."""
        return {"path": self.path, "size": self.size, "version": self.version, **more}

    @classmethod
    def of(cls, payload: Mapping[str, Any]) -> InputFile:
        return cls(payload["path"], payload["size"], payload["version"])

    def open(self, options: Mapping[str, Any] | None) -> pa.NativeFile:
        """Open for reading; SourceError when it is gone or cannot be read."""
        with storage_errors(self.path):
            if self.is_local:
                return pa.OSFile(self.path, "rb")
            filesystem, name = fsspec.core.url_to_fs(self.path, **_options(options))
            return pa.PythonFile(filesystem.open(name, "rb", block_size=8 << 20), "r")

    def check_unchanged(self, options: Mapping[str, Any] | None) -> None:
        """Raise SourceError when the file has grown or is another one than was found: what was read of it would be wrong."""
        with storage_errors(self.path):
            if self.is_local:
                size, version = _local_identity(self.path)
            else:
                filesystem, name = fsspec.core.url_to_fs(self.path, **_options(options))
                info = filesystem.info(name)
                size, version = info["size"], _version(info)
        if (size, version) != (self.size, self.version):
            raise SourceError(
                f"{self.path}: has changed since it was found ({self.size} bytes then, {size} now). Files must not change once they are "
                "there: write under a name that starts with '_' or '.', then rename"
            )


@contextmanager
def storage_errors(path: str) -> Iterator[None]:
    """Turns whatever a filesystem raises (S3, GCS, HTTP ... each have errors of their own) into a SourceError that names the path."""
    try:
        yield
    except FlinkrayError:
        raise
    except FileNotFoundError as error:
        raise SourceError(f"{path}: is gone, or was never there") from error
    except Exception as error:
        raise SourceError(f"{path}: cannot be read: {type(error).__name__}: {error}") from error


def absolute_paths(paths: Paths) -> tuple[str, ...]:
    """Paths and URLs as text; local ones absolute, since workers run in other directories than the driver."""
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not given:
        raise ConfigError("paths is empty: name a file, a directory, a glob or a URL")
    return tuple(_absolute(os.fspath(path)) for path in given)


def _absolute(path: str) -> str:
    if path.startswith("file://"):
        path = path.removeprefix("file://")
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def find_files(paths: Iterable[str], options: Mapping[str, Any] | None) -> list[InputFile]:
    """All files of these paths, directories (with all below) and globs, by name, each once. Below a directory or glob, names that start
    with `_` or `.` are skipped. A path that does not exist finds nothing."""
    found: dict[str, InputFile] = {}
    for path in paths:
        with storage_errors(path):
            try:
                filesystem, name = fsspec.core.url_to_fs(path, **_options(options))
            except (ValueError, ImportError) as error:
                raise UsageError(f"{path}: {error}") from error
            for each, info in _list(filesystem, name):
                if "://" in path:
                    file = InputFile(filesystem.unstrip_protocol(each), info["size"], _version(info))
                else:
                    file = InputFile(each, *_local_identity(each))
                found[file.path] = file
    return sorted(found.values(), key=lambda file: file.path)


def _list(filesystem: Any, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Files at a path, a directory or a glob."""
    if any(char in name for char in "*?["):
        fixed = _fixed_part(name)
        matches = filesystem.glob(name, detail=True)
    else:
        fixed = name
        try:
            matches = {name: filesystem.info(name)}
        except FileNotFoundError:
            return
    for each, info in matches.items():
        if _hidden(each, fixed):
            continue
        if info["type"] != "directory" and not (info.get("islink") and os.path.isdir(each)):
            yield each, info
            continue
        for below, its_info in filesystem.find(each, detail=True).items():
            if not _hidden(below, each):
                yield below, its_info


def _fixed_part(pattern: str) -> str:
    """The folders before the first one with a wildcard: their names are the user's own choice, hidden or not."""
    fixed = []
    for part in pattern.split("/")[:-1]:
        if any(char in part for char in "*?["):
            break
        fixed.append(part)
    return "/".join(fixed)


def _hidden(path: str, base: str) -> bool:
    below = path[len(base) :] if path.startswith(base) else path
    return any(part.startswith(("_", ".")) for part in below.split("/"))


def _local_identity(path: str) -> tuple[int, str]:
    status = os.stat(path)
    return status.st_size, str(status.st_mtime_ns)


def _version(info: Mapping[str, Any]) -> str:
    for key in ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created"):
        if info.get(key) is not None:
            stamp = info[key]
            return str(stamp.timestamp() if hasattr(stamp, "timestamp") else stamp)
    return ""


def _options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"use_listings_cache": False, **(options or {})}


@dataclass(frozen=True, init=False)
class FileSource(Source):
    """Base of the sources that read files. `schema()` is that of the first non-empty file by name, unless declared."""

    paths: tuple[str, ...]
    declared: pa.Schema | None
    missing: Missing
    watch_s: float | None
    """Seconds between two looks for new files; None: look once."""
    max_skew_us: int | None
    rate: float | None
    columns: tuple[str, ...] | None
    storage_options: Mapping[str, Any] | None = field(compare=False, repr=False)
    _resolved: pa.Schema | None = field(compare=False, repr=False)

    def _init(
        self, paths: Paths, schema: SchemaLike | None, missing: Missing, watch: Duration | None, max_skew: Duration | None,
        rate: float | None, storage_options: Mapping[str, Any] | None,
    ) -> None:  # fmt: skip
        if missing not in ("error", "null"):
            raise ConfigError(f"missing={missing!r}: 'error' or 'null'")
        if rate is not None and rate <= 0:
            raise ConfigError(f"rate={rate!r}: rows per second, above 0, or None")
        if watch is not None and duration_us(watch, "watch") == 0:
            raise ConfigError("watch=0: how often to look for new files, for example '1s'")
        self._set(
            paths=absolute_paths(paths),
            declared=declared_schema(schema),
            missing=missing,
            watch_s=None if watch is None else duration_s(watch, "watch"),
            max_skew_us=None if max_skew is None else duration_us(max_skew, "max_skew"),
            rate=rate,
            columns=None,
            storage_options=storage_options,
            _resolved=None,
        )

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def bounded(self) -> bool:
        return self.watch_s is None

    def schema(self) -> pa.Schema:
        """Columns of the rows that readers give. UsageError (exit 2) when no file matches and none is watched for."""
        return choose(self.full_schema(), self.columns)

    def full_schema(self) -> pa.Schema:
        """All columns, whatever was chosen. Found once; travels with pickled copies, so that workers read nothing again."""
        if self._resolved is None:
            self._set(_resolved=self._resolve())
        return self._resolved

    def with_columns(self, columns: tuple[str, ...]) -> Self:
        choose(self.full_schema(), columns)
        projected = copy.copy(self)
        projected._set(columns=tuple(columns))
        return projected

    def list_files(self) -> list[InputFile]:
        """All files there are now, by name. UsageError when there is none and none is watched for."""
        files = find_files(self.paths, self.storage_options)
        if not files and self.bounded:
            raise UsageError(
                f"{self.describe()}: no file there (names that start with '_' or '.' are skipped). Check the path, or wait for "
                "files with watch="
            )
        return files

    def _resolve(self) -> pa.Schema:
        files = self.list_files()
        if self.declared is not None:
            return self.declared
        empty = None
        for file in files:
            schema, has_rows = self.infer(file)
            if has_rows:
                return schema
            empty = empty or schema
        if empty is not None:
            return empty
        raise UsageError(
            f"{self.describe()}: no file has columns to take the schema from; declare it with schema={{'column': 'int64', ...}}"
        )

    @abstractmethod
    def infer(self, file: InputFile) -> tuple[pa.Schema | None, bool]:
        """The file's columns in engine types (None: it has not even names), and whether it has rows."""

    @abstractmethod
    def split_files(self, files: Sequence[InputFile], event_time_column: str | None, parallelism: int) -> list[Split]:
        """Splits of these files, in any order."""

    def enumerator(self, state: Any | None, event_time_column: str | None, parallelism: int) -> FileEnumerator:
        return FileEnumerator(self, state, event_time_column, parallelism)

    def describe(self) -> str:
        return f"{type(self).__name__.removesuffix('Source')} {', '.join(self.paths)}"
