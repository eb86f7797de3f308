"""Manifests: JSON there and back, what they say they need, and what is refused."""

from __future__ import annotations

import json

import pytest
from checkpoint_fakes import faulty_store, manifest_of, put_chunk

from flinkray.checkpoint.keys import DataKey
from flinkray.checkpoint.manifest import (
    CheckpointStats,
    Manifest,
    RunFacts,
    chunk_from_json,
    chunk_to_json,
    decode_manifest,
    encode_manifest,
)
from flinkray.checkpoint.names import (
    DataObjectName,
    candidate_name,
    data_object_name,
    log_name,
    parse_candidate,
    parse_data_object,
    parse_log,
    parse_wrapped_key,
    wrapped_key_name,
)
from flinkray.errors import DamagedObjectError, StorageError
from flinkray.graph.job_graph import JobGraph, JobVertex, OperatorSpec


def example() -> Manifest:
    store = faulty_store()
    base = put_chunk(store, DataKey("c1-aa", bytes(32)), 1, 1)
    newer = put_chunk(store, DataKey("c4-bb", bytes(32)), 4, 5)
    return manifest_of(4, 5, (base, newer), ())


def test_a_manifest_comes_back_as_it_was_written() -> None:
    manifest = example()
    assert decode_manifest(encode_manifest(manifest), "log/5") == manifest


def test_a_chunk_reference_comes_back_as_it_was_written() -> None:
    ref = example().chunks[0]
    assert chunk_from_json(json.loads(json.dumps(chunk_to_json(ref)))) == ref


def test_a_manifest_names_every_object_and_data_key_it_needs() -> None:
    manifest = example()
    assert manifest.data_keys == {"c1-aa", "c4-bb"}
    assert manifest.object_names == {"data/c1-k1-a1-ab12-0.0", "data/c4-k5-a1-ab12-0.0"}
    assert manifest.origin == "app/4"


def test_what_a_run_and_its_content_say_is_put_together() -> None:
    content = example().content()
    operators = (OperatorSpec("a", "a", "source", {}, (), None), OperatorSpec("count", "count", "keyed_aggregate", {}, (), None))
    graph = JobGraph((JobVertex(0, operators, 3),), (), 128, "f00d")
    stats = CheckpointStats.of(content, duration_ms=5.0, sync_ms=1.0)
    manifest = Manifest.of(content, RunFacts("app", 4, graph, 7, 1), 123, stats)
    assert manifest.content() == content
    assert manifest.operators == {"a": "source", "count": "keyed_aggregate"}
    assert manifest.parallelism == {"a": 3, "count": 3}
    assert (manifest.fingerprint, manifest.max_parallelism, manifest.hash_seed) == ("f00d", 128, 7)
    own, base = content.states[0].chunks[1], content.states[0].chunks[0]
    assert (stats.written_bytes, stats.referenced_bytes, stats.full, stats.rows) == (own.sealed_bytes, base.sealed_bytes, False, 8)


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"[]", b"{}", b'{"format": 1}', b'{"format": 1, "states": 3}', b"\xff\xfe", encode_manifest(example())[:-1]],
)
def test_what_is_no_manifest_is_damaged(data: bytes) -> None:
    with pytest.raises(DamagedObjectError, match="log/5"):
        decode_manifest(data, "log/5")


def test_a_manifest_of_a_newer_flinkray_says_so() -> None:
    data = encode_manifest(example()).replace(b'"format":1', b'"format":2')
    with pytest.raises(StorageError, match="use the version that wrote it") as caught:
        decode_manifest(data, "log/5")
    assert not isinstance(caught.value, DamagedObjectError)


def test_transactions_that_are_no_json_are_refused_when_they_are_written() -> None:
    broken = manifest_of(1, 1)
    object.__setattr__(broken, "transactions", {"out": ({"file": b"bytes"},)})
    with pytest.raises(TypeError):
        encode_manifest(broken)


def test_names_say_what_they_carry() -> None:
    name = data_object_name(3, 14, 2, "ab12", "0.1")
    assert name == "data/c3-k14-a2-ab12-0.1"
    assert parse_data_object(name) == DataObjectName(3, 14, 2, "ab12", "0.1")
    assert parse_data_object("data/other") is None
    assert log_name(9) < log_name(10)
    assert (parse_log(log_name(12)), parse_log("log/12"), parse_log("log/x")) == (12, None, None)
    key = parse_wrapped_key(wrapped_key_name("c7-0a1b", "f00"))
    assert key is not None
    assert (key.data_key_id, key.claim, key.key_id) == ("c7-0a1b", 7, "f00")
    assert parse_wrapped_key("keys/other/f00") is None
    assert parse_candidate(candidate_name(1, 2, 3, "ab")) is not None
    assert parse_candidate("manifests/x") is None
