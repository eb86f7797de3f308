"""Whether a peer's frames are all there and whether it lives (rule 23). Pure: the caller gives the time, in seconds.

Frames to one peer are numbered over all channels, so that a keep-alive, which carries the next number as well, shows that the last
frame before it was lost even when no other follows.
"""

from __future__ import annotations


class SequenceCheck:
    """Numbers of the frames that came from one peer in one attempt: 0, 1, 2, ..."""

    __slots__ = ("expected",)

    def __init__(self) -> None:
        self.expected = 0

    def accept(self, sequence: int) -> str | None:
        """None when `sequence` is the next one, else what is wrong."""
        if sequence == self.expected:
            self.expected += 1
            return None
        if sequence > self.expected:
            return f"gap: frame {sequence} came where {self.expected} was expected"
        return f"repeat: frame {sequence} came again, {self.expected} was expected"


class PeerLiveness:
    """When a peer was heard last, and when it must hear from us.

    Silence counts from the peer's first frame, or from the first element sent to it: a deployment may take long, and nothing is sent
    before all tasks are ready.
    """

    def __init__(self, timeout_s: float, now_s: float) -> None:
        self._timeout_s = timeout_s
        self._heard_s: float | None = None
        self._sent_s = now_s

    def heard(self, now_s: float) -> None:
        self._heard_s = now_s

    def sent(self, now_s: float) -> None:
        self._sent_s = now_s

    def expect(self, now_s: float) -> None:
        """From now on the peer has to be heard."""
        if self._heard_s is None:
            self._heard_s = now_s

    def absent(self, since_s: float, now_s: float) -> None:
        """We did not listen from `since_s` to `now_s` (a long batch, a stopped process): what was on its way gets half a timeout more."""
        if self._heard_s is not None and now_s - since_s > self._timeout_s / 2:
            self._heard_s = max(self._heard_s, now_s - self._timeout_s / 2)

    def silence(self, now_s: float) -> str | None:
        """What is wrong when nothing was heard for the timeout."""
        if self._heard_s is None or now_s - self._heard_s <= self._timeout_s:
            return None
        return f"silence: no frame, credit or keep-alive for {now_s - self._heard_s:.1f} s"

    def ping_due(self, now_s: float) -> bool:
        """Nothing was sent for a quarter of the timeout."""
        return now_s - self._sent_s >= self._timeout_s / 4
