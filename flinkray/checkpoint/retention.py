"""What may be deleted, pure (docs/protocol.md, rules 3, 16 and 18).

Kept are the newest `retained` checkpoints, every one that a checkpoint in flight may refer to or that the job may go back to, and all
between: the log stays in one piece from its newest record, which is never deleted, down to the oldest kept manifest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from flinkray.checkpoint.names import parse_data_object, parse_wrapped_key


@dataclass(frozen=True)
class Kept:
    """What a complete checkpoint needs."""

    number: int
    """Of its manifest in the log."""
    checkpoint: int
    object_names: frozenset[str]
    data_keys: frozenset[str]


@dataclass(frozen=True)
class Found:
    """What lies in storage."""

    log: Mapping[int, str]
    """Data key id by the number of each record; empty where the record cannot be read."""
    data: Sequence[str]
    keys: Sequence[str]


@dataclass(frozen=True)
class Deletions:
    """In this order, so that no manifest ever stands whose objects are gone."""

    log: tuple[int, ...] = ()
    data: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sweeper:
    """Who sweeps."""

    claim: int
    data_key: str
    own_only: bool = False
    """Leave alone what other claims wrote: without fencing they may be alive."""


def plan(
    manifests: Iterable[Kept],
    retained: int,
    complete: int,
    in_flight: Mapping[int, int | None],
    found: Found,
    sweeper: Sweeper,
    wanted: Collection[int] = (),
) -> Deletions:
    """What `sweeper` may delete.

    `complete` is the newest complete checkpoint, `in_flight` has the base of each checkpoint that is not settled. `wanted` are kept
    however old they are: after a restore of an older checkpoint the newest of the log are not those that the job goes back to.
    """
    if retained < 1:
        raise ValueError(f"retained {retained} is under 1")
    newest_first = sorted(manifests, key=lambda manifest: manifest.number, reverse=True)
    named = {base for base in in_flight.values() if base is not None} | set(wanted)
    needed = [manifest for rank, manifest in enumerate(newest_first) if rank < retained or manifest.checkpoint in named]
    if not needed:
        return Deletions()
    floor = min(manifest.number for manifest in needed)
    kept = [manifest for manifest in newest_first if manifest.number >= floor]
    newest = max(found.log, default=0)
    log = tuple(sorted(number for number in found.log if number < floor and number != newest))
    objects = frozenset().union(*(manifest.object_names for manifest in kept))
    keys = frozenset({sweeper.data_key}).union(*(manifest.data_keys for manifest in kept))
    keys |= {data_key for number, data_key in found.log.items() if number >= floor}
    return Deletions(
        log,
        tuple(name for name in found.data if name not in objects and _data_is_garbage(name, complete, in_flight, sweeper)),
        tuple(name for name in found.keys if _key_is_garbage(name, keys, sweeper)),
    )


def _data_is_garbage(name: str, complete: int, in_flight: Mapping[int, int | None], sweeper: Sweeper) -> bool:
    """Rule 16, of an object that nothing refers to.

    A newer owner's is not ours to judge; one's own may still be on its way into a manifest.
    """
    parsed = parse_data_object(name)
    if parsed is None or parsed.claim > sweeper.claim:
        return False
    if parsed.claim < sweeper.claim:
        return not sweeper.own_only
    return parsed.checkpoint <= complete and parsed.checkpoint not in in_flight


def _key_is_garbage(name: str, needed: frozenset[str], sweeper: Sweeper) -> bool:
    """A claim writes its key before its record: keys of newer claims are left alone."""
    parsed = parse_wrapped_key(name)
    if parsed is None or parsed.data_key_id in needed or parsed.claim > sweeper.claim:
        return False
    return parsed.claim == sweeper.claim or not sweeper.own_only
