"""One folder of a store as a store of its own: a savepoint is read and copied as if it were alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flinkray.checkpoint.base import CreateOutcome, ObjectStore
from flinkray.checkpoint.store import check_name, check_prefix


class FolderStore(ObjectStore):
    """Names are relative to `folder`, which ends with `/`. Closing it leaves the store below open."""

    def __init__(self, store: ObjectStore, folder: str) -> None:
        self._store = store
        self._folder = check_prefix(folder)

    @property
    def uri(self) -> str:
        return f"{self._store.uri}/{self._folder[:-1]}"

    @property
    def shared(self) -> bool:
        return self._store.shared

    @property
    def conditional_create(self) -> bool:
        return self._store.conditional_create

    def put(self, name: str, data: bytes | memoryview) -> None:
        self._store.put(self._name(name), data)

    def put_parts(self, name: str, parts: Iterable[bytes | memoryview]) -> None:
        self._store.put_parts(self._name(name), parts)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        return self._store.get(self._name(name), offset, length)

    def create(self, name: str, data: bytes) -> CreateOutcome:
        return self._store.create(self._name(name), data)

    def exists(self, name: str) -> bool:
        return self._store.exists(self._name(name))

    def list(self, prefix: str) -> list[str]:
        return [name[len(self._folder) :] for name in self._store.list(f"{self._folder}{prefix}")]

    def delete(self, names: Sequence[str]) -> None:
        self._store.delete([self._name(name) for name in names])

    def _name(self, name: str) -> str:
        return f"{self._folder}{check_name(name)}"
