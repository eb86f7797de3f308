"""One bad read decides nothing: found in simulation (transactional-sink, swarm seed 216)."""

from __future__ import annotations

import os

import pytest

from flinkray.checkpoint.chunk_writer import read_chunk
from flinkray.checkpoint.log_store import StorageLog
from flinkray.checkpoint.memory_store import MemoryStore
from flinkray.checkpoint.names import DATA_FOLDER, LOG_FOLDER, log_name
from flinkray.checkpoint.sweep import sweep
from flinkray.errors import DamagedObjectError
from tests.unit.checkpoint_fakes import TABLE, checkpoint, provider, put_chunk


class NoisyStore(MemoryStore):
    """The next reads of objects below `prefix` come back with a flipped byte, each another one; the objects are well."""

    def __init__(self) -> None:
        super().__init__(f"test-{os.urandom(8).hex()}")
        self.prefix, self.noisy_reads = "", 0

    def damage(self, prefix: str, reads: int = 1) -> None:
        self.prefix, self.noisy_reads = prefix, reads

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        data = bytearray(super().get(name, offset, length))
        if self.noisy_reads and name.startswith(self.prefix):
            data[-self.noisy_reads] ^= 1
            self.noisy_reads -= 1
        return bytes(data)


@pytest.fixture
def store() -> NoisyStore:
    return NoisyStore()


def opened(store: NoisyStore, token: str) -> StorageLog:
    log = StorageLog(store, "app", provider())
    log.claim(token)
    return log


@pytest.mark.parametrize("reads", [1, 2])
def test_a_sweep_that_misreads_the_newest_manifest_deletes_none_of_its_objects(store: NoisyStore, reads: int) -> None:
    log = opened(store, "one")
    for number in range(1, 4):
        checkpoint(log, number)
    newest = log_name(log.numbers()[-1])
    store.damage(newest, reads)
    sweep(log, retained=2, complete=3, in_flight={})
    assert any("-k3-" in name for name in store.list(DATA_FOLDER))
    assert [manifest.header.checkpoint for manifest in log.read().manifests if manifest.header] == [3, 2]


def test_a_claim_that_misreads_the_newest_record_links_to_what_stands_there(store: NoisyStore) -> None:
    checkpoint(opened(store, "one"), 1)
    store.damage(log_name(2))
    view = opened(store, "two").read()
    assert not view.damaged
    assert [entry.number for entry in view.manifests] == [2]


def test_a_writer_that_misreads_its_own_record_is_not_deposed(store: NoisyStore) -> None:
    log = opened(store, "one")
    store.damage(LOG_FOLDER)
    checkpoint(log, 1)
    checkpoint(log, 2)
    assert [manifest.header.checkpoint for manifest in log.read().manifests if manifest.header] == [2, 1]


def test_a_chunk_that_is_misread_is_read_again_and_one_that_is_damaged_is_refused(store: NoisyStore) -> None:
    log = opened(store, "one")
    ref = put_chunk(store, log.data_key, 1, 1)
    keys = {log.data_key.key_id: log.data_key}
    store.damage(DATA_FOLDER)
    assert read_chunk(store, ref, keys).equals(TABLE)
    data = bytearray(store.get(ref.object_name))
    data[-1] ^= 1
    store.put(ref.object_name, bytes(data))
    with pytest.raises(DamagedObjectError):
        read_chunk(store, ref, keys)
