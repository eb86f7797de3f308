"""`memory://`: objects of this process only, for notebooks and tests. Nothing survives the process."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from flinkray.checkpoint.base import CreateOutcome, ObjectStore
from flinkray.checkpoint.store import check_name, check_prefix

_LOCK = threading.Lock()
_OBJECTS: dict[str, dict[str, bytes]] = {}


class MemoryStore(ObjectStore):
    """All stores of one root see the same objects, as those of one folder would."""

    def __init__(self, root: str) -> None:
        self._root = root
        with _LOCK:
            self._objects = _OBJECTS.setdefault(root, {})

    @property
    def uri(self) -> str:
        return f"memory://{self._root}"

    @property
    def shared(self) -> bool:
        return False

    @property
    def conditional_create(self) -> bool:
        return True

    def put(self, name: str, data: bytes | memoryview) -> None:
        with _LOCK:
            self._objects[check_name(name)] = bytes(data)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        with _LOCK:
            data = self._objects.get(check_name(name))
        if data is None:
            raise FileNotFoundError(f"{self.uri}/{name}")
        return data[offset:] if length is None else data[offset : offset + length]

    def create(self, name: str, data: bytes) -> CreateOutcome:
        with _LOCK:
            standing = self._objects.setdefault(check_name(name), bytes(data))
        return CreateOutcome.CREATED if standing == data else CreateOutcome.TAKEN

    def exists(self, name: str) -> bool:
        with _LOCK:
            return check_name(name) in self._objects

    def list(self, prefix: str) -> list[str]:
        with _LOCK:
            return sorted(name for name in self._objects if name.startswith(check_prefix(prefix)))

    def delete(self, names: Sequence[str]) -> None:
        with _LOCK:
            for name in names:
                self._objects.pop(check_name(name), None)


def forget(root: str) -> None:
    """Drop every object below `memory://<root>`: tests that share a process start afresh."""
    with _LOCK:
        for known, objects in _OBJECTS.items():
            if known == root or known.startswith(f"{root}/"):
                objects.clear()
