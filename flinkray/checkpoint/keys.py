"""Keys: a provider holds the key that wraps data keys; data keys seal what is stored and lie wrapped beside it.

A run makes one data key with its claim and seals everything of that claim with it (each seal derives a key of its own, see sealing).
Wrapped, it is the write-once object `keys/<data key>/<key id>`; a second key id beside it is a rotation (rule 18).
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field

from flinkray.checkpoint.base import CreateOutcome, ObjectStore
from flinkray.checkpoint.names import KEYS_FOLDER, parse_wrapped_key, wrapped_key_name
from flinkray.checkpoint.sealing import KEY_BYTES
from flinkray.errors import KeyUnavailableError, StorageError


@dataclass(frozen=True)
class DataKey:
    """A key that seals objects. Travels between processes over the authenticated channel only (rule 18)."""

    key_id: str
    """Begins with `c<claim>-`: a sweep leaves keys of newer claims alone."""
    secret: bytes = field(repr=False)


class DataKeyLostError(KeyUnavailableError):
    """A wrapped data key that is missing or damaged in storage: only what it sealed is lost, the provider's key may be right."""


class KeyProvider(ABC):
    """Wraps and unwraps data keys with a key that never lies in checkpoint storage."""

    @property
    @abstractmethod
    def key_id(self) -> str:
        """Names the key without telling it; equal for equal keys."""

    @property
    @abstractmethod
    def description(self) -> str:
        """Where the key comes from, for messages."""

    @abstractmethod
    def wrap(self, data_key: DataKey) -> bytes: ...

    @abstractmethod
    def unwrap(self, data_key_id: str, wrapped: bytes) -> DataKey:
        """Raises DataKeyLostError when `wrapped` is not what this key wrapped."""


class KeyRing:
    """The data keys of one application's storage, as one provider opens them. Thread-safe."""

    def __init__(self, store: ObjectStore, provider: KeyProvider) -> None:
        self._store = store
        self.provider = provider
        self._known: dict[str, DataKey] = {}
        self._lock = threading.Lock()

    def create(self, claim: int) -> DataKey:
        """A fresh data key for `claim`, wrapped and durable in storage before it is returned."""
        data_key = DataKey(f"c{claim}-{os.urandom(16).hex()}", os.urandom(KEY_BYTES))
        self.add(data_key)
        return data_key

    def add(self, data_key: DataKey) -> None:
        """A data key of other storage, wrapped and durable in this one before it returns: for what is copied as it is."""
        _store_wrapped(self._store, self.provider, data_key)
        with self._lock:
            self._known[data_key.key_id] = data_key

    def get(self, data_key_id: str) -> DataKey:
        """Raises KeyUnavailableError, naming the keys that would open it, when the provider's is none of them, and DataKeyLostError when
        none would."""
        with self._lock:
            known = self._known.get(data_key_id)
        if known is None:
            known = self.provider.unwrap(data_key_id, self._read_wrapped(data_key_id))
            with self._lock:
                self._known[data_key_id] = known
        return known

    def get_all(self, data_key_ids: Iterable[str]) -> dict[str, DataKey]:
        return {data_key_id: self.get(data_key_id) for data_key_id in data_key_ids}

    def _read_wrapped(self, data_key_id: str) -> bytes:
        try:
            return self._store.get(wrapped_key_name(data_key_id, self.provider.key_id))
        except FileNotFoundError:
            pass
        names = [parse_wrapped_key(name) for name in self._store.list(f"{KEYS_FOLDER}{data_key_id}/")]
        others = sorted(name.key_id for name in names if name is not None)
        if not others:
            raise DataKeyLostError(
                f"data key {data_key_id} is not in {self._store.uri}: {KEYS_FOLDER}{data_key_id}/ was deleted; "
                "what it sealed cannot be read any more"
            )
        raise KeyUnavailableError(
            f"{self._store.uri} is sealed with key {', '.join(others)}, but {self.provider.description} is key {self.provider.key_id}: "
            "give the key it was written with (Checkpointing(key=...) or FLINKRAY_KEY); without it nothing in there can be read"
        )


def rewrap(store: ObjectStore, old: KeyProvider, new: KeyProvider) -> int:
    """Wrap every data key for `new` as well, beside the old wrapping; returns how many were added. Repeating it is safe."""
    ring = KeyRing(store, old)
    missing = [data_key_id for data_key_id, key_ids in wrappings(store).items() if new.key_id not in key_ids]
    for data_key_id in missing:
        _store_wrapped(store, new, ring.get(data_key_id))
    return len(missing)


def wrappings(store: ObjectStore) -> dict[str, set[str]]:
    """By data key, the ids of the keys that open it."""
    found: dict[str, set[str]] = {}
    for name in store.list(KEYS_FOLDER):
        parsed = parse_wrapped_key(name)
        if parsed is not None:
            found.setdefault(parsed.data_key_id, set()).add(parsed.key_id)
    return found


def drop_wrappings(store: ObjectStore, old_key_id: str, new: KeyProvider) -> int:
    """Delete what `old_key_id` wrapped, of data keys that `new` was seen to open; returns how many. Afterwards the old key opens nothing here."""
    ring = KeyRing(store, new)
    both = [data_key_id for data_key_id, key_ids in wrappings(store).items() if {old_key_id, new.key_id} <= key_ids]
    ring.get_all(both)
    store.delete([wrapped_key_name(data_key_id, old_key_id) for data_key_id in both])
    return len(both)


def _store_wrapped(store: ObjectStore, provider: KeyProvider, data_key: DataKey) -> None:
    name = wrapped_key_name(data_key.key_id, provider.key_id)
    wrapped = provider.wrap(data_key)
    if not store.conditional_create:
        store.put(name, wrapped)  # the name is random, nobody else writes it
    elif store.create(name, wrapped) is CreateOutcome.TAKEN and not _opens(store.get(name), provider, data_key):
        raise StorageError(f"another key stands at {name} in {store.uri}; nothing was written over it")


def _opens(wrapped: bytes, provider: KeyProvider, data_key: DataKey) -> bool:
    """A wrapping is random: two of one key differ in bytes and are both good."""
    try:
        return provider.unwrap(data_key.key_id, wrapped) == data_key
    except KeyUnavailableError:
        return False
