"""Who leads a run, pure: one per JobManager process, `Leadership.step(event, now) -> commands` (docs/protocol.md, rules 7 to 9).

    READING --somebody leads--> STANDBY --its watch broke, or its lease is over--> READING (suspects that election)
       |                                                                              |
       +--nobody leads, or the suspect still does--> ELECTING --won--> LEADING --a foreign slot or snapshot,--> READING
       ^                                                |                        or a TaskManager of a newer epoch
       +------------------------lost--------------------+
    any: the journal says that the run has ended -> LEFT

An election is a put of `Elected` into the next slot of the journal: one candidate wins a slot. Whoever loses one, or is deposed, goes on
under a new token. Clocks decide only when to try: a standby that tries too early takes over a healthy leader's tasks without restarting
them, and the old leader's next record is refused. After a jump or a pause of its own clock a standby grants the leader a new lease.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum

from flinkray.core.journal import SNAPSHOT_INTERVAL, JournalCore
from flinkray.core.journal_calls import CaughtUp, JournalAnswer, JournalCommand, JournalSilent, Lost, Recorded
from flinkray.core.journal_records import Elected, RunEnded
from flinkray.core.journal_view import JournalView
from flinkray.core.leadership_events import (
    Append,
    Beat,
    Begin,
    Lead,
    LeadershipCommand,
    LeadershipEvent,
    LeaseChanged,
    Leave,
    StandDown,
    Superseded,
    Watch,
    WatchBroke,
)
from flinkray.errors import ProtocolError


class LeadershipState(Enum):
    READING = "reading"
    STANDBY = "standby"
    ELECTING = "electing"
    LEADING = "leading"
    LEFT = "left"


TRANSITIONS: dict[LeadershipState, frozenset[LeadershipState]] = {
    LeadershipState.READING: frozenset({LeadershipState.STANDBY, LeadershipState.ELECTING, LeadershipState.LEFT}),
    LeadershipState.STANDBY: frozenset({LeadershipState.READING, LeadershipState.LEFT}),
    LeadershipState.ELECTING: frozenset({LeadershipState.LEADING, LeadershipState.READING}),
    LeadershipState.LEADING: frozenset({LeadershipState.READING, LeadershipState.LEFT}),
    LeadershipState.LEFT: frozenset(),
}

CHECKS_PER_LEASE = 4
"""How often a leader looks whether it still leads, and half as often a standby reads the journal on."""


@dataclass
class Leadership:
    """`leader`: how others reach this process. `seed`: random, from the shell; tokens are derived from it. `lease_s`: seconds."""

    leader: str
    seed: str
    lease_s: float
    snapshot_interval: int = SNAPSHOT_INTERVAL
    may_begin: bool = True
    """It may be the first of the run. To everybody else an empty journal says that the run is over, and was deleted."""
    state: LeadershipState = LeadershipState.READING

    def __post_init__(self) -> None:
        self._candidacies = 0
        self.journal = JournalCore(self._new_token(), self.snapshot_interval)
        self.lease_held = True
        self._suspect: int | None = None
        """The election whose leader seems to be gone."""
        self._floor = 0
        """The highest election that was ever heard of."""
        self._own_tokens: set[str] = set()
        """Of elections that this process won."""
        self._watched = 0
        self._election = 0
        """The own one, when LEADING."""
        self._now = self._heard_at = self._renewed_at = self._asked_at = 0.0
        self._asking = False
        self._out: list[LeadershipCommand] = []

    @property
    def view(self) -> JournalView:
        return self.journal.view

    def step(self, event: LeadershipEvent, now: float) -> list[LeadershipCommand]:
        if self.state is LeadershipState.LEFT:
            return []
        self._out = []
        self._note_time(now)
        self._handle(event)
        self._advance()
        return self._out

    def check_invariants(self) -> None:
        """Raises ProtocolError when the state makes no sense; called by tests and the simulator after every step."""
        self.journal.check_invariants()
        if self.state is LeadershipState.LEADING and not self.journal.leads:
            raise ProtocolError("LEADING, but the journal's newest election is another's")
        if self.state in (LeadershipState.READING, LeadershipState.STANDBY) and self.journal.leads:
            raise ProtocolError(f"{self.state.value}, and writing as the leader")

    # -- events ---------------------------------------------------------------------------------------------------

    def _handle(self, event: LeadershipEvent) -> None:
        if isinstance(event, JournalAnswer | JournalSilent):
            self._take(self.journal.step(event))
        elif isinstance(event, Begin):
            self._read()
        elif isinstance(event, Beat):
            if event.election == self._watched:
                self._heard_at = self._now
                self._suspect = None
        elif isinstance(event, WatchBroke):
            if self.state is LeadershipState.STANDBY and event.election == self._watched:
                self._suspect_leader()
        elif isinstance(event, Superseded):
            self._floor = max(self._floor, event.election)
            if self.state is LeadershipState.LEADING:
                self._stand_down(event.reason)
        elif isinstance(event, Append) and self.state is LeadershipState.LEADING:  # else: wanted by a job core that was dropped since
            self._take(self.journal.append(event.entry))

    def _advance(self) -> None:
        """Whatever is due at this time in this state."""
        if self.state is LeadershipState.STANDBY:
            if self._now - self._heard_at > self.lease_s:
                self._suspect_leader()
            elif self._now - self._asked_at >= 2 * self.lease_s / CHECKS_PER_LEASE:
                self._read()
        elif self.state is LeadershipState.LEADING:
            if self._now - self._asked_at >= self.lease_s / CHECKS_PER_LEASE:
                self._read()
            if self.lease_held and self._now - self._renewed_at > self.lease_s:
                self.lease_held = False
                self._out.append(LeaseChanged(False))

    def _note_time(self, now: float) -> None:
        """A clock that jumped, or a process that slept, makes the leader not guilty: its lease begins anew. Looking is due at once."""
        if now < self._now or now - self._now > self.lease_s / 2:
            self._heard_at = now
            self._asked_at = now - self.lease_s
            self._renewed_at = min(self._renewed_at, now)
        self._now = now

    def _take(self, commands: list[JournalCommand]) -> None:
        for command in commands:
            if isinstance(command, CaughtUp):
                self._asking = False
                self._on_caught_up()
            elif isinstance(command, Recorded):
                self._on_recorded(command)
            elif isinstance(command, Lost):
                self._on_lost(command)
            else:
                self._out.append(command)

    # -- reading and standing by ----------------------------------------------------------------------------------

    def _read(self) -> None:
        """At most one read is wanted at a time."""
        if not self._asking:
            self._asking = True
            self._asked_at = self._now
            self._take(self.journal.read())

    def _on_caught_up(self) -> None:
        view = self.view
        self._floor = max(self._floor, view.election)
        if self.state is LeadershipState.LEADING:
            self._renew_lease()
        elif view.ended or (view.election == 0 and not self.may_begin):
            self._move(LeadershipState.LEFT)
            self._out.append(Leave(view.ended))
        elif self.state is LeadershipState.STANDBY:
            if view.election != self._watched:
                self._watch()
        elif view.election in (0, self._suspect) or view.token in self._own_tokens:
            self._move(LeadershipState.ELECTING)
            self._take(self.journal.append(Elected(self._floor + 1, self.leader)))
        else:
            self._move(LeadershipState.STANDBY)
            self._watch()

    def _watch(self) -> None:
        self._suspect = None
        self._watched = self.view.election
        self._heard_at = self._now
        self._out.append(Watch(self.view.election, self.view.leader))

    def _suspect_leader(self) -> None:
        self._suspect = self._watched
        self._move(LeadershipState.READING)
        self._read()

    # -- leading --------------------------------------------------------------------------------------------------

    def _on_recorded(self, recorded: Recorded) -> None:
        if isinstance(recorded.entry, Elected):
            self._move(LeadershipState.LEADING)
            self._own_tokens.add(self.journal.token)
            self._election = recorded.entry.election
            self._floor = max(self._floor, self._election)
            self._suspect = None
            self.lease_held = True
            self._renewed_at = self._asked_at = self._now
            self._out.append(Lead(self._election, self.journal.token, self.view))
            return
        self._out.append(recorded)
        if isinstance(recorded.entry, RunEnded):
            self._move(LeadershipState.LEFT)
            self._out.append(Leave(recorded.entry.status))

    def _renew_lease(self) -> None:
        self._renewed_at = self._asked_at
        if not self.lease_held and self._now - self._renewed_at <= self.lease_s:
            self.lease_held = True
            self._out.append(LeaseChanged(True))

    def _on_lost(self, lost: Lost) -> None:
        if self.state is LeadershipState.LEADING:
            self._stand_down(lost.reason)
        else:
            self._be_candidate()

    def _stand_down(self, reason: str) -> None:
        self._out.append(StandDown(self._election, reason))
        self._be_candidate()

    def _be_candidate(self) -> None:
        """Read on and stand by again, under a new token: what the old one may still have on its way is another's."""
        self.journal.renew(self._new_token())
        self._suspect = None
        self._asking = False
        self._move(LeadershipState.READING)
        self._read()

    def _new_token(self) -> str:
        self._candidacies += 1
        return hashlib.sha256(f"{self.seed}/{self._candidacies}".encode()).hexdigest()[:32]

    def _move(self, state: LeadershipState) -> None:
        if state not in TRANSITIONS[self.state]:
            raise ProtocolError(f"a JobManager that is {self.state.value} cannot become {state.value}")
        self.state = state
