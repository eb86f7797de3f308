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
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Literal

import pyarrow as pa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from flinkray.errors import DamagedObjectError

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
    header = _HEADER.pack(_MAGIC, salt, view.nbytes)
    cipher = AESGCM(_derived_key(data_key, header))
    context = _context(header, aad)
    count = _segments(view.nbytes)
    parts = [header]
    for index in range(count):
        segment = view[index * SEGMENT_BYTES : (index + 1) * SEGMENT_BYTES]
        word = len(segment)
        if compress is not None:
            packed, flag = _packed(segment, compress)
            if packed.nbytes < len(segment):
                segment, word = packed, packed.nbytes | flag
        bound = context + _PLACE.pack(index, index == count - 1, word)
        parts += [_WORD.pack(word), cipher.encrypt(_nonce(index), segment, bound)]
    return b"".join(parts)


def unseal(data_key: bytes, aad: bytes, sealed: bytes | memoryview, object_name: str) -> bytes:
    """What `seal` was given.

    Raises DamagedObjectError naming `object_name` unless every byte is as it was sealed under this key and `aad`.
    """
    view = memoryview(sealed)
    if view.nbytes < _HEADER.size:
        raise DamagedObjectError(object_name, f"it is truncated: {view.nbytes} bytes")
    header = bytes(view[: _HEADER.size])
    magic, _, raw_bytes = _HEADER.unpack(header)
    if magic != _MAGIC:
        raise DamagedObjectError(object_name, "it does not begin like a sealed object")
    if raw_bytes > _MAX_RATIO * view.nbytes:
        raise DamagedObjectError(object_name, f"{view.nbytes} bytes cannot hold the {raw_bytes} its header speaks of")
    cipher = AESGCM(_derived_key(data_key, header))
    context = _context(header, aad)
    count = _segments(raw_bytes)
    parts = []
    for index, (word, stored) in enumerate(_stored_segments(view, count, object_name)):
        bound = context + _PLACE.pack(index, index == count - 1, word)
        try:
            segment = cipher.decrypt(_nonce(index), stored, bound)
        except InvalidTag:
            raise DamagedObjectError(
                object_name, f"segment {index} is not authentic (changed, moved, or sealed for another place)"
            ) from None
        parts.append(_unpacked(segment, word, min(SEGMENT_BYTES, raw_bytes - index * SEGMENT_BYTES), object_name))
    return b"".join(parts)


def _stored_segments(view: memoryview, count: int, object_name: str) -> Iterator[tuple[int, memoryview]]:
    start = _HEADER.size
    for index in range(count):
        stop = start + _WORD.size
        word = _WORD.unpack(view[start:stop])[0] if stop <= view.nbytes else 0
        start, stop = stop, stop + (word & ~_FLAGS) + _TAG_BYTES
        if stop > view.nbytes:
            raise DamagedObjectError(object_name, f"it ends within segment {index} of {count}")
        yield word, view[start:stop]
        start = stop
    if start != view.nbytes:
        raise DamagedObjectError(object_name, f"{view.nbytes - start} bytes follow its last segment")


def _unpacked(segment: bytes, word: int, raw_bytes: int, object_name: str) -> bytes | memoryview:
    if not word & _FLAGS:
        return segment
    try:
        return memoryview(_codec("lz4" if word & _LZ4 else "zstd").decompress(segment, raw_bytes))
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
