"""Events that a JobManager's shell gives to the leadership core, and commands that it gives back. Plain values."""

from __future__ import annotations

from dataclasses import dataclass

from flinkray.core.journal_calls import JournalAnswer, JournalCall, JournalSilent, Recorded
from flinkray.core.journal_records import JournalEntry
from flinkray.core.journal_view import JournalView

# -- events (besides answers of the journal) --------------------------------------------------------------------------


@dataclass(frozen=True)
class Begin:
    """The process is up."""


@dataclass(frozen=True)
class Beat:
    """The leader of `election` has answered the open call, and leads."""

    election: int


@dataclass(frozen=True)
class WatchBroke:
    """The open call to the leader of `election` failed, or that process says that it does not lead."""

    election: int


@dataclass(frozen=True)
class Superseded:
    """A TaskManager obeys `election` and refuses this leader (which the journal may have lost)."""

    election: int
    reason: str


@dataclass(frozen=True)
class Append:
    """The leader wants this in the journal."""

    entry: JournalEntry


@dataclass(frozen=True)
class Waited:
    """Time has passed. Due at least every quarter of a lease."""


LeadershipEvent = Begin | Beat | WatchBroke | Superseded | Append | Waited | JournalAnswer | JournalSilent


# -- commands (besides calls of the journal, and `Recorded` for what was appended) ------------------------------------


@dataclass(frozen=True)
class Watch:
    """Keep a call open to `leader` (none to an earlier one): `Beat` whenever it answers, `WatchBroke` when it cannot be reached."""

    election: int
    leader: str


@dataclass(frozen=True)
class Lead:
    """Won: make a job core of `view`, with this token."""

    election: int
    token: str
    view: JournalView


@dataclass(frozen=True)
class StandDown:
    """Deposed: drop the job core and all that it has wanted; say and write nothing more."""

    election: int
    reason: str


@dataclass(frozen=True)
class LeaseChanged:
    """False: that this process still leads could not be confirmed for a lease; hold back what need not be. True: it could again."""

    held: bool


@dataclass(frozen=True)
class Leave:
    """The run has ended (`status`): this process is not needed any more."""

    status: str


LeadershipCommand = JournalCall | Recorded | Watch | Lead | StandDown | LeaseChanged | Leave
