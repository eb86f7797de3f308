"""Sealing and sealed chunks: what comes back is what was written, under its own key, in its own place, or it does not come back."""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from checkpoint_fakes import TABLE, checkpoint, faulty_store, manifest_of, provider, put_chunk
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from flinkray.checkpoint.chunk_writer import ObjectBuilder, read_chunk
from flinkray.checkpoint.keys import DataKey
from flinkray.checkpoint.log_store import open_log
from flinkray.checkpoint.sealing import SEGMENT_BYTES, Compression, _sealed, seal, unseal
from flinkray.checkpoint.verify import verify
from flinkray.errors import DamagedObjectError, KeyUnavailableError
from flinkray.ids import KeyGroupRange

KEY = os.urandom(32)
AAD = b"app/1, checkpoint 7, data/x at 0"
SMALL = b"marker-in-the-clear " * 10
LARGE = np.random.default_rng(5).integers(0, 300, SEGMENT_BYTES // 2 + 77, dtype=np.int32).tobytes()  # two segments and a bit


def segments(sealed: bytes) -> list[bytes]:
    """The header, then each segment with its word: the format, read independently."""
    parts, start = [sealed[:28]], 28
    while start < len(sealed):
        size = 4 + (struct.unpack_from("<I", sealed, start)[0] & 0x3FFFFFFF) + 16
        parts.append(sealed[start : start + size])
        start += size
    return parts


@pytest.mark.parametrize("compress", ["lz4", "zstd", None])
@pytest.mark.parametrize("size", [0, 1, 1000, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 3 * SEGMENT_BYTES])
def test_every_size_comes_back(size: int, compress: Compression | None) -> None:
    raw = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    assert unseal(KEY, AAD, seal(KEY, AAD, raw, compress), "data/x") == raw


def test_random_bytes_do_not_grow_by_packing() -> None:
    raw = os.urandom(2 * SEGMENT_BYTES)
    sealed = seal(KEY, AAD, raw)
    assert len(sealed) < len(raw) + 100
    assert unseal(KEY, AAD, sealed, "data/x") == raw


def test_buffers_of_all_kinds_can_be_sealed() -> None:
    for raw in (memoryview(SMALL), bytearray(SMALL), pa.py_buffer(SMALL), np.frombuffer(SMALL, np.int32)):
        assert unseal(KEY, AAD, seal(KEY, AAD, raw), "data/x") == SMALL


def test_nothing_readable_is_left() -> None:
    assert b"marker" not in seal(KEY, AAD, SMALL, compress=None)


def test_the_same_bytes_are_never_sealed_alike() -> None:
    assert seal(KEY, AAD, SMALL)[20:] != seal(KEY, AAD, SMALL)[20:]


def test_every_flipped_byte_is_refused_naming_the_object() -> None:
    sealed = seal(KEY, AAD, SMALL)
    for position in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[position] ^= 0x10
        with pytest.raises(DamagedObjectError, match="object data/x is damaged"):
            unseal(KEY, AAD, bytes(damaged), "data/x")


def test_every_truncation_and_extension_is_refused() -> None:
    sealed = seal(KEY, AAD, SMALL)
    for length in range(len(sealed)):
        with pytest.raises(DamagedObjectError):
            unseal(KEY, AAD, sealed[:length], "data/x")
    with pytest.raises(DamagedObjectError):
        unseal(KEY, AAD, sealed + b"\x00", "data/x")


def test_a_truncation_at_a_segment_is_refused_also_with_a_header_that_fits() -> None:
    parts = segments(seal(KEY, AAD, LARGE))
    assert len(parts) == 4
    shorter = struct.pack("<4s16sQ", b"FRS1", parts[0][4:20], 2 * SEGMENT_BYTES)
    for data in (b"".join(parts[:-1]), shorter + b"".join(parts[1:-1])):
        with pytest.raises(DamagedObjectError):
            unseal(KEY, AAD, data, "data/x")


def test_segments_in_another_order_are_refused() -> None:
    header, first, second, third = segments(seal(KEY, AAD, LARGE))
    for order in ((second, first, third), (first, first, third), (first, third, second), (third, second, first)):
        with pytest.raises(DamagedObjectError):
            unseal(KEY, AAD, header + b"".join(order), "data/x")


def test_segments_of_another_seal_under_the_same_key_are_refused() -> None:
    mine, other = segments(seal(KEY, AAD, LARGE)), segments(seal(KEY, AAD, LARGE))
    with pytest.raises(DamagedObjectError):
        unseal(KEY, AAD, b"".join([mine[0], mine[1], other[2], mine[3]]), "data/x")


def test_another_place_or_key_is_refused() -> None:
    sealed = seal(KEY, AAD, SMALL)
    for key, aad in ((KEY, AAD + b"0"), (KEY, b""), (os.urandom(32), AAD)):
        with pytest.raises(DamagedObjectError):
            unseal(key, aad, sealed, "data/x")


def test_a_header_that_promises_too_much_allocates_nothing() -> None:
    sealed = bytearray(seal(KEY, AAD, SMALL))
    struct.pack_into("<Q", sealed, 20, 1 << 60)
    with pytest.raises(DamagedObjectError, match="cannot hold"):
        unseal(KEY, AAD, bytes(sealed), "data/x")


def test_a_key_of_the_wrong_size_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        seal(b"short", AAD, SMALL)


# -- chunks -----------------------------------------------------------------------------------------------------------

DATA_KEY = DataKey("c1-00", KEY)
KEYS = {"c1-00": DATA_KEY}


def test_tables_of_all_kinds_come_back_from_one_object() -> None:
    store = faulty_store()
    builder = ObjectBuilder("data/c1-k2-a1-ab-0.0", "app/1", DATA_KEY)
    assert builder.empty
    tables = [
        TABLE,
        TABLE.slice(1, 2),
        TABLE.slice(0, 0),
        pa.table({"s": pa.array(["x", None, "x"]).dictionary_encode(), "t": pa.array([1, None, 3], pa.timestamp("us", "UTC"))}),
        pa.concat_tables([TABLE, TABLE]),
        pa.table({"l": [[1], [], None]}),
    ]
    refs = [builder.add("op", f"s{i}", "list", True, 2, KeyGroupRange(0, 8), table) for i, table in enumerate(tables)]
    store.put(builder.object_name, builder.data())
    assert [read_chunk(store, ref, KEYS) for ref in refs] == tables
    assert refs[-1].offset + refs[-1].sealed_bytes == builder.size_bytes == len(builder.data())
    assert [ref.rows for ref in refs] == [table.num_rows for table in tables]


def test_damage_in_storage_is_told_with_the_name_of_the_object() -> None:
    store = faulty_store()
    ref = put_chunk(store, DATA_KEY, 1, 1)
    other = put_chunk(store, DATA_KEY, 1, 2)
    assert read_chunk(store, ref, KEYS) == TABLE
    store.flip_byte(ref.object_name, 40)
    with pytest.raises(DamagedObjectError, match=ref.object_name):
        read_chunk(store, ref, KEYS)
    store.flip_byte(ref.object_name, 40)
    store.swap(ref.object_name, other.object_name)
    for damaged in (ref, other):
        with pytest.raises(DamagedObjectError, match=damaged.object_name):
            read_chunk(store, damaged, KEYS)
    store.truncate(ref.object_name, 100)
    with pytest.raises(DamagedObjectError, match=f"{ref.object_name} is damaged: it is truncated"):
        read_chunk(store, ref, KEYS)
    store.delete([ref.object_name])
    with pytest.raises(DamagedObjectError, match="missing"):
        read_chunk(store, ref, KEYS)


def test_a_reference_that_lies_about_its_place_is_refused_although_the_digest_fits() -> None:
    store = faulty_store()
    ref = put_chunk(store, DATA_KEY, 1, 1)
    store.put("data/elsewhere", store.get(ref.object_name))
    lies = {
        "object_name": "data/elsewhere",
        "origin": "app/2",
        "checkpoint": 2,
        "operator_uid": "other",
        "state_name": "other",
        "kind": "list",
        "full": False,
        "rows": 3,
        "key_group_start": 1,
        "key_group_stop": 64,
    }
    for name, value in lies.items():
        with pytest.raises(DamagedObjectError):
            read_chunk(store, replace(ref, **{name: value}), KEYS)


def test_a_chunk_without_its_key_says_which() -> None:
    store = faulty_store()
    ref = put_chunk(store, DATA_KEY, 1, 1)
    with pytest.raises(KeyUnavailableError, match="c1-00"):
        read_chunk(store, ref, {})


def test_verify_reads_everything_back_and_names_each_problem() -> None:
    store = faulty_store()
    refs = [put_chunk(store, DATA_KEY, 1, 1, subtask=subtask) for subtask in range(4)]
    manifest = manifest_of(1, 1, *((ref,) for ref in refs))
    assert verify(store, manifest, KEYS) == []
    store.flip_byte(refs[1].object_name, 50)
    store.delete([refs[3].object_name])
    assert [problem.object_name for problem in verify(store, manifest, KEYS)] == [refs[1].object_name, refs[3].object_name]
    assert len(verify(store, manifest, {})) == 4
    headless = manifest_of(1, 1, (replace(refs[0], full=False),))
    assert any("begin with a full chunk" in problem.reason for problem in verify(store, headless, KEYS))


def test_a_marker_in_state_keys_and_transactions_is_found_in_no_object() -> None:
    marker = "MARKER-c4ffe1ne"
    store = faulty_store()
    log = open_log(store, "app", provider())
    log.claim("token")
    table = pa.table({"_kg": pa.array([0, 0], pa.uint16()), "key": [marker, marker * 50], "value": [marker.encode(), b"x"]})
    ref = put_chunk(store, log.data_key, log.claim_number, 1, table)
    manifest = replace(manifest_of(log.claim_number, 1, (ref,)), transactions={"out": ({"file": marker},)})
    assert log.append_manifest(manifest).complete
    checkpoint(log, 2, ref)
    log.append_ended("FINISHED")
    names = store.list("")
    assert len(names) >= 6
    for name in names:
        data = store.get(name)
        assert marker.encode() not in data, name
        assert marker.encode("utf-16-le") not in data, name
        assert log.data_key.secret not in data, name
    assert read_chunk(store, ref, log.ring.get_all([ref.data_key])) == table


VECTORS = (Path(__file__).parents[2] / "docs" / "semantics.md").read_text().split("Test vectors:")[1].split("```")[1].removeprefix("text\n")
VECTOR_KEY, VECTOR_SALT, VECTOR_AAD = bytes(range(32)), bytes(range(0xA0, 0xB0)), b'["flinkray chunk 1","app/1"]'


def vectors() -> dict[str, bytes]:
    found: dict[str, str] = {}
    name = ""
    for line in VECTORS.splitlines():
        if line.startswith(" "):
            found[name] += line.strip()
        else:
            name = line
            found[name] = ""
    return {name: bytes.fromhex(text) for name, text in found.items()}


@pytest.mark.parametrize("name", ["none", "lz4", "zstd"])
def test_the_vectors_of_the_documentation_open_by_what_it_says(name: str) -> None:
    """Read as the documentation describes it, by nothing of flinkray."""
    sealed, raw = vectors()[name], b"flinkray " * 8
    assert unseal(VECTOR_KEY, VECTOR_AAD, sealed, "vector") == raw
    header = sealed[:28]
    assert (header[:4], header[4:20], int.from_bytes(header[20:28], "little")) == (b"FRS1", VECTOR_SALT, len(raw))
    extracted = hmac.digest(b"flinkray sealing 1", VECTOR_KEY, "sha256")
    cipher = AESGCM(hmac.digest(extracted, header + b"\x01", "sha256"))
    word = sealed[28:32]
    bound = hashlib.sha256(header + VECTOR_AAD).digest() + bytes(4) + b"\x01" + word
    segment = cipher.decrypt(bytes(12), sealed[32:], bound)
    flags, stored = int.from_bytes(word, "little") >> 30, int.from_bytes(word, "little") & (1 << 30) - 1
    assert (flags, stored) == ({"none": 0, "lz4": 2, "zstd": 1}[name], len(segment))
    if name == "none":
        assert segment == raw
        assert _sealed(VECTOR_KEY, VECTOR_AAD, raw, None, VECTOR_SALT) == sealed
    else:
        assert pa.Codec("lz4_raw" if name == "lz4" else "zstd").decompress(segment, len(raw)).to_pybytes() == raw


def test_zstd_packs_state_better_and_never_beyond_what_a_reader_believes() -> None:
    assert len(seal(KEY, AAD, LARGE, "zstd")) < len(seal(KEY, AAD, LARGE, "lz4"))
    zeros = bytes(SEGMENT_BYTES)
    assert unseal(KEY, AAD, seal(KEY, AAD, zeros, "zstd"), "data/x") == zeros
