"""Up to which checkpoint the sinks of each slot have committed, and those of all. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping


class Commits(Mapping[int, int]):
    """The newest committed checkpoint by slot. `by_all` costs the number of different ones, which is two or three, not that of slots."""

    def __init__(self) -> None:
        self._by_slot: dict[int, int] = {}
        self._slots_at: Counter[int] = Counter()

    def __getitem__(self, slot: int) -> int:
        return self._by_slot[slot]

    def __iter__(self) -> Iterator[int]:
        return iter(self._by_slot)

    def __len__(self) -> int:
        return len(self._by_slot)

    def note(self, slot: int, checkpoint: int) -> None:
        """Commits are cumulative: an older one changes nothing."""
        before = self._by_slot.get(slot)
        if before is not None:
            if checkpoint <= before:
                return
            self._slots_at[before] -= 1
            if not self._slots_at[before]:
                del self._slots_at[before]
        self._by_slot[slot] = checkpoint
        self._slots_at[checkpoint] += 1

    def by_all(self, slots: int) -> int:
        """Up to which every one of so many slots has committed; 0 while one of them has said nothing."""
        return min(self._slots_at) if self._by_slot and len(self._by_slot) == slots else 0

    def clear(self) -> None:
        self._by_slot.clear()
        self._slots_at.clear()
