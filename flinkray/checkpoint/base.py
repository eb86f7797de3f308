"""Values that checkpoints are made of, and the abstract object store they lie in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal


@dataclass(frozen=True)
class ChunkRef:
    """Where one sealed chunk lies. Goes into acknowledgements and manifests; JSON-able through `to_json`/`from_json` in manifest.py."""

    object_name: str
    """Relative to the application's prefix, e.g. `data/c1-k7-a2-<instance>-0.1`."""
    offset: int
    sealed_bytes: int
    raw_bytes: int
    digest: str
    """SHA-256 of the sealed bytes, hex."""
    data_key: str
    """Id of the data key that sealed it."""
    origin: str
    """`application/claim` that wrote it: bound in the associated data (rule 18)."""
    checkpoint: int
    operator_uid: str
    state_name: str
    kind: Literal["keyed", "list"]
    full: bool
    rows: int
    key_group_start: int
    key_group_stop: int


class CreateOutcome(Enum):
    CREATED = "created"
    """This call (or an earlier try of it: same bytes) made the object."""
    TAKEN = "taken"
    """Somebody else's object stands there."""


class ObjectStore(ABC):
    """Objects under one prefix. Names are relative, with `/`. Raises StorageError, in bounded time, saying which object and what to do.

    Thread-safe. `create` is the protocol's primitive (rule 6): atomically all or nothing, exactly one winner among racing processes.
    """

    @property
    @abstractmethod
    def uri(self) -> str: ...

    @property
    @abstractmethod
    def shared(self) -> bool:
        """Other processes see it (False: memory://)."""

    @property
    @abstractmethod
    def conditional_create(self) -> bool:
        """False when the store was probed and overwrites in spite of If-None-Match."""

    @abstractmethod
    def put(self, name: str, data: bytes | memoryview) -> None: ...

    def put_parts(self, name: str, parts: Iterable[bytes | memoryview]) -> None:
        """`put` of bytes that come in pieces: stores of large objects have only some of them in memory. All or nothing: an error of `parts` leaves nothing
        at the name. Pieces may be asked for once only."""
        self.put(name, b"".join(parts))

    @abstractmethod
    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Raises FileNotFoundError when it is not there."""

    @abstractmethod
    def create(self, name: str, data: bytes) -> CreateOutcome:
        """Create if absent. On a doubtful answer reads back: TAKEN only when other bytes stand there."""

    @abstractmethod
    def exists(self, name: str) -> bool: ...

    @abstractmethod
    def list(self, prefix: str) -> list[str]:
        """Names under `prefix` (a folder, ends with `/`), recursively, sorted."""

    @abstractmethod
    def delete(self, names: Sequence[str]) -> None:
        """Missing ones are fine."""

    def close(self) -> None:
        """Release connections; the objects stay."""
