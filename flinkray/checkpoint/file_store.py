"""`file://`: objects as files of one folder, each there whole or not at all, and durable once a call has returned.

`create` is a temporary file, fsync, `os.link`, fsync of the folder (rule 6): link is atomic and fails when the name is taken, also between
processes and over NFS. An exclusive open would show an empty file to whoever looks in between, and leave it there after a kill.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from flinkray.checkpoint.base import CreateOutcome, ObjectStore
from flinkray.checkpoint.store import check_name, check_prefix
from flinkray.errors import StorageError

_TEMPORARY = ".tmp"
_LITTER_AGE_S = 86_400.0
"""Temporary files of killed processes are removed after this; age decides over litter only, never over an object."""

_TRIES = 5
"""A folder that another process empties and removes between our mkdir and our link is made again so often."""


class FileStore(ObjectStore):
    """Objects below `folder` (absolute), which is made at the first write: whoever only reads leaves no trace."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._temporary = os.path.join(folder, _TEMPORARY)
        self._can_link: bool | None = None
        self._seen = False
        """The folder was there once."""
        self._writable = False

    @property
    def uri(self) -> str:
        return f"file://{self._folder}"

    @property
    def shared(self) -> bool:
        return True

    @property
    def conditional_create(self) -> bool:
        if self._can_link is None:
            self._can_link = self._probe_link()
        return self._can_link

    def put(self, name: str, data: bytes | memoryview) -> None:
        self.put_parts(name, [data])

    def put_parts(self, name: str, parts: Iterable[bytes | memoryview]) -> None:
        target = self._path(name)
        with _storage_errors("write", self.uri, name):
            temporary = self._write_temporary(parts)
            try:
                self._into_folder(target, lambda: os.replace(temporary, target))
            except OSError:
                _unlink(temporary)
                raise

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        with _storage_errors("read", self.uri, name), open(self._path(name), "rb") as file:
            file.seek(offset)
            return file.read() if length is None else file.read(length)

    def create(self, name: str, data: bytes) -> CreateOutcome:
        if not self.conditional_create:
            raise StorageError(f"{self.uri} cannot create {name} if absent: its file system has no hard links")
        target = self._path(name)
        with _storage_errors("create", self.uri, name):
            temporary = self._write_temporary([data])
            try:
                self._into_folder(target, lambda: os.link(temporary, target))
                return CreateOutcome.CREATED
            except OSError:
                # Taken, or an answer that cannot be trusted (NFS may send a link twice): what stands there decides.
                standing = _read(target)
                if standing is None:
                    raise
                _sync_folder(os.path.dirname(target))
                return CreateOutcome.CREATED if standing == data else CreateOutcome.TAKEN
            finally:
                _unlink(temporary)

    def exists(self, name: str) -> bool:
        with _storage_errors("look for", self.uri, name):
            try:
                return stat.S_ISREG(os.stat(self._path(name)).st_mode)
            except FileNotFoundError:
                return False

    def list(self, prefix: str) -> list[str]:
        top = os.path.join(self._folder, check_prefix(prefix))
        names: list[str] = []
        with _storage_errors("list", self.uri, prefix):
            try:
                os.stat(self._folder)
            except FileNotFoundError:
                if self._seen:
                    raise  # a folder that was there and has gone is not an empty one
                return []
            self._seen = True
            for folder, folders, files in os.walk(top, onerror=_raise_unless_missing):
                if _TEMPORARY in folders and os.path.join(folder, _TEMPORARY) == self._temporary:
                    folders.remove(_TEMPORARY)
                relative = os.path.relpath(folder, self._folder)
                names += [file if relative == "." else f"{relative}/{file}" for file in files]
        return sorted(names)

    def delete(self, names: Sequence[str]) -> None:
        folders = set()
        for name in names:
            path = self._path(name)
            with _storage_errors("delete", self.uri, name), contextlib.suppress(FileNotFoundError):
                os.unlink(path)
                folders.add(os.path.dirname(path))
        for folder in folders:
            with contextlib.suppress(OSError):
                if os.path.dirname(folder) != self._folder:
                    os.rmdir(folder)  # only when it is empty

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, check_name(name))

    def _write_temporary(self, parts: Iterable[bytes | memoryview]) -> str:
        if not self._writable:
            _make_folder(self._temporary)
            self._remove_litter()
            self._seen = self._writable = True
        path = os.path.join(self._temporary, f"{os.getpid()}-{os.urandom(8).hex()}")
        try:
            with open(path, "xb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:  # also of `parts`: what is not whole is litter
            _unlink(path)
            raise
        return path

    def _into_folder(self, target: str, move: Callable[[], None]) -> None:
        """Run `move`, which makes `target`, with its folder there before and synced after."""
        folder = os.path.dirname(target)
        for last in [False] * (_TRIES - 1) + [True]:
            try:
                move()
                break
            except FileNotFoundError:
                if last:
                    raise
                _make_folder(folder)
        _sync_folder(folder)

    def _probe_link(self) -> bool:
        with _storage_errors("write", self.uri, _TEMPORARY):
            temporary = self._write_temporary([])
            linked = f"{temporary}-link"
            try:
                os.link(temporary, linked)
            except OSError:
                return False
            finally:
                _unlink(temporary)
                _unlink(linked)
            return True

    def _remove_litter(self) -> None:
        for entry in os.scandir(self._temporary):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - entry.stat().st_mtime > _LITTER_AGE_S:
                    os.unlink(entry.path)


@contextlib.contextmanager
def _storage_errors(action: str, uri: str, name: str) -> Iterator[None]:
    """OSErrors as StorageErrors that say which object; a missing one stays FileNotFoundError on reading."""
    try:
        yield
    except FileNotFoundError as error:
        if action == "read":
            raise FileNotFoundError(f"{uri}/{name}") from error
        raise StorageError(f"cannot {action} {name} in {uri}: {_reason(error)}; is the folder still there?") from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free some space" if full else "make the folder readable and writable, or give another --storage"
        raise StorageError(f"cannot {action} {name} in {uri}: {_reason(error)}; {advice}") from error


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _make_folder(folder: str, tries: int = _TRIES) -> None:
    """The folder and those above it, each durable in the one above. Others may be deleting empty ones at the same time."""
    above = os.path.dirname(folder)
    try:
        os.mkdir(folder)
    except FileExistsError:
        if not os.path.isdir(folder):
            raise NotADirectoryError(errno.ENOTDIR, "is a file, not a folder", folder) from None
        return
    except FileNotFoundError:
        if not tries:
            raise PermissionError(errno.EACCES, "takes no new folders", above) from None  # like /proc
        _make_folder(above)
        _make_folder(folder, tries - 1)
        return
    _sync_folder(above)


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
