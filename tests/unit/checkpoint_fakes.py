"""Small checkpoints for tests: a key provider, a data object with a chunk per state, and the manifest that refers to it."""

from __future__ import annotations

import os

import pyarrow as pa

from flinkray.checkpoint.base import ChunkRef, ObjectStore
from flinkray.checkpoint.chunk_writer import ObjectBuilder
from flinkray.checkpoint.key_providers import LocalKeyProvider
from flinkray.checkpoint.keys import DataKey
from flinkray.checkpoint.log_base import CheckpointLog
from flinkray.checkpoint.manifest import CheckpointStats, Manifest
from flinkray.checkpoint.memory_store import MemoryStore
from flinkray.checkpoint.names import data_object_name, origin_of
from flinkray.core.messages import Counters, StateRef
from flinkray.ids import KeyGroupRange
from flinkray.testing.faulty_store import FaultyStore

KEY = bytes(range(32))
TABLE = pa.table({"_kg": pa.array([0, 1, 1, 5], pa.uint16()), "key": ["a", "b", "c", "d"], "count": [1, 2, 3, 4]})


def provider(key: bytes = KEY) -> LocalKeyProvider:
    return LocalKeyProvider(key, "a test's key")


def faulty_store(conditional_create: bool = True) -> FaultyStore:
    return FaultyStore(MemoryStore(f"test-{os.urandom(8).hex()}"), conditional_create)


def put_chunk(store: ObjectStore, data_key: DataKey, claim: int, checkpoint: int, table: pa.Table = TABLE, subtask: int = 0) -> ChunkRef:
    """One data object with one full chunk."""
    builder = ObjectBuilder(data_object_name(claim, checkpoint, 1, "ab12", f"0.{subtask}"), origin_of("app", claim), data_key)
    ref = builder.add("count", "accumulators", "keyed", True, checkpoint, KeyGroupRange(0, 128), table)
    store.put(builder.object_name, builder.data())
    return ref


def manifest_of(claim: int, checkpoint: int, *chains: tuple[ChunkRef, ...]) -> Manifest:
    """A manifest with a subtask for each chain."""
    states = tuple(StateRef("count", subtask, "accumulators", "keyed", 0, 128, chain) for subtask, chain in enumerate(chains))
    return Manifest(
        application="app",
        origin=origin_of("app", claim),
        claim=claim,
        checkpoint=checkpoint,
        attempt=1,
        created_at_us=1_700_000_000_000_000,
        fingerprint="f00d",
        operators={"count": "keyed_aggregate", "out": "sink"},
        parallelism={"count": 1, "out": 1},
        max_parallelism=128,
        hash_seed=2**63 + 5,
        hash_version=1,
        states=states,
        transactions={"out": ({"files": ["part-1.parquet"], "claim": claim},)},
        counters=Counters(records_in=10, records_out=3),
        stats=CheckpointStats(100, 20, 4, 12.5, 1.5, True),
    )


def checkpoint(log: CheckpointLog, number: int, *base: ChunkRef) -> Manifest:
    """Write a whole checkpoint: its object, then its manifest; the chain goes on from `base`."""
    ref = put_chunk(log.store, log.data_key, log.claim_number, number)
    manifest = manifest_of(log.claim_number, number, (*base, ref))
    assert log.append_manifest(manifest).complete
    return manifest
