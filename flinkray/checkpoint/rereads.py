"""Damage on the way is not damage in storage: what reads as damaged is read again, and believed when two reads in a row agree.

Deciding on one bad read is for ever: a sweep deletes what the unreadable manifest needs, a claim links to bytes that never stood there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from flinkray.errors import DamagedObjectError

MOST_READS = 5

T = TypeVar("T")


def settled(read: Callable[[], T], is_damaged: Callable[[T], bool]) -> T:
    """What `read` returns, as soon as it is sound or the same as before. Its errors pass."""
    result = read()
    for _ in range(MOST_READS - 1):
        if not is_damaged(result):
            break
        before, result = result, read()
        if result == before:
            break
    return result


def sound(read: Callable[[], T]) -> T:
    """What `read` returns. Raises its DamagedObjectError when the same comes twice in a row, or a last one."""
    said = ""
    for _ in range(MOST_READS - 1):
        try:
            return read()
        except DamagedObjectError as error:
            if str(error) == said:
                raise
            said = str(error)
    return read()
