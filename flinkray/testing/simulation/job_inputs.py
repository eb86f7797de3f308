"""What the simulator's own jobs read: bids 0.1 s apart, in small splits."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc

from flinkray.connectors.base import Split
from flinkray.connectors.memory import MemorySource
from flinkray.connectors.nexmark import NexmarkSource

ROWS = 120
RATE = 250.0
SPLITS = 8


class SmallSplits(MemorySource):
    """Rows in memory, in eight splits however few they are: both readers have some, and begin new ones on the way."""

    splits = SPLITS

    def _splits(self, event_time_column: str | None, parallelism: int) -> list[Split]:
        rows = self.table.num_rows
        splits = []
        for start, stop in pairwise(rows * i // self.splits for i in range(self.splits + 1)):
            first_us = None
            if event_time_column is not None:
                first_us = pc.min(self.table.column(event_time_column).slice(start, stop - start).cast(pa.int64())).as_py()
            splits.append(Split(f"rows-{start}-{stop}", {"start": start, "stop": stop}, first_us, stop - start))
        return splits


class OneSplit(SmallSplits):
    """All rows for one reader: the others are idle until they end."""

    splits = 1


@cache
def bids_of(seed: int, rows: int, rate: float | None, kind: type[SmallSplits] = SmallSplits) -> SmallSplits:
    """Bids 0.1 s apart."""
    reader = NexmarkSource("bid", rows=rows, seed=seed, interval="100ms")
    split = reader.enumerator(None, None, 1).discover()[0]
    batch = reader.open_split(split, None).read(rows)
    assert batch is not None
    return kind(batch, rate=rate, max_skew=None)
