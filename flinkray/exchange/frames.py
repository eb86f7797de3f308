"""Frames between slots: a fixed header, and for batches and schemas a body, the Arrow IPC message.

A ZeroMQ message is one or more headers in its first part, and in its second part the body of the last of them. So watermarks, credits
and keep-alives to one peer share a message with each other and with the batch that follows them.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from enum import IntEnum
from typing import NamedTuple

from flinkray.errors import ProtocolError
from flinkray.exchange.base import Barrier, ChannelId

_HEADER = struct.Struct("<2sBB16sQqq16s16s")
_PLACE = struct.Struct("<IIIHH")

HEADER_BYTES = _HEADER.size

_MAGIC = b"fr"
_VERSION = 1

TOKEN_BYTES = 16


class Kind(IntEnum):
    BATCH = 1
    SCHEMA = 2
    WATERMARK = 3
    IDLE_WATERMARK = 4
    BARRIER = 5
    END = 6
    CREDIT = 7
    PING = 8
    """Numbered keep-alive of the mailbox thread: shows that nothing before it was lost."""
    BEAT = 9
    """Unnumbered keep-alive of the beat thread: shows that the process lives while a long batch is at work."""


class Header(NamedTuple):
    kind: int
    place: bytes
    """The channel, as `place` packs it. For CREDIT it is the channel's own direction, not the frame's."""
    attempt: int
    sequence: int
    value: int
    """Watermark in microseconds, packed barrier, or bytes of credit."""
    sender: bytes
    token: bytes


_ID_BITS = 30
_NO_BASE = (1 << _ID_BITS) - 1


def pack_barrier(barrier: Barrier) -> int:
    """A barrier as a header's value: two ids of 30 bits and the flags `store` and `last`. Raises ProtocolError when an id does not fit."""
    base = _NO_BASE if barrier.base is None else barrier.base
    if not (0 <= barrier.checkpoint < _NO_BASE and 0 <= base <= _NO_BASE):
        raise ProtocolError(f"{barrier} has an id beyond {_ID_BITS} bits")
    return barrier.checkpoint | base << _ID_BITS | int(barrier.store) << 2 * _ID_BITS | int(barrier.last) << 2 * _ID_BITS + 1


def unpack_barrier(value: int) -> Barrier:
    base = value >> _ID_BITS & _NO_BASE
    flags = value >> 2 * _ID_BITS
    return Barrier(value & _NO_BASE, None if base == _NO_BASE else base, bool(flags & 1), bool(flags & 2))


NO_PLACE = bytes(_PLACE.size)


def place(channel: ChannelId) -> bytes:
    """The channel as it stands in a header."""
    source, target = channel.source, channel.target
    return _PLACE.pack(channel.edge, source.vertex, target.vertex, source.subtask, target.subtask)


def instance_bytes(instance: str) -> bytes:
    """The 16 bytes of an instance id. Raises ProtocolError when it is not 32 hexadecimal digits."""
    try:
        raw = bytes.fromhex(instance)
    except ValueError:
        raw = b""
    if len(raw) != 16:
        raise ProtocolError(f"instance id {instance!r} is not 32 hexadecimal digits")
    return raw


def token(secret: bytes, sender: bytes, receiver: bytes) -> bytes:
    """What shows that the sender knows the job's secret; bound to the two ends, so that it serves nowhere else."""
    return hmac.new(secret, b"flinkray channel" + sender + receiver, hashlib.sha256).digest()[:TOKEN_BYTES]


def header(kind: Kind, place: bytes, attempt: int, sequence: int, value: int, sender: bytes, proof: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, _VERSION, kind, place, attempt, sequence, value, sender, proof)


def headers(part: bytes) -> list[Header]:
    """The headers in the first part of a message. Raises ProtocolError on anything else."""
    if not part or len(part) % HEADER_BYTES:
        raise ProtocolError(f"a frame of {len(part)} bytes is no flinkray frame")
    found = []
    for magic, version, *fields in _HEADER.iter_unpack(part):
        if magic != _MAGIC or version != _VERSION:
            raise ProtocolError(f"a frame with mark {magic!r}, version {version}, is none of flinkray's version {_VERSION}")
        found.append(Header(*fields))
    return found
