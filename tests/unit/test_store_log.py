"""The storage log over a store: claims, manifests in doubt, damage, and that unreadable never means empty."""

from __future__ import annotations

import threading

import pytest
from checkpoint_fakes import checkpoint, faulty_store, manifest_of, provider, put_chunk

from flinkray.checkpoint.log_base import CheckpointLog
from flinkray.checkpoint.log_store import StorageLog, open_log
from flinkray.checkpoint.manifest import Manifest
from flinkray.checkpoint.unfenced_log import UnfencedLog
from flinkray.core.storage_log import LogView
from flinkray.errors import DamagedObjectError, DeposedError, KeyUnavailableError, ProtocolError, StorageError
from flinkray.testing.faulty_store import Fate, FaultyStore


@pytest.fixture
def store() -> FaultyStore:
    return faulty_store()


def opened(store: FaultyStore) -> CheckpointLog:
    return open_log(store, "app", provider())


def claimed(store: FaultyStore, token: str = "token") -> CheckpointLog:
    log = opened(store)
    log.claim(token)
    return log


def manifest_for(log: CheckpointLog, number: int) -> Manifest:
    return manifest_of(log.claim_number, number, (put_chunk(log.store, log.data_key, log.claim_number, number),))


def checkpoints(view: LogView) -> list[int]:
    return [entry.header.checkpoint for entry in view.manifests if entry.header]


def test_an_empty_store_has_an_empty_log(store: FaultyStore) -> None:
    assert opened(store).read().empty


def test_a_manifest_is_found_by_the_next_owner(store: FaultyStore) -> None:
    log = claimed(store)
    checkpoint(log, 1)
    written = checkpoint(log, 2)
    next_owner = opened(store)
    claim = next_owner.claim("next")
    assert checkpoints(claim.view) == [2, 1]
    assert next_owner.manifest(claim.view.manifests[0]) == written
    assert (claim.claim, claim.next_checkpoint, claim.next_attempt) == (4, 3, 2)


def test_ids_go_on_above_objects_of_checkpoints_that_never_completed(store: FaultyStore) -> None:
    log = claimed(store)
    checkpoint(log, 1)
    put_chunk(store, log.data_key, log.claim_number, 41)
    assert opened(store).claim("next").next_checkpoint == 42


def test_how_a_run_ended_is_kept_until_the_next_claim(store: FaultyStore) -> None:
    log = claimed(store)
    checkpoint(log, 1)
    log.append_ended("FINISHED")
    assert opened(store).read().ended == "FINISHED"
    assert opened(store).claim("next").view.ended == "FINISHED"
    assert opened(store).read().ended is None


def test_a_deposed_owner_can_append_nothing(store: FaultyStore) -> None:
    old = claimed(store)
    checkpoint(old, 1)
    claimed(store)
    for append in (lambda: old.append_manifest(manifest_for(old, 2)), lambda: old.append_ended("FINISHED")):
        with pytest.raises(DeposedError, match="claimed app"):
            append()
    assert checkpoints(opened(store).read()) == [1]


def test_an_owner_frozen_while_retention_freed_its_number_is_deposed(store: FaultyStore) -> None:
    old = claimed(store)
    new = claimed(store)
    for number in range(1, 4):
        checkpoint(new, number)
    store.delete(["log/000000000001", "log/000000000002", "log/000000000003"])
    with pytest.raises(DeposedError):
        old.append_manifest(manifest_for(old, 9))
    assert store.exists("log/000000000002")  # it won the freed number, and that counts for nothing
    assert checkpoints(opened(store).read()) == [3, 2]
    checkpoint(new, 10)


def test_two_who_claim_at_once_both_claim_one_after_the_other(store: FaultyStore) -> None:
    claims: list[int] = []
    start = threading.Barrier(6)

    def run() -> None:
        log = opened(store)
        start.wait()
        claims.append(log.claim("t").claim)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claims) == list(range(1, 7))
    assert opened(store).read().claim == 6
    assert len(store.list("keys/")) == 6


# -- doubt ------------------------------------------------------------------------------------------------------------


def test_a_claim_without_an_answer_is_put_again_and_is_one_claim(store: FaultyStore) -> None:
    # the first create of a claim is that of its data key
    store.next_creates("pass", "unanswered")
    assert claimed(store).claim_number == 1
    store.next_creates("pass", "lost", "lost")
    assert claimed(store).claim_number == 2
    assert store.list("log/") == ["log/000000000001", "log/000000000002"]


@pytest.mark.parametrize(
    ("fates", "complete"),
    [
        (["unanswered"], True),
        (["unanswered", "unanswered", "lost"], True),
        (["lost"], False),
        (["lost", "lost", "lost"], False),
        (["lost", "unanswered"], False),
        (["late"], False),
        (["late", "lost"], False),
    ],
)
def test_a_manifest_in_doubt_has_one_fate(store: FaultyStore, fates: list[Fate], complete: bool) -> None:
    log = claimed(store)
    checkpoint(log, 1)
    troubles: list[str] = []
    store.next_creates(*fates)
    appended = log.append_manifest(manifest_for(log, 2), on_trouble=troubles.append)
    assert appended.complete is complete
    assert appended.number == 3
    assert len(troubles) == len(fates)
    assert bool(appended.reason) is not complete
    store.deliver()  # a late manifest finds its number occupied
    expected = [2, 1] if complete else [1]
    assert checkpoints(opened(store).read()) == expected
    checkpoint(log, 3)
    assert checkpoints(opened(store).read()) == [3, *expected]


def test_a_listing_without_an_answer_leaves_a_manifest_in_doubt_until_it_comes(store: FaultyStore) -> None:
    log = claimed(store)
    manifest = manifest_for(log, 1)
    store.failing_lists = 3
    troubles: list[str] = []
    assert log.append_manifest(manifest, on_trouble=troubles.append).complete
    assert len(troubles) == 3


def test_a_store_that_is_away_is_waited_for_and_the_checkpoint_then_has_its_fate(store: FaultyStore) -> None:
    log = claimed(store)
    manifest = manifest_for(log, 1)
    troubles: list[str] = []

    def on_trouble(text: str) -> None:
        troubles.append(text)
        store.away = len(troubles) < 3

    store.away = True
    assert not log.append_manifest(manifest, on_trouble=on_trouble).complete
    assert all("away" in text for text in troubles)
    assert checkpoints(opened(store).read()) == []
    checkpoint(log, 2)


def test_waiting_for_a_manifests_fate_ends_when_the_process_does_and_the_next_call_resolves_it(store: FaultyStore) -> None:
    log = claimed(store)
    manifest, later = manifest_for(log, 1), manifest_for(log, 2)
    stop = threading.Event()

    def on_trouble(text: str) -> None:
        stop.set()

    store.next_creates("unanswered", "lost")
    with pytest.raises(StorageError, match="in doubt"):
        log.append_manifest(manifest, stop=stop, on_trouble=on_trouble)
    assert log.append_manifest(later).number == 3
    assert checkpoints(opened(store).read()) == [2, 1]


def test_an_end_that_cannot_be_recorded_is_an_error_in_time(store: FaultyStore) -> None:
    log = claimed(store)
    store.away = True
    with pytest.raises(StorageError, match="away"):
        log.append_ended("CANCELLED", timeout_s=0.2)
    store.away = False
    log.append_ended("CANCELLED")
    assert opened(store).read().ended == "CANCELLED"


# -- unreadable is not empty ------------------------------------------------------------------------------------------


def test_a_store_that_does_not_answer_is_an_error_and_not_an_empty_log(store: FaultyStore) -> None:
    checkpoint(claimed(store), 1)
    store.away = True
    for use in (lambda: opened(store).read(), lambda: opened(store).claim("t")):
        with pytest.raises(StorageError, match="away"):
            use()


def test_a_damaged_newest_manifest_is_passed_over_and_named(store: FaultyStore) -> None:
    log = claimed(store)
    checkpoint(log, 1)
    checkpoint(log, 2)
    entry = log.read().manifests[0]
    size = len(store.get("log/000000000003"))
    for position in (0, 30, 200, size // 2, size - 1):
        store.flip_byte("log/000000000003", position)
        view = opened(store).read()
        assert checkpoints(view) == [1]
        assert [damaged.number for damaged in view.damaged] == [3]
        with pytest.raises(DamagedObjectError, match="log/000000000003"):
            log.manifest(entry)
        store.flip_byte("log/000000000003", position)
    assert checkpoints(opened(store).read()) == [2, 1]


def test_every_flipped_byte_of_a_record_is_noticed(store: FaultyStore) -> None:
    checkpoint(claimed(store), 1)
    data = store.get("log/000000000002")
    for position in range(0, len(data), 7):
        store.flip_byte("log/000000000002", position)
        assert checkpoints(opened(store).read()) == []
        store.flip_byte("log/000000000002", position)


def test_truncated_swapped_and_missing_manifests_are_refused(store: FaultyStore) -> None:
    log = claimed(store)
    for number in (1, 2, 3):
        checkpoint(log, number)
    whole = store.get("log/000000000004")
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        store.truncate("log/000000000004", size)
        assert checkpoints(opened(store).read()) == [2, 1]
        store.put("log/000000000004", whole)
    store.swap("log/000000000003", "log/000000000004")
    view = opened(store).read()
    assert checkpoints(view) == [1]
    assert len(view.damaged) == 2
    store.swap("log/000000000003", "log/000000000004")
    entry = log.read().manifests[0]
    store.delete(["log/000000000004"])
    with pytest.raises(DamagedObjectError, match="missing"):
        log.manifest(entry)


def test_a_new_owner_claims_above_a_damaged_record(store: FaultyStore) -> None:
    log = claimed(store)
    checkpoint(log, 1)
    checkpoint(log, 2)
    store.flip_byte("log/000000000003", 10)
    new = opened(store)
    assert new.claim("new").claim == 4
    checkpoint(new, 3)
    assert checkpoints(opened(store).read()) == [3, 1]


def test_a_lost_data_key_makes_its_records_unreadable_and_is_an_error_when_nothing_else_is_left(store: FaultyStore) -> None:
    checkpoint(claimed(store), 1)
    lost = store.list("keys/")
    checkpoint(claimed(store), 2)
    store.delete(lost)
    assert checkpoints(opened(store).read()) == [2]
    store.delete(store.list("keys/"))
    with pytest.raises(KeyUnavailableError, match="deleted"):
        opened(store).read()


def test_a_log_of_another_application_is_not_taken_for_ones_own(store: FaultyStore) -> None:
    checkpoint(claimed(store), 1)
    with pytest.raises(StorageError, match="'app', not of 'copy'"):
        open_log(store, "copy", provider()).read()


# -- use --------------------------------------------------------------------------------------------------------------


def test_nothing_is_appended_before_a_claim_or_for_another_claim(store: FaultyStore) -> None:
    with pytest.raises(ProtocolError, match="not been claimed"):
        opened(store).append_manifest(manifest_of(1, 1))
    with pytest.raises(ProtocolError, match="claim 7"):
        claimed(store).append_manifest(manifest_of(7, 1))


# -- a store without conditional create -------------------------------------------------------------------------------


def test_the_store_decides_which_log_it_can_hold(store: FaultyStore) -> None:
    assert isinstance(opened(store), StorageLog)
    assert opened(store).fenced
    unfenced = opened(faulty_store(conditional_create=False))
    assert isinstance(unfenced, UnfencedLog)
    assert not unfenced.fenced


def test_without_conditional_create_only_the_journal_knows_the_newest() -> None:
    store = faulty_store(conditional_create=False)
    log = claimed(store)
    names = [log.append_manifest(manifest_for(log, number)).name for number in (1, 2)]
    assert checkpoints(log.read()) == [2, 1]
    with pytest.raises(StorageError, match=f"checkpoint:ID.*{names[0]}.*{names[1]}"):
        opened(store).read()
    with pytest.raises(StorageError, match="Candidates"):
        opened(store).claim("t")
    by_journal = open_log(store, "app", provider(), journaled=names[:1])
    claim = by_journal.claim("t")
    assert checkpoints(claim.view) == [1]
    assert (claim.claim, claim.next_checkpoint) == (2, 3)
    assert by_journal.manifest(claim.view.manifests[0]).checkpoint == 1
    assert opened(store).claim("t", fresh=True).claim == 3


def test_without_conditional_create_damage_is_named_and_a_failed_put_is_no_checkpoint() -> None:
    store = faulty_store(conditional_create=False)
    log = claimed(store)
    manifest = manifest_for(log, 1)
    store.away = True
    assert not log.append_manifest(manifest).complete
    store.away = False
    name = log.append_manifest(manifest_for(log, 2)).name
    log.append_ended("FINISHED")
    entry = log.read().manifests[0]
    store.flip_byte(name)
    with pytest.raises(DamagedObjectError, match=name):
        log.manifest(entry)
    store.delete([name])
    with pytest.raises(DamagedObjectError, match="missing"):
        log.manifest(entry)
    assert log.read().damaged
