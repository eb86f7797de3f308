"""Checkpoint coordination, pure: when to trigger, who has answered, what is complete, what is still to be committed.

One checkpoint at a time. It is PENDING until every slot has acknowledged, then WRITING until its manifest's fate is known; only then is
it complete (rule 1), and Notify goes out until every slot has committed (rule 14).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flinkray.core.messages import Acknowledged
from flinkray.errors import ProtocolError

HISTORY_LIMIT = 100


@dataclass(frozen=True)
class CheckpointPolicy:
    interval_s: float | None
    min_pause_s: float
    timeout_s: float
    store: bool
    """False: nothing is stored; a checkpoint only prepares the sinks at the end."""


@dataclass
class Pending:
    checkpoint: int
    base: int | None
    attempt: int
    started_at: float
    final: bool
    acks: dict[int, Acknowledged] = field(default_factory=dict)
    writing: bool = False
    """All acknowledged; the manifest is on its way to storage."""


@dataclass(frozen=True)
class CompletedCheckpoint:
    """What the status and later triggers need of a complete checkpoint."""

    checkpoint: int
    attempt: int
    completed_at: float
    duration_ms: float
    sync_ms: float
    written_bytes: int
    final: bool


@dataclass
class CheckpointCoordinator:
    policy: CheckpointPolicy
    slots: int
    next_id: int
    pending: Pending | None = None
    latest: int | None = None
    """Newest complete checkpoint: where a restart goes back to."""
    base: int | None = None
    """Newest complete checkpoint of which the running tasks know the chunks: what deltas may refer to."""
    completed: int = 0
    failed: int = 0
    trouble: str = ""
    """Why the last checkpoint could not be stored; empty once one could."""
    history: list[CompletedCheckpoint] = field(default_factory=list)
    _last_end: float | None = None
    _last_start: float | None = None

    def due(self, now: float, all_ended: bool, wanted: bool = False) -> bool:
        """True when a checkpoint should be triggered now. At the end of all inputs, or when one is wanted, it is due at once."""
        if self.pending is not None:
            return False
        if all_ended or wanted:
            return self._last_end is None or now - self._last_end >= self._retry_pause()
        if self.policy.interval_s is None or not self.policy.store:
            return False
        since_start = now - self._last_start if self._last_start is not None else None
        since_end = now - self._last_end if self._last_end is not None else None
        return (since_start is None or since_start >= self.policy.interval_s) and (
            since_end is None or since_end >= self.policy.min_pause_s
        )

    def run_started(self, now: float) -> None:
        """All tasks of an attempt run: the first checkpoint comes one interval from now."""
        self._last_start = now
        self._last_end = None
        self._failures_in_a_row = 0

    def begin(self, attempt: int, now: float, final: bool) -> Pending:
        if self.pending is not None:
            raise ProtocolError(f"checkpoint {self.pending.checkpoint} is still pending")
        self.pending = Pending(self.next_id, self.base, attempt, now, final)
        self.next_id += 1
        self._last_start = now
        return self.pending

    def acknowledge(self, attempt: int, ack: Acknowledged) -> bool:
        """Count one slot's answer; True when it was the last one and the manifest is to be written."""
        pending = self.pending
        if pending is None or pending.checkpoint != ack.checkpoint or pending.attempt != attempt or pending.writing:
            return False
        pending.acks[ack.slot] = ack
        if len(pending.acks) < self.slots:
            return False
        pending.writing = True
        return True

    def adopt(self, checkpoint: int, attempt: int, acks: dict[int, Acknowledged], now: float) -> Pending:
        """All slots have acknowledged it to an earlier leader: only its manifest is missing."""
        if self.pending is not None:
            raise ProtocolError(f"checkpoint {self.pending.checkpoint} is still pending")
        self.pending = Pending(checkpoint, self.latest, attempt, now, False, acks, writing=True)
        self.next_id = max(self.next_id, checkpoint + 1)
        return self.pending

    def timed_out(self, now: float) -> bool:
        return self.pending is not None and not self.pending.writing and now - self.pending.started_at > self.policy.timeout_s

    def give_up(self, now: float) -> int | None:
        """Abort what is pending (not when its manifest is being written: that is resolved first, rule 2). Returns its id."""
        if self.pending is None or self.pending.writing:
            return None
        checkpoint = self.pending.checkpoint
        self._end(now, ok=False)
        return checkpoint

    def written(self, checkpoint: int, complete: bool, now: float) -> CompletedCheckpoint | None:
        """The fate of a manifest is known. Returns the completed checkpoint, or None when it failed."""
        pending = self.pending
        if pending is None or not pending.writing or pending.checkpoint != checkpoint:
            raise ProtocolError(f"the manifest of checkpoint {checkpoint} was not awaited")
        if not complete:
            self._end(now, ok=False)
            return None
        acks = pending.acks.values()
        done = CompletedCheckpoint(
            checkpoint,
            pending.attempt,
            now,
            (now - pending.started_at) * 1e3,
            max((ack.sync_ms for ack in acks), default=0.0),
            sum(ack.written_bytes for ack in acks),
            pending.final,
        )
        self.latest = self.base = checkpoint
        self.trouble = ""
        self.history = [*self.history[-HISTORY_LIMIT + 1 :], done]
        self._end(now, ok=True)
        return done

    def restored(self, checkpoint: int | None) -> None:
        """A new attempt starts from `checkpoint`: its tasks know the chunks of that one only."""
        self.base = checkpoint

    def check_invariants(self) -> None:
        if self.pending is not None and self.latest is not None and self.pending.checkpoint <= self.latest:
            raise ProtocolError(f"checkpoint {self.pending.checkpoint} is pending, {self.latest} is complete")
        if self.latest is not None and self.latest >= self.next_id:
            raise ProtocolError(f"checkpoint {self.latest} is complete, the next id would be {self.next_id}")

    _failures_in_a_row: int = 0

    def _end(self, now: float, ok: bool) -> None:
        self.pending = None
        self._last_end = now
        if ok:
            self.completed += 1
            self._failures_in_a_row = 0
        else:
            self.failed += 1
            self._failures_in_a_row += 1

    def _retry_pause(self) -> float:
        """A final checkpoint that failed is tried again after a pause that grows, ten seconds at most."""
        return min(10.0, 0.1 * 2.0**self._failures_in_a_row) if self._failures_in_a_row else 0.0

    def latest_status(self, now: float) -> dict[str, Any]:
        """The `checkpoints` part of `status --json`."""
        last = self.history[-1] if self.history else None
        return {
            "completed": self.completed,
            "failed": self.failed,
            "latest_id": self.latest,
            "latest_duration_ms": round(last.duration_ms, 1) if last else None,
            "latest_sync_ms": round(last.sync_ms, 2) if last else None,
            "latest_bytes": last.written_bytes if last else None,
            "latest_age_ms": round((now - last.completed_at) * 1e3) if last else None,
        }
