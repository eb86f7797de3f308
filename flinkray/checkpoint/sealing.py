"""Sealing: what is written to storage can be read and changed by nobody without the data key.

    header  = magic, salt (16 bytes), raw size (uint64)
    segment = word (uint32: stored size, top bit: lz4, the bit below: zstd), AES-256-GCM of up to 1 MiB of raw bytes

1 MiB segments, since AES-GCM runs at several GB/s there and at a third of that on whole chunks. Each seal has a key of its own, derived
from the data key and the salt, so nonces are plain segment numbers and never meet. The associated data of each segment binds the caller's
context (origin, object, place in it), the header, the segment's number, its word, and whether it is the last: a swapped, truncated
or reordered object is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Literal

import pyarrow as pa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from flinkray.errors import DamagedObjectError
from flinkray.regions import LARGE_BYTES, Region

SEGMENT_BYTES = 1 << 20
KEY_BYTES = 32

_MAGIC = b"FRS1"
_SALT_BYTES = 16
_TAG_BYTES = 16
_HEADER = struct.Struct(f"<4s{_SALT_BYTES}sQ")
_WORD = struct.Struct("<I")
_PLACE = struct.Struct("<I?I")
_LZ4, _ZSTD = 1 << 31, 1 << 30
_FLAGS = _LZ4 | _ZSTD
_MAX_RATIO = 256
"""lz4 cannot pack more than 255 bytes into one, and where zstd does, lz4 is taken: a header that says so is damaged, and must not make us allocate."""

Compression = Literal["lz4", "zstd"]
"""lz4 for checkpoints, which are written all the time; zstd for savepoints, which are kept."""


def seal(data_key: bytes, aad: bytes, raw: bytes | memoryview | pa.Buffer, compress: Compression | None = "lz4") -> bytes:
    """`raw` packed, encrypted and authenticated together with `aad`. Segments that do not shrink are stored as they are."""
    return _sealed(data_key, aad, raw, compress, os.urandom(_SALT_BYTES))


def _sealed(data_key: bytes, aad: bytes, raw: bytes | memoryview | pa.Buffer, compress: Compression | None, salt: bytes) -> bytes:
    """`salt`: never the same twice under a data key; given by test vectors only."""
    view = memoryview(raw).cast("B")
    return b"".join(_sealed_parts(data_key, aad, view.nbytes, [view], compress, salt))


def seal_parts(
    data_key: bytes, aad: bytes, raw_bytes: int, raw: Iterable[bytes | memoryview], compress: Compression | None = "lz4"
) -> Iterator[bytes]:
    """What `seal` gives, piece by piece, of `raw_bytes` bytes that come in pieces of any size. Only a segment and a piece are in memory."""
    return _sealed_parts(data_key, aad, raw_bytes, raw, compress, os.urandom(_SALT_BYTES))


def _sealed_parts(
    data_key: bytes, aad: bytes, raw_bytes: int, raw: Iterable[bytes | memoryview], compress: Compression | None, salt: bytes
) -> Iterator[bytes]:
    header = _HEADER.pack(_MAGIC, salt, raw_bytes)
    cipher = AESGCM(_derived_key(data_key, header))
    yield header
    for index, (word, segment, bound) in enumerate(_packed_segments(header, aad, raw_bytes, raw, compress)):
        yield _WORD.pack(word)
        yield cipher.encrypt(_nonce(index), segment, bound)


def seal_whole(
    data_key: bytes, aad: bytes, raw_bytes: int, raw: Iterable[bytes | memoryview], compress: Compression | None = "lz4"
) -> bytes | memoryview:
    """The same in one piece. Where it is large, segments are encrypted to where they stay: a large object copied once more costs more than encrypting it,
    since fresh memory does."""
    region = (
        Region.of_bytes(_HEADER.size + raw_bytes + _segments(raw_bytes) * (_WORD.size + _TAG_BYTES)) if raw_bytes >= LARGE_BYTES else None
    )
    if region is None:
        return b"".join(seal_parts(data_key, aad, raw_bytes, raw, compress))
    header = _HEADER.pack(_MAGIC, os.urandom(_SALT_BYTES), raw_bytes)
    cipher = AESGCM(_derived_key(data_key, header))
    sealed, end = memoryview(region), _HEADER.size
    sealed[:end] = header
    for index, (word, segment, bound) in enumerate(_packed_segments(header, aad, raw_bytes, raw, compress)):
        start = end + _WORD.size
        sealed[end:start] = _WORD.pack(word)
        end = start + len(segment) + _TAG_BYTES
        cipher.encrypt_into(_nonce(index), segment, bound, sealed[start:end])
    return sealed[:end].toreadonly()


def _packed_segments(
    header: bytes, aad: bytes, raw_bytes: int, raw: Iterable[bytes | memoryview], compress: Compression | None
) -> Iterator[tuple[int, memoryview, bytes]]:
    """(word, what is encrypted, what it is bound to) of each segment; good until the next."""
    context, count, feed = _context(header, aad), _segments(raw_bytes), _Feed(raw)
    for index in range(count):
        size = min(SEGMENT_BYTES, raw_bytes - index * SEGMENT_BYTES)
        segment = feed.take(size)
        if len(segment) != size:
            raise ValueError(f"{raw_bytes} bytes to seal were announced, fewer came")
        word = size
        if compress is not None:
            packed, flag = _packed(segment, compress)
            if packed.nbytes < size:
                segment, word = packed, packed.nbytes | flag
        yield word, segment, context + _PLACE.pack(index, index == count - 1, word)


def unseal(data_key: bytes, aad: bytes, sealed: bytes | memoryview, object_name: str) -> bytes:
    """What `seal` was given.

    Raises DamagedObjectError naming `object_name` unless every byte is as it was sealed under this key and `aad`.
    """
    return b"".join(unseal_parts(data_key, aad, memoryview(sealed).nbytes, [sealed], object_name))


def unseal_parts(
    data_key: bytes, aad: bytes, sealed_bytes: int, sealed: Iterable[bytes | memoryview], object_name: str
) -> Iterator[bytes | memoryview]:
    """What `seal` was given, a segment at a time, of `sealed_bytes` bytes that come in pieces of any size. Each segment that comes is authentic and in its
    place; that it is all is known after the last. Raises as `unseal` does."""
    feed = _Feed(sealed)
    header = bytes(feed.take(_HEADER.size))
    if len(header) < _HEADER.size:
        raise DamagedObjectError(object_name, f"it is truncated: {len(header)} bytes")
    magic, _, raw_bytes = _HEADER.unpack(header)
    if magic != _MAGIC:
        raise DamagedObjectError(object_name, "it does not begin like a sealed object")
    if raw_bytes > _MAX_RATIO * sealed_bytes:
        raise DamagedObjectError(object_name, f"{sealed_bytes} bytes cannot hold the {raw_bytes} its header speaks of")
    cipher = AESGCM(_derived_key(data_key, header))
    context = _context(header, aad)
    count = _segments(raw_bytes)
    for index, (word, stored) in enumerate(_stored_segments(feed, count, object_name)):
        bound = context + _PLACE.pack(index, index == count - 1, word)
        try:
            segment = cipher.decrypt(_nonce(index), stored, bound)
        except InvalidTag:
            raise DamagedObjectError(
                object_name, f"segment {index} is not authentic (changed, moved, or sealed for another place)"
            ) from None
        yield _unpacked(segment, word, min(SEGMENT_BYTES, raw_bytes - index * SEGMENT_BYTES), object_name)


def _stored_segments(feed: _Feed, count: int, object_name: str) -> Iterator[tuple[int, memoryview]]:
    for index in range(count):
        begin = feed.take(_WORD.size)
        word = _WORD.unpack(begin)[0] if len(begin) == _WORD.size else 0
        size = (word & ~_FLAGS) + _TAG_BYTES
        stored = feed.take(min(size, SEGMENT_BYTES + _TAG_BYTES + 1))  # a word that lies must not make us read much
        if len(begin) < _WORD.size or len(stored) != size:
            raise DamagedObjectError(object_name, f"it ends within segment {index} of {count}")
        yield word, stored
    more = len(feed.take(1 << 20))
    if more:
        raise DamagedObjectError(object_name, f"{'at least ' if more == 1 << 20 else ''}{more} bytes follow its last segment")


class _Feed:
    """Bytes that come in pieces, taken in others."""

    def __init__(self, pieces: Iterable[bytes | memoryview]) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")

    def take(self, size: int) -> memoryview:
        """So many bytes, fewer at the end; without a copy where one piece has them."""
        if len(self._rest) >= size:
            taken, self._rest = self._rest[:size], self._rest[size:]
            return taken
        parts, missing = [self._rest], size - len(self._rest)
        self._rest = memoryview(b"")
        while missing > 0 and (piece := next(self._pieces, None)) is not None:
            view = memoryview(piece).cast("B")
            parts.append(view[:missing])
            missing, self._rest = missing - len(parts[-1]), view[missing:]
        full = [part for part in parts if len(part)]
        return full[0] if len(full) == 1 else memoryview(b"".join(full))


def _unpacked(segment: bytes, word: int, raw_bytes: int, object_name: str) -> bytes | memoryview:
    if not word & _FLAGS:
        return segment
    try:
        return memoryview(_codec("lz4" if word & _LZ4 else "zstd").decompress(segment, raw_bytes)).cast("B")
    except (OSError, pa.ArrowInvalid) as error:
        raise DamagedObjectError(object_name, f"a segment does not unpack: {error}") from error


def _packed(segment: memoryview, compress: Compression) -> tuple[memoryview, int]:
    """The packed segment, and the flag that says by what."""
    packed = memoryview(_codec(compress).compress(segment)).cast("B")
    if compress == "zstd" and packed.nbytes * (_MAX_RATIO - 1) < len(segment):
        return _packed(segment, "lz4")
    return packed, _LZ4 if compress == "lz4" else _ZSTD


def _segments(raw_bytes: int) -> int:
    """At least one: an empty content is authenticated, too."""
    return max(1, -(-raw_bytes // SEGMENT_BYTES))


def _nonce(index: int) -> bytes:
    return index.to_bytes(12, "big")


def _context(header: bytes, aad: bytes) -> bytes:
    return hashlib.sha256(header + aad).digest()


def _derived_key(data_key: bytes, header: bytes) -> bytes:
    """HKDF-SHA256 with one block of output (RFC 5869), the header with its salt as info."""
    if len(data_key) != KEY_BYTES:
        raise ValueError(f"a data key has {KEY_BYTES} bytes, not {len(data_key)}")
    extracted = hmac.digest(b"flinkray sealing 1", data_key, "sha256")
    return hmac.digest(extracted, header + b"\x01", "sha256")


@lru_cache(maxsize=2)
def _codec(compression: Compression) -> Any:
    return pa.Codec("lz4_raw") if compression == "lz4" else pa.Codec("zstd", compression_level=3)
