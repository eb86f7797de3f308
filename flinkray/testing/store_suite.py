"""What every `ObjectStore` must do, as tests to subclass: give a fixture `location` and the suite does the rest.

    class TestMyStore(ObjectStoreSuite):
        @pytest.fixture
        def location(self, tmp_path):
            return StoreLocation(f"file://{tmp_path}")

It races processes for the same names and kills them in the middle: `create` must have one winner, and leave whole objects or none.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from typing import Any

import pytest

from flinkray.checkpoint.base import CreateOutcome, ObjectStore
from flinkray.checkpoint.store import check_probe, check_reachable, open_store, write_probe
from flinkray.errors import StorageError

RACING_PROCESSES = 4
RACED_NAMES = 40
KILLS = 3
KILLED_OBJECT_BYTES = 1 << 20


@dataclass(frozen=True)
class StoreLocation:
    """Where the store under test is; opened anew in every process of the suite."""

    uri: str
    options: Mapping[str, Any] | None = None
    application: str = "suite"

    def open(self) -> ObjectStore:
        return open_store(self.uri, self.application, self.options)


class ObjectStoreSuite:
    """Subclass it and override `location`."""

    @pytest.fixture
    def location(self) -> StoreLocation:
        raise NotImplementedError("override the fixture `location`")

    @pytest.fixture
    def store(self, location: StoreLocation) -> Iterator[ObjectStore]:
        store = location.open()
        yield store
        store.close()

    def test_what_was_put_is_read_back_whole_and_in_part(self, store: ObjectStore) -> None:
        data = bytes(range(256)) * 300
        store.put("data/a", data)
        assert store.get("data/a") == data
        assert store.get("data/a", 1000) == data[1000:]
        assert store.get("data/a", 1000, 17) == data[1000:1017]
        assert store.get("data/a", 5, 0) == b""

    def test_a_read_beyond_the_end_gives_what_there_is(self, store: ObjectStore) -> None:
        store.put("a", b"0123456789")
        assert store.get("a", 8, 100) == b"89"
        assert store.get("a", 10, 5) == b""
        assert store.get("a", 50) == b""

    def test_memoryviews_and_empty_objects_can_be_put(self, store: ObjectStore) -> None:
        store.put("view", memoryview(b"0123456789")[2:5])
        store.put("empty", b"")
        assert (store.get("view"), store.get("empty")) == (b"234", b"")

    def test_parts_make_one_object_or_none(self, store: ObjectStore) -> None:
        def parts(whole: bool) -> Iterator[bytes | memoryview]:
            yield from (b"0123", b"", memoryview(b"456789")[1:])
            if not whole:
                raise ValueError("the source of the parts has failed")

        store.put_parts("folder/parts", parts(True))
        assert store.get("folder/parts") == b"012356789"
        store.put_parts("none", [])
        assert store.get("none") == b""
        with pytest.raises(ValueError, match="the source of the parts"):
            store.put_parts("failed", parts(False))
        assert not store.exists("failed")
        assert store.list("") == ["folder/parts", "none"]

    def test_a_put_replaces_what_was_there(self, store: ObjectStore) -> None:
        store.put("a", b"long before")
        store.put("a", b"after")
        assert store.get("a") == b"after"

    def test_what_is_not_there_is_not_found(self, store: ObjectStore) -> None:
        store.put("data/a", b"x")
        assert store.exists("data/a")
        for name in ("b", "data/b", "data"):
            assert not store.exists(name)
            for offset, length in ((0, None), (3, 4), (0, 0)):
                if name != "data":  # a folder for some stores, nothing for others
                    with pytest.raises(FileNotFoundError, match=name):
                        store.get(name, offset, length)

    def test_a_listing_holds_the_names_of_a_folder_and_below_sorted(self, store: ObjectStore) -> None:
        names = ["log/000000000002", "log/000000000010", "data/x", "keys/k1/a", "keys/k1/b", "keys/k10/a", "logs"]
        for name in reversed(names):
            store.put(name, b"x")
        assert store.list("log/") == ["log/000000000002", "log/000000000010"]
        assert store.list("keys/") == ["keys/k1/a", "keys/k1/b", "keys/k10/a"]
        assert store.list("keys/k1/") == ["keys/k1/a", "keys/k1/b"]
        assert store.list("nothing/") == []
        assert store.list("") == sorted(names)

    def test_a_listing_is_never_stale(self, location: StoreLocation, store: ObjectStore) -> None:
        other = location.open()
        for number in range(5):
            store.put(f"log/{number}", b"x")
            assert len(other.list("log/")) == number + 1
        store.delete(["log/3"])
        assert other.list("log/") == ["log/0", "log/1", "log/2", "log/4"]

    def test_many_objects_are_listed_and_deleted(self, store: ObjectStore) -> None:
        names = [f"data/{number:05d}" for number in range(110)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: store.put(name, b"x"), names))
        assert store.list("data/") == names
        store.delete(names[:105])
        assert store.list("data/") == names[105:]

    def test_deleting_what_is_not_there_is_fine(self, store: ObjectStore) -> None:
        store.delete([])
        store.put("keys/k/a", b"x")
        store.delete(["keys/k/a", "keys/k/b", "never"])
        store.delete(["keys/k/a"])
        assert store.list("") == []
        store.put("keys/k/a", b"again")
        assert store.get("keys/k/a") == b"again"

    @pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a\nb"])
    def test_a_name_that_leads_elsewhere_is_refused(self, store: ObjectStore, name: str) -> None:
        for use in (lambda: store.put(name, b""), lambda: store.get(name), lambda: store.exists(name), lambda: store.delete([name])):
            with pytest.raises(ValueError, match="no name"):
                use()

    def test_applications_do_not_see_each_other(self, location: StoreLocation, store: ObjectStore) -> None:
        store.put("log/1", b"x")
        assert StoreLocation(location.uri, location.options, "suite2").open().list("") == []

    def test_a_probe_of_the_leader_is_found_by_others(self, location: StoreLocation, store: ObjectStore) -> None:
        check_reachable(store)
        write_probe(store, "token")
        check_probe(location.open(), "token")
        with pytest.raises(StorageError, match="share"):
            check_probe(store, "another")

    # -- create -------------------------------------------------------------------------------------------------------

    def test_create_has_one_winner_and_knows_its_own_retry(self, store: ObjectStore) -> None:
        assert store.conditional_create
        assert store.create("log/1", b"mine") is CreateOutcome.CREATED
        assert store.create("log/1", b"mine") is CreateOutcome.CREATED
        assert store.create("log/1", b"other") is CreateOutcome.TAKEN
        assert store.get("log/1") == b"mine"

    def test_a_freed_name_can_be_created_again(self, store: ObjectStore) -> None:
        store.create("log/1", b"a")
        store.delete(["log/1"])
        assert store.create("log/1", b"b") is CreateOutcome.CREATED
        assert store.get("log/1") == b"b"

    def test_probing_leaves_nothing_behind(self, store: ObjectStore) -> None:
        assert store.conditional_create
        check_reachable(store)
        assert store.list("") == []

    def test_racing_threads_have_one_winner_per_name(self, store: ObjectStore) -> None:
        start = threading.Barrier(8)

        def race(racer: int) -> list[CreateOutcome]:
            start.wait()
            return [store.create(f"race/{number}", f"{racer}".encode()) for number in range(20)]

        with ThreadPoolExecutor(8) as pool:
            outcomes = list(pool.map(race, range(8)))
        for number in range(20):
            winners = [racer for racer in range(8) if outcomes[racer][number] is CreateOutcome.CREATED]
            assert [store.get(f"race/{number}")] == [f"{winner}".encode() for winner in winners]

    def test_racing_processes_have_one_winner_per_name(self, location: StoreLocation, store: ObjectStore) -> None:
        if not store.shared:
            pytest.skip("the store is of one process")
        context = multiprocessing.get_context("spawn")
        barrier, results = context.Barrier(RACING_PROCESSES), context.Queue()
        racers = [context.Process(target=_race, args=(location, racer, barrier, results)) for racer in range(RACING_PROCESSES)]
        for process in racers:
            process.start()
        won = dict(results.get(timeout=60) for _ in racers)
        for process in racers:
            process.join(60)
        for number in range(RACED_NAMES):
            winners = [racer for racer in range(RACING_PROCESSES) if number in won[racer]]
            assert [store.get(f"race/{number}")] == [_raced_content(winner, number) for winner in winners]

    def test_a_process_killed_in_the_middle_leaves_whole_objects_or_none(self, location: StoreLocation, store: ObjectStore) -> None:
        if not store.shared:
            pytest.skip("the store is of one process")
        context = multiprocessing.get_context("spawn")
        for round_number in range(KILLS):
            ready = context.Event()
            process = context.Process(target=_create_for_ever, args=(location, round_number, ready))
            process.start()
            assert ready.wait(60)
            time.sleep(0.05 + 0.037 * round_number)
            process.kill()
            process.join(60)
        names = store.list("killed/")
        assert names
        for name in names:
            data = store.get(name)
            assert hashlib.sha256(data[:-32]).digest() == data[-32:], name
        free = f"killed/{KILLS - 1}-{sum(name.startswith(f'killed/{KILLS - 1}-') for name in names)}"
        assert store.create(free, b"by the next owner") is CreateOutcome.CREATED


def _race(location: StoreLocation, racer: int, barrier: Any, results: Any) -> None:
    store = location.open()
    assert store.conditional_create
    barrier.wait()
    won = [n for n in range(RACED_NAMES) if store.create(f"race/{n}", _raced_content(racer, n)) is CreateOutcome.CREATED]
    results.put((racer, set(won)))


def _raced_content(racer: int, number: int) -> bytes:
    """Of unequal length, so that a mixture would show."""
    return f"{racer}/{number};".encode() * (100 * (racer + 1))


def _create_for_ever(location: StoreLocation, round_number: int, ready: Event) -> None:
    store = location.open()
    body = bytes(KILLED_OBJECT_BYTES)
    for number in range(1_000_000):
        store.create(f"killed/{round_number}-{number}", body + hashlib.sha256(body).digest())
        ready.set()
