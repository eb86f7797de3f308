"""Key groups: the unit in which keyed state is placed, snapshotted and moved when the parallelism changes."""

from __future__ import annotations

from flinkray.ids import KeyGroupRange

HASH_VERSION = 1
"""Of the hash from keys to key groups (`state/key_hash.py`), which is part of the state format. Here, where no kernel has to be loaded to
know it."""


def key_group_range(max_parallelism: int, parallelism: int, subtask: int) -> KeyGroupRange:
    """Key groups of one subtask: contiguous ranges whose sizes differ by one at most (as in Apache Flink)."""
    start = (subtask * max_parallelism + parallelism - 1) // parallelism
    stop = ((subtask + 1) * max_parallelism + parallelism - 1) // parallelism
    return KeyGroupRange(start, stop)


def subtask_of(group: int, max_parallelism: int, parallelism: int) -> int:
    """The subtask that owns a key group: the inverse of `key_group_range`."""
    return group * parallelism // max_parallelism
