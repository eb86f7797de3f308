"""Many small queued batches become one: large batches under load, small ones (low latency) when idle."""

from __future__ import annotations

import pyarrow as pa

from flinkray.errors import ProtocolError
from flinkray.exchange.base import Batch, InputChannel


def coalesce(channel: InputChannel, max_rows: int) -> Batch:
    """Pop the next batch and those right behind it while they have at most `max_rows` rows together.

    A batch of more than half of that is passed through untouched. `channel.peek()` must be a batch.
    """
    first = channel.pop()
    if not isinstance(first, Batch):
        raise ProtocolError(f"coalesce on channel {channel.id}: {first!r} is no batch")
    rows = first.data.num_rows
    if rows * 2 > max_rows:
        return first
    parts = [first.data]
    while isinstance(following := channel.peek(), Batch) and rows + following.data.num_rows <= max_rows:
        channel.pop()
        rows += following.data.num_rows
        parts.append(following.data)
    return first if len(parts) == 1 else Batch(pa.concat_batches(parts))
