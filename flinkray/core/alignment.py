"""Barrier alignment, watermarks and the end of input of one task: which channels may be read, and what is due. Pure.

A task with several input channels snapshots when the barrier of a checkpoint has come through all of them; a channel whose barrier
has come is not read until then (exactly once). A barrier of a newer checkpoint ends the alignment of an older one (rule 12). Channels
that have ended still carry barriers, since a task at its end stays until the final checkpoint (rule 17).

Idle channels hold nobody back. Before a task becomes idle itself, because none of its channels counts any more, it advances to the
largest watermark that came through any of them: its siblings get the same watermarks, so none of them takes those downstream to a time
at which this task still holds rows back (Flink's StatusWatermarkValve does the same). Only the end of time is left out.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from flinkray.columns import MAX_WATERMARK, MIN_WATERMARK
from flinkray.errors import ProtocolError


@dataclass(frozen=True)
class TakeSnapshot:
    """Every barrier of `checkpoint` is in: capture the state, then forward the barrier."""

    checkpoint: int


@dataclass(frozen=True)
class AdvanceWatermark:
    us: int


@dataclass(frozen=True)
class BecomeIdle:
    """No input holds event time back or moves it: tell downstream to leave this task out."""


@dataclass(frozen=True)
class BecomeActive:
    """An idle task has something to say again: tell downstream to wait for it, before its first row arrives there."""


@dataclass(frozen=True)
class AllEnded:
    """The last input has ended."""


Action = TakeSnapshot | AdvanceWatermark | BecomeIdle | BecomeActive | AllEnded


class Alignment:
    """`on_...` take what a channel delivered and return what is due now, in order."""

    def __init__(self, channels: Sequence[Hashable]) -> None:
        self._watermarks: dict[Hashable, int] = dict.fromkeys(channels, MIN_WATERMARK)
        self._idle: set[Hashable] = set()
        self._ended: set[Hashable] = set()
        self._arrived: set[Hashable] = set()
        self._aligning: int | None = None
        self._settled = 0
        """Barriers at or below this are old news: taken, or given up."""
        self._watermark = MIN_WATERMARK
        self._highest = MIN_WATERMARK
        """Of any channel; the end of time does not count."""
        self._is_idle = False

    @property
    def aligning(self) -> int | None:
        """The checkpoint that is being aligned."""
        return self._aligning

    @property
    def watermark_us(self) -> int:
        return self._watermark

    def blocked(self, channel: Hashable) -> bool:
        """True when the channel must not be read now."""
        return self._aligning is not None and channel in self._arrived

    def ended(self, channel: Hashable) -> bool:
        return channel in self._ended

    def on_barrier(self, channel: Hashable, checkpoint: int) -> list[Action]:
        if channel in self._arrived:
            raise ProtocolError(f"a blocked channel {channel} was read")
        if checkpoint <= self._settled or (self._aligning is not None and checkpoint < self._aligning):
            return []
        if self._aligning != checkpoint:
            self._aligning = checkpoint
            self._arrived.clear()
        self._arrived.add(channel)
        if len(self._arrived) < len(self._watermarks):
            return []
        self._finish(checkpoint)
        return [TakeSnapshot(checkpoint)]

    def abort(self, checkpoint: int) -> None:
        """Stop waiting for the barriers of `checkpoint`; those that still come are passed over."""
        if self._aligning is not None and self._aligning <= checkpoint:
            self._arrived.clear()
            self._aligning = None
        self._settled = max(self._settled, checkpoint)

    def on_watermark(self, channel: Hashable, us: int, idle: bool) -> list[Action]:
        if channel in self._ended:
            return []
        if idle:
            self._idle.add(channel)
        else:
            self._idle.discard(channel)
            self._watermarks[channel] = max(self._watermarks[channel], us)
            if us != MAX_WATERMARK:
                self._highest = max(self._highest, us)
        return self._progress()

    def on_rows(self, channel: Hashable) -> list[Action]:
        """Rows make an idle channel, and an idle task, count again."""
        self._idle.discard(channel)
        return self._wake()

    def on_end(self, channel: Hashable) -> list[Action]:
        if channel in self._ended:
            return []
        self._ended.add(channel)
        self._idle.discard(channel)
        if len(self._ended) == len(self._watermarks):
            return [AllEnded()]
        return self._progress()

    def check_invariants(self) -> None:
        """Raises ProtocolError when the state makes no sense; called by tests and the simulator after every step."""
        if self._arrived and self._aligning is None:
            raise ProtocolError("channels are blocked and no checkpoint is being aligned")
        if self._aligning is not None and self._aligning <= self._settled:
            raise ProtocolError(f"aligning checkpoint {self._aligning}, settled already up to {self._settled}")
        if self._arrived and len(self._arrived) == len(self._watermarks):
            raise ProtocolError("all channels are blocked for ever")

    def _finish(self, checkpoint: int) -> None:
        self._arrived.clear()
        self._aligning = None
        self._settled = checkpoint

    def _progress(self) -> list[Action]:
        counting = [us for channel, us in self._watermarks.items() if channel not in self._idle and channel not in self._ended]
        if not counting:
            return self._become_idle()
        smallest = min(counting)
        if smallest == MAX_WATERMARK and self._idle:
            return (
                self._wake()
            )  # the end of time leaves nobody out: what an idle task still holds comes with its own end, and would be late
        return [*self._wake(), *self._advance(smallest)]

    def _become_idle(self) -> list[Action]:
        if self._is_idle or not self._idle:
            return []
        self._is_idle = True
        return [*self._advance(self._highest), BecomeIdle()]

    def _wake(self) -> list[Action]:
        if not self._is_idle:
            return []
        self._is_idle = False
        return [BecomeActive()]

    def _advance(self, us: int) -> list[Action]:
        if us <= self._watermark:
            return []
        self._watermark = us
        return [AdvanceWatermark(us)]
