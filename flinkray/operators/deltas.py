"""When a snapshot may be a delta, and what must be in it.

State is stamped with the current generation when it changes; every snapshot closes a generation. A delta on top of a base holds
what was changed after the generation that the base closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from flinkray.state.arrow_memory import rows_of

_LONGEST_CHAIN = 64
_WASTE_FACTOR = 2


@dataclass(frozen=True)
class _Taken:
    generation: int
    chunks: int
    rows: int


class DeltaHistory:
    """The snapshots of one named state on which a delta may still build."""

    def __init__(self) -> None:
        self.generation = 1
        """Stamp for what changes now; 0 is for what was restored."""
        self._taken: dict[int, _Taken] = {}

    def restored(self, checkpoint_id: int | None, *chains: Sequence[pa.Table]) -> None:
        """State went on from this subtask's own chains: a delta may build on it. (Its chunks may be the parts of one full snapshot.)"""
        if checkpoint_id is not None:
            self._taken[checkpoint_id] = _Taken(0, min(sum(map(len, chains)), _LONGEST_CHAIN // 2), sum(map(rows_of, chains)))

    def changed_since(self, base_id: int | None) -> int | None:
        """Things with a generation above this one changed since the base. None: there is no delta on it.

        Bases never go back: snapshots older than `base_id` are forgotten, all of them when there is no base.
        """
        if base_id is None or base_id not in self._taken:
            self._taken = {}
            return None
        self._taken = {taken: value for taken, value in self._taken.items() if taken >= base_id}
        return self._taken[base_id].generation

    @property
    def oldest(self) -> int:
        """No delta will ask for changes at or below this generation."""
        return min((taken.generation for taken in self._taken.values()), default=self.generation)

    def worth_a_delta(self, base_id: int, rows: int, live_rows: int) -> bool:
        """False when a chain with `rows` more would be too long, or mostly rows that later ones have replaced."""
        base = self._taken[base_id]
        return base.chunks < _LONGEST_CHAIN and base.rows + rows <= _WASTE_FACTOR * live_rows + 1024

    def close(self, checkpoint_id: int, rows: int, base_id: int | None) -> None:
        """A snapshot of `rows` was taken, as a delta on `base_id` or in full; what changes now is newer."""
        base = self._taken[base_id] if base_id is not None else _Taken(0, 0, 0)
        self._taken[checkpoint_id] = _Taken(self.generation, base.chunks + (rows > 0), base.rows + rows)
        self.generation += 1
