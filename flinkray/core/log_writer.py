"""How one writer appends to the storage log, pure (docs/protocol.md, rules 1 to 4): `LogWriter.step(event) -> commands`.

    IDLE --Want--> CREATING --Created, or taken by oneself--> CONFIRMING --nothing above--> IDLE, Confirmed
                      |                                            |
                      | Doubtful (a manifest)                      +--something above--> DEPOSED
                      v                                            |
                   VOIDING --void or manifest stands there---------+--nothing above, a void--> IDLE, Voided
                      |
                      +--somebody else's record stands there--> DEPOSED          (from CREATING, too)

A Claim or Ended in doubt is simply put again: it is wanted either way. A manifest in doubt is not, since the checkpoint must have a fate
before anything is rolled back: the void ends the wait, whichever of the two stands (rule 2). One put is outstanding at most, always at
the same number.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from flinkray.core.log_records import Draft, Link, RecordKind
from flinkray.errors import ProtocolError

# -- events ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Want:
    """Append this record."""

    draft: Draft


@dataclass(frozen=True)
class Created:
    """What CreateAt asked for stands at `number`, with these bytes."""

    number: int
    digest: str


@dataclass(frozen=True)
class Taken:
    """Another record stands at `number`; `token` is empty when it cannot be read."""

    number: int
    token: str
    digest: str


@dataclass(frozen=True)
class Doubtful:
    """The put at `number` has no answer: it may have happened, or may still."""

    number: int


@dataclass(frozen=True)
class Listed:
    """The numbers above `number` that exist."""

    number: int
    above: tuple[int, ...]


@dataclass(frozen=True)
class ListFailed:
    number: int


LogEvent = Want | Created | Taken | Doubtful | Listed | ListFailed


# -- commands ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CreateAt:
    """Create `draft` at `number` if absent. `again`: an earlier put had no answer; wait a little first."""

    number: int
    parent: Link | None
    draft: Draft
    again: bool = False


@dataclass(frozen=True)
class ListAbove:
    number: int
    again: bool = False


@dataclass(frozen=True)
class Confirmed:
    """The wanted record stands at `number` and counts."""

    number: int


@dataclass(frozen=True)
class Voided:
    """The wanted record will never stand; a void does."""

    number: int


@dataclass(frozen=True)
class Deposed:
    """Another owner's record was met at or above `number`: what this writer wanted counts for nothing, now and later."""

    number: int


LogCommand = CreateAt | ListAbove | Confirmed | Voided | Deposed


class WriterState(Enum):
    IDLE = "idle"
    CREATING = "creating"
    VOIDING = "voiding"
    CONFIRMING = "confirming"
    DEPOSED = "deposed"


@dataclass
class LogWriter:
    """Appends after `last`, the newest record known. An event that does not fit raises ProtocolError and changes nothing."""

    last: Link | None
    state: WriterState = WriterState.IDLE
    _draft: Draft | None = None
    _standing: Link | None = None
    _standing_is_void: bool = False

    @property
    def number(self) -> int:
        """The number that is being, or will next be, written."""
        return self.last.number + 1 if self.last else 1

    def step(self, event: LogEvent) -> list[LogCommand]:
        if isinstance(event, Want):
            return self._on_want(event.draft)
        if event.number != self.number:
            raise ProtocolError(f"{event} is not about number {self.number}")
        if isinstance(event, Created) and self.state in (WriterState.CREATING, WriterState.VOIDING):
            return self._stands(event.number, event.digest, void=self.state is WriterState.VOIDING)
        if isinstance(event, Taken) and self.state in (WriterState.CREATING, WriterState.VOIDING):
            return self._on_taken(event)
        if isinstance(event, Doubtful) and self.state in (WriterState.CREATING, WriterState.VOIDING):
            return self._on_doubtful()
        if isinstance(event, Listed) and self.state is WriterState.CONFIRMING:
            return self._on_listed(event)
        if isinstance(event, ListFailed) and self.state is WriterState.CONFIRMING:
            return [ListAbove(self.number, again=True)]
        raise ProtocolError(f"a log writer that is {self.state.value} cannot take {event}")

    @property
    def in_doubt(self) -> bool:
        """A record was put and its fate is not known yet."""
        return self.state in (WriterState.CREATING, WriterState.VOIDING, WriterState.CONFIRMING)

    def _on_want(self, draft: Draft) -> list[LogCommand]:
        if self.state is WriterState.DEPOSED:
            return [Deposed(self.number)]
        if self.state is not WriterState.IDLE:
            raise ProtocolError(f"a log writer that is {self.state.value} cannot take another record: one put at most is outstanding")
        self.state = WriterState.CREATING
        self._draft = draft
        return [CreateAt(self.number, self.last, draft)]

    def _on_taken(self, event: Taken) -> list[LogCommand]:
        assert self._draft is not None
        if event.token == self._draft.token:
            return self._stands(event.number, event.digest, void=False)
        if self.state is WriterState.VOIDING and event.token == self._void().token:
            return self._stands(event.number, event.digest, void=True)
        return self._depose()

    def _on_doubtful(self) -> list[LogCommand]:
        assert self._draft is not None
        if self._draft.kind is RecordKind.MANIFEST:
            self.state = WriterState.VOIDING
            return [CreateAt(self.number, self.last, self._void(), again=True)]
        return [CreateAt(self.number, self.last, self._draft, again=True)]

    def _stands(self, number: int, digest: str, void: bool) -> list[LogCommand]:
        self.state = WriterState.CONFIRMING
        self._standing = Link(number, digest)
        self._standing_is_void = void
        return [ListAbove(number)]

    def _on_listed(self, event: Listed) -> list[LogCommand]:
        if event.above:
            return self._depose()
        self.state = WriterState.IDLE
        self.last = self._standing
        return [Voided(event.number) if self._standing_is_void else Confirmed(event.number)]

    def _depose(self) -> list[LogCommand]:
        self.state = WriterState.DEPOSED
        return [Deposed(self.number)]

    def _void(self) -> Draft:
        """The void of the wanted record: always the same, so that its own earlier try is known by its token."""
        assert self._draft is not None
        return replace(self._draft, kind=RecordKind.VOID, token=f"void-{self._draft.token}")
