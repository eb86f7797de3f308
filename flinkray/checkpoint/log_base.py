"""What a job's log of checkpoints is to the runtime, and the one place that decides which kind a store can hold."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from flinkray.checkpoint.base import ObjectStore
from flinkray.checkpoint.keys import DataKey, KeyProvider, KeyRing
from flinkray.checkpoint.manifest import Manifest
from flinkray.checkpoint.names import DATA_FOLDER, parse_data_object
from flinkray.core.storage_log import LogEntry, LogView
from flinkray.errors import ProtocolError


@dataclass(frozen=True)
class Claimed:
    """The application is this run's."""

    claim: int
    data_key: DataKey
    """Seals everything of this claim."""
    view: LogView
    """The log right before the claim: what there is to restore."""
    next_checkpoint: int
    next_attempt: int
    """Above every id found in storage, also of checkpoints that never completed."""


@dataclass(frozen=True)
class Appended:
    """The fate of a manifest: `complete`, or it never will stand, and `reason` says why."""

    complete: bool
    number: int
    name: str
    """Of the object: what a journal notes where only the journal orders manifests."""
    reason: str = ""


class CheckpointLog(ABC):
    """Reads and writes an application's log. Calls block on storage and are thread-safe: give them to an I/O thread."""

    def __init__(self, store: ObjectStore, application: str, provider: KeyProvider) -> None:
        self.store = store
        self.application = application
        self.ring = KeyRing(store, provider)
        self._claimed: Claimed | None = None

    @property
    @abstractmethod
    def fenced(self) -> bool:
        """False: another cluster cannot be kept out, and only the journal orders manifests."""

    @property
    def claim_number(self) -> int:
        """Raises ProtocolError before `claim`."""
        return self._owned().claim

    @property
    def data_key(self) -> DataKey:
        """Raises ProtocolError before `claim`."""
        return self._owned().data_key

    @abstractmethod
    def read(self, authenticate: bool = True) -> LogView:
        """The log as it stands. Raises StorageError when it cannot be read (never an empty view instead: rule 5), KeyUnavailableError when
        the key is another one. `authenticate=False` believes what needs no key: for a fresh start after the key was lost."""

    @abstractmethod
    def manifest(self, entry: LogEntry) -> Manifest:
        """The manifest of an entry of `read().manifests`. Raises DamagedObjectError naming the record."""

    @abstractmethod
    def claim(self, token: str, fresh: bool = False) -> Claimed:
        """Take the application over (rule 4); every later manifest of an older owner is refused. Raises StorageError, KeyUnavailableError.

        `fresh`: nothing is to be restored, so what is there need not be readable.
        """

    @abstractmethod
    def adopt(self, claim: int, data_key_id: str, token: str) -> Claimed:
        """Go on with a claim of this run under a new leader: no earlier leader of it can write to the log afterwards, and `view` has all that
        they wrote. Where the run has ended already, nothing is written. Raises DeposedError when the application is another claim's by
        now, StorageError, KeyUnavailableError.
        """

    @abstractmethod
    def append_manifest(
        self,
        manifest: Manifest,
        stop: threading.Event | None = None,
        on_trouble: Callable[[str], None] | None = None,
    ) -> Appended:
        """Write a manifest and wait until its fate is known, however long storage is away (rule 2).

        `on_trouble` gets a line about each failed try. Raises DeposedError; StorageError when `stop` is set while the fate is open.
        """

    @abstractmethod
    def append_ended(self, kind: str, timeout_s: float = 30.0) -> None:
        """Record that the run is over: FINISHED, CANCELLED or STOPPED. Raises DeposedError, StorageError."""

    @abstractmethod
    def numbers(self) -> list[int]:
        """Of all records there are, ascending."""

    @abstractmethod
    def name_of(self, number: int) -> str:
        """The object that a record is."""

    def forget(self, numbers: Iterable[int]) -> None:
        """These records have been deleted by retention."""
        del numbers  # a log that lists its records anew each time has nothing to forget

    def _owned(self) -> Claimed:
        if self._claimed is None:
            raise ProtocolError(f"{self.application} has not been claimed yet")
        return self._claimed

    def _ids_in_names(self) -> tuple[int, int]:
        """The highest checkpoint and attempt that any data object carries."""
        parsed = [name for name in map(parse_data_object, self.store.list(DATA_FOLDER)) if name is not None]
        return max((name.checkpoint for name in parsed), default=0), max((name.attempt for name in parsed), default=0)
