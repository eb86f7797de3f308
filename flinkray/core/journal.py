"""How one process reads and writes a run's journal of write-once slots, pure (docs/protocol.md, rule 7): wants and answers in, calls out.

    IDLE --read--> LISTING -> LOADING -> READING -> VERIFYING --> IDLE, CaughtUp
      |                ^                                 | a snapshot has overtaken the reader: from the start
      |                +---------------------------------+
      +--append--> PUTTING -> CONFIRMING --> IDLE, Recorded         (now and then by way of SNAPSHOTTING)
                      |            | a snapshot covers the slot
                      | a foreign record stands there
                      +------------+--> DEPOSED, Lost

One put is outstanding, never two; in doubt the same slot is tried again until it is occupied, and what is in it is true. `snapshot/<n>`
is the fold of all slots below n, write-once as well. Only slots below the last snapshot but one are deleted: so a put of a frozen writer
may stand at a freed slot, and a slow reader may meet it. Both look at the snapshots AFTER the slot: where one covers what they wrote, or
the last but one is above where they began to read, it counts for nothing. There is no pointer to the newest snapshot that could be stale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from typing import Any

from flinkray.core.journal_calls import (
    CaughtUp,
    Forget,
    GetSlot,
    GetSnapshot,
    JournalAnswer,
    JournalCall,
    JournalCommand,
    JournalSilent,
    ListSnapshots,
    Lost,
    Operation,
    PutSlot,
    PutSnapshot,
    Recorded,
)
from flinkray.core.journal_records import Elected, JournalEntry, JournalFormatError, JournalRecord, decode_record, encode_record
from flinkray.core.journal_view import JournalView, decode_view, encode_view
from flinkray.errors import ProtocolError

SNAPSHOT_INTERVAL = 128
"""Records between two snapshots: a reader has at most twice as many slots to read."""


class JournalState(Enum):
    IDLE = "idle"
    LISTING = "listing"
    LOADING = "loading"
    READING = "reading"
    VERIFYING = "verifying"
    PUTTING = "putting"
    CONFIRMING = "confirming"
    SNAPSHOTTING = "snapshotting"
    DEPOSED = "deposed"


class JournalCore:
    """`read`, `append` and `step(answer)` return commands. An answer to a call that is not the outstanding one counts for nothing."""

    def __init__(self, token: str, interval: int = SNAPSHOT_INTERVAL) -> None:
        self.token = token
        self.interval = interval
        self.view = JournalView()
        self.state = JournalState.IDLE
        self._began = False
        """The first read, from the newest snapshot, is done or under way."""
        self._start = 0
        """Where this round of reading began."""
        self._read_wanted = False
        self._waiting: list[JournalEntry] = []
        self._putting: JournalRecord | None = None
        self._snapshots: tuple[int, ...] = ()
        self._last: JournalRecord | None = None
        """The own record that stands at the last slot."""
        self._number = 0
        self._call: JournalCall | None = None
        self._forgetting: JournalCall | None = None

    @property
    def leads(self) -> bool:
        """The newest election that is known here is this token's, and nobody has been met since."""
        return self.state is not JournalState.DEPOSED and self.view.token == self.token

    def read(self) -> list[JournalCommand]:
        """Read on to the end; for a writer, make sure that nobody else has written."""
        self._read_wanted = True
        return self._go_on()

    def append(self, entry: JournalEntry) -> list[JournalCommand]:
        """Write `entry` after those already wanted. Only after a first `CaughtUp`."""
        if self.state is JournalState.DEPOSED:
            raise ProtocolError("a deposed writer of the journal writes nothing")
        self._waiting.append(entry)
        return self._go_on()

    def renew(self, token: str) -> None:
        """Be a candidate again, under a token that was never used."""
        if token == self.token:
            raise ProtocolError("a new candidacy needs a new token")
        self.token = token
        self.state = JournalState.IDLE
        self._waiting.clear()
        self._read_wanted = False
        self._putting = self._last = self._call = None

    def step(self, answer: JournalAnswer | JournalSilent) -> list[JournalCommand]:
        if self._forgetting is not None and answer.number == self._forgetting.number:
            return self._on_forgotten(answer)
        call = self._call
        if call is None or answer.number != call.number:
            return []
        if isinstance(answer, JournalSilent):
            return self._on_silent(call)
        handle: dict[JournalState, Callable[[Any], list[JournalCommand]]] = {
            JournalState.LISTING: self._on_listed,
            JournalState.LOADING: self._on_loaded,
            JournalState.READING: self._on_read,
            JournalState.VERIFYING: self._on_verified,
            JournalState.PUTTING: self._on_put,
            JournalState.CONFIRMING: self._on_confirmed,
            JournalState.SNAPSHOTTING: self._on_snapshot,
        }
        try:
            return handle[self.state](answer.result)
        except JournalFormatError:
            return self._again(call)  # what was read is damaged: read it once more

    def check_invariants(self) -> None:
        """Raises ProtocolError when the state makes no sense; called by tests and the simulator after every step."""
        quiet = self.state in (JournalState.IDLE, JournalState.DEPOSED)
        if quiet != (self._call is None):
            raise ProtocolError(f"a journal that is {self.state.value} and has {self._call} outstanding")
        if (self._putting is not None) != (self.state in (JournalState.PUTTING, JournalState.CONFIRMING)):
            raise ProtocolError(f"a journal that is {self.state.value} and has {self._putting} on its way")
        if self.state is JournalState.DEPOSED and self._waiting:
            raise ProtocolError("a deposed writer still wants to write")

    # -- reading --------------------------------------------------------------------------------------------------

    def _on_listed(self, snapshots: tuple[int, ...]) -> list[JournalCommand]:
        highest = max(snapshots, default=0)
        if highest > self.view.slots:
            return self._ask(JournalState.LOADING, GetSnapshot(highest))
        self._start = self.view.slots
        return self._ask(JournalState.READING, GetSlot(self.view.slots))

    def _on_loaded(self, value: bytes | None) -> list[JournalCommand]:
        if value is None:  # a newer one has replaced it meanwhile
            return self._ask(JournalState.LISTING, ListSnapshots())
        self.view = decode_view(value)
        self._start = self.view.slots
        return self._ask(JournalState.READING, GetSlot(self.view.slots))

    def _on_read(self, value: bytes | None) -> list[JournalCommand]:
        assert self._call is not None
        slot = self._call.operation.slot if isinstance(self._call.operation, GetSlot) else self.view.slots
        if slot < self.view.slots:  # a writer looks at its own last record first
            if value is None or decode_record(value) != self._last:
                return self._lose(slot, "this leader's last record is not there any more: the journal went back in time")
            return self._ask(JournalState.READING, GetSlot(self.view.slots))
        if value is None:
            return self._ask(JournalState.VERIFYING, ListSnapshots())
        record = decode_record(value)
        if self.leads:
            return self._lose(slot, "another leader has written to the journal")
        self.view = self.view.after(record)
        return self._ask(JournalState.READING, GetSlot(self.view.slots))

    def _on_verified(self, snapshots: tuple[int, ...]) -> list[JournalCommand]:
        """Slots at or above the last snapshot but one were never deleted: what was read there is what was written."""
        newest = sorted(snapshots)[-2:]
        if self.leads:
            if newest and newest[-1] > self.view.slots:
                return self._lose(self.view.slots, "a snapshot of another leader covers the next slot")
        elif (newest and newest[-1] > self.view.slots) or (len(newest) == 2 and newest[0] > self._start):
            self.view = JournalView()
            return self._ask(JournalState.LISTING, ListSnapshots())
        self._rest()
        return [CaughtUp(), *self._go_on()]

    # -- writing --------------------------------------------------------------------------------------------------

    def _on_put(self, value: bytes | None) -> list[JournalCommand]:
        assert self._call is not None
        if value is None:
            return self._again(self._call)
        if decode_record(value) != self._putting:
            return self._lose(self.view.slots, f"slot {self.view.slots} of the journal was won by another")
        return self._ask(JournalState.CONFIRMING, ListSnapshots())

    def _on_confirmed(self, snapshots: tuple[int, ...]) -> list[JournalCommand]:
        slot = self.view.slots
        if max(snapshots, default=0) > slot:
            return self._lose(slot, f"a snapshot covers slot {slot}, which had been freed")
        assert self._putting is not None
        self._last, self._putting = self._putting, None
        self.view = self.view.after(self._last)
        self._snapshots = snapshots
        recorded = Recorded(self._last.entry, slot)
        if self.view.slots - max(snapshots, default=0) >= self.interval:
            return [recorded, *self._ask(JournalState.SNAPSHOTTING, PutSnapshot(self.view.slots, encode_view(self.view)))]
        self._rest()
        return [recorded, *self._go_on()]

    def _on_snapshot(self, result: None) -> list[JournalCommand]:
        """It stands, so the one before is now the last but one."""
        self._rest()
        before = max(self._snapshots, default=0)
        out: list[JournalCommand] = []
        if before > self.view.kept_from and self._forgetting is None:
            self._number += 1
            old = tuple(sorted(number for number in self._snapshots if number < before))
            self._forgetting = JournalCall(self._number, Forget(self.view.kept_from, before, old))
            out.append(self._forgetting)
        return [*out, *self._go_on()]

    def _on_forgotten(self, answer: JournalAnswer | JournalSilent) -> list[JournalCommand]:
        """Without an answer they are deleted with the next ones."""
        assert self._forgetting is not None
        operation = self._forgetting.operation
        assert isinstance(operation, Forget)
        self._forgetting = None
        if isinstance(answer, JournalAnswer) and self.view.slots >= operation.stop:
            self.view = replace(self.view, kept_from=max(self.view.kept_from, operation.stop))
        return []

    # -- calls ----------------------------------------------------------------------------------------------------

    def _go_on(self) -> list[JournalCommand]:
        if self.state is not JournalState.IDLE:
            return []
        if self._read_wanted:
            self._read_wanted = False
            return self._begin_read()
        if not self._waiting:
            return []
        if not self._began:
            raise ProtocolError("a journal is read before it is written")
        self._putting = JournalRecord(self.token, self._waiting.pop(0))
        if isinstance(self._putting.entry, Elected) == self.leads:
            raise ProtocolError(f"{self._putting.entry} by a writer that {'leads' if self.leads else 'does not lead'}")
        return self._ask(JournalState.PUTTING, PutSlot(self.view.slots, encode_record(self._putting)))

    def _begin_read(self) -> list[JournalCommand]:
        if not self._began:
            self._began = True
            return self._ask(JournalState.LISTING, ListSnapshots())
        self._start = self.view.slots
        if self.leads and self._last is not None:
            return self._ask(JournalState.READING, GetSlot(self.view.slots - 1))
        return self._ask(JournalState.READING, GetSlot(self.view.slots))

    def _ask(self, state: JournalState, operation: Operation) -> list[JournalCommand]:
        self.state = state
        self._number += 1
        self._call = JournalCall(self._number, operation)
        return [self._call]

    def _again(self, call: JournalCall) -> list[JournalCommand]:
        self._number += 1
        self._call = replace(call, number=self._number, again=True)
        return [self._call]

    def _on_silent(self, call: JournalCall) -> list[JournalCommand]:
        if self.state is not JournalState.SNAPSHOTTING:
            return self._again(call)
        self._rest()  # the next record brings the next try, at a later slot; should this one land late, it is true all the same
        return self._go_on()

    def _lose(self, slot: int, reason: str) -> list[JournalCommand]:
        if self.leads or self.state is JournalState.CONFIRMING:  # what was read is not all there any more: begin from the newest snapshot
            self.view = JournalView()
            self._began = False
        self._rest()
        self.state = JournalState.DEPOSED
        self._waiting.clear()
        self._putting = None
        self._read_wanted = False
        return [Lost(slot, reason)]

    def _rest(self) -> None:
        self.state = JournalState.IDLE
        self._call = None
