"""A directory that a file sink writes into: a local one, or a prefix in any fsspec filesystem.

A file is written as `_pending/<name>`, made durable by `seal`, and shown by `publish`. Locally that is fsync and an atomic rename. In an
object store a write is durable once it is closed, and publishing is a copy on the server followed by a delete: the final object appears
whole or not at all, and doing it again after a crash in between is harmless.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, BinaryIO

import fsspec
import pyarrow as pa

from flinkray.errors import SinkError, UsageError

PENDING = "_pending"

_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "r2"}
"""No folders to make there; asked to, some would make a bucket that was only misspelt."""


class OutputFolder(ABC):
    """Names are relative to the folder; `/` separates."""

    def __init__(self, place: str) -> None:
        self.place = place

    @abstractmethod
    def create(self, name: str) -> BinaryIO:
        """A new file for writing, under a name that was never used."""

    @abstractmethod
    def seal(self, name: str, handle: BinaryIO) -> None:
        """Close what `create` gave, durable from then on."""

    @abstractmethod
    def exists(self, name: str) -> bool: ...

    @abstractmethod
    def move(self, source: str, target: str) -> None:
        """Raises FileNotFoundError when `source` is not there."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Missing is fine."""

    @abstractmethod
    def names(self, subfolder: str = "") -> list[str]:
        """Names of the files directly in a subfolder, sorted; empty when it is not there."""

    @abstractmethod
    def tree(self) -> list[str]:
        """Names of all files that are not pending, those in folders under the folder too (`a/b/name`), sorted; empty when it is not there."""

    @abstractmethod
    def sync(self, subfolders: Collection[str]) -> None:
        """Make moves into these folders ("": this one) durable."""

    @abstractmethod
    def drop_pending(self) -> None:
        """Remove the folder of pending files where it is empty."""

    def publish(self, pending: str, final: str) -> None:
        """Idempotent and safe against another process that does the same. SinkError when the file is in neither place."""
        if self.exists(final):
            self.delete(f"{PENDING}/{pending}")
            return
        try:
            self.move(f"{PENDING}/{pending}", final)
        except FileNotFoundError:
            if self.exists(final):
                return
            raise SinkError(
                f"{self.place}: {PENDING}/{pending} is gone, and was not committed as {final}: rows of a completed checkpoint are lost. "
                "Did somebody delete it, or is the folder not the one that all nodes share?"
            ) from None


def output_folder(place: str, options: Mapping[str, Any] | None) -> OutputFolder:
    """`place`: an absolute local path, or a URL."""
    return RemoteFolder(place, options) if "://" in place else LocalFolder(place)


class LocalFolder(OutputFolder):
    """A directory of this machine, or one that all nodes mount."""

    def create(self, name: str) -> BinaryIO:
        path = self._path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        handle: BinaryIO = pa.OSFile(path, "wb")
        return handle

    def seal(self, name: str, handle: BinaryIO) -> None:
        handle.close()
        _sync(self._path(name))
        _sync(os.path.dirname(self._path(name)))

    def exists(self, name: str) -> bool:
        return os.path.exists(self._path(name))

    def move(self, source: str, target: str) -> None:
        os.makedirs(os.path.dirname(self._path(target)), exist_ok=True)
        os.rename(self._path(source), self._path(target))

    def delete(self, name: str) -> None:
        try:
            os.unlink(self._path(name))
        except FileNotFoundError:
            return

    def names(self, subfolder: str = "") -> list[str]:
        try:
            with os.scandir(self._path(subfolder)) as entries:
                return sorted(entry.name for entry in entries if entry.is_file())
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            raise UsageError(f"{self.place}: is a file, and a sink writes into a directory") from None

    def tree(self) -> list[str]:
        found = list(self.names())
        for place, folders, files in os.walk(self.place):
            relative = os.path.relpath(place, self.place)
            if relative == ".":
                folders[:] = [folder for folder in folders if folder != PENDING]
            else:
                found += [f"{relative}/{file}" for file in files]
        return sorted(found)

    def sync(self, subfolders: Collection[str]) -> None:
        places = {""}
        for subfolder in subfolders:
            parts = subfolder.split("/")
            places.update("/".join(parts[:count]) for count in range(1, len(parts) + 1))
        for place in places:
            _sync(self._path(place))

    def drop_pending(self) -> None:
        try:
            os.rmdir(self._path(PENDING))
        except OSError:
            return  # not there, or something else lies in it

    def _path(self, name: str) -> str:
        return os.path.join(self.place, name)


def _sync(path: str) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class RemoteFolder(OutputFolder):
    """A prefix in an object store, or a directory of another filesystem that fsspec knows."""

    def __init__(self, place: str, options: Mapping[str, Any] | None) -> None:
        super().__init__(place)
        try:
            self._filesystem, root = fsspec.core.url_to_fs(place, **{"use_listings_cache": False, **(options or {})})
        except (ValueError, ImportError) as error:
            raise UsageError(f"{place}: {error}") from error
        self._root = root.rstrip("/")

    def create(self, name: str) -> BinaryIO:
        path = self._path(name)
        if self.place.partition("://")[0] not in _OBJECT_STORES:
            self._filesystem.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        handle: BinaryIO = self._filesystem.open(path, "wb")
        return handle

    def seal(self, name: str, handle: BinaryIO) -> None:
        handle.close()

    def exists(self, name: str) -> bool:
        return bool(self._filesystem.exists(self._path(name)))

    def move(self, source: str, target: str) -> None:
        if "/" in target and self.place.partition("://")[0] not in _OBJECT_STORES:
            self._filesystem.makedirs(self._path(target).rsplit("/", 1)[0], exist_ok=True)
        self._filesystem.mv(self._path(source), self._path(target))

    def delete(self, name: str) -> None:
        try:
            self._filesystem.rm_file(self._path(name))
        except FileNotFoundError:
            return

    def names(self, subfolder: str = "") -> list[str]:
        try:
            entries = self._filesystem.ls(self._path(subfolder), detail=True)
        except FileNotFoundError:
            return []
        return sorted(entry["name"].rsplit("/", 1)[-1] for entry in entries if entry["type"] == "file")

    def tree(self) -> list[str]:
        try:
            found = self._filesystem.find(self._path(""))
        except FileNotFoundError:
            return []
        prefix = self._filesystem._strip_protocol(self._path("")).rstrip("/") + "/"
        names = [str(name).removeprefix(prefix) for name in found]
        return sorted(name for name in names if not name.startswith(f"{PENDING}/"))

    def sync(self, subfolders: Collection[str]) -> None:
        """Nothing to do: a store answers once an object is durable."""

    def drop_pending(self) -> None:
        """Nothing to do: an object store has no folders. (Elsewhere an empty `_pending` stays.)"""

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root
