"""What may be deleted and when: rules 3, 16 and 18."""

from __future__ import annotations

import pytest
from checkpoint_fakes import checkpoint, faulty_store, provider, put_chunk

from flinkray.checkpoint.log_base import CheckpointLog
from flinkray.checkpoint.log_store import open_log
from flinkray.checkpoint.names import data_object_name, wrapped_key_name
from flinkray.checkpoint.retention import Deletions, Found, Kept, Sweeper, plan
from flinkray.checkpoint.sweep import sweep
from flinkray.checkpoint.verify import verify
from flinkray.errors import DeposedError
from flinkray.testing.faulty_store import FaultyStore

OWN = Sweeper(claim=5, data_key="c5-00")


def kept(number: int, checkpoint: int, *objects: str, keys: frozenset[str] = frozenset({"c5-00"})) -> Kept:
    return Kept(number, checkpoint, frozenset(objects), keys)


def data(claim: int, checkpoint: int) -> str:
    return data_object_name(claim, checkpoint, 1, "ab", "0.0")


FOUR = [kept(10 + number, number, data(5, number)) for number in range(1, 5)]
LOG = dict.fromkeys(range(8, 15), "c5-00")
ALL_DATA = [data(5, number) for number in range(1, 5)]


def test_the_newest_checkpoints_are_kept_and_what_only_older_ones_need_goes() -> None:
    found = Found(LOG, ALL_DATA, [wrapped_key_name("c5-00", "k")])
    assert plan(FOUR, 2, 4, {}, found, OWN) == Deletions((8, 9, 10, 11, 12), (data(5, 1), data(5, 2)), ())


def test_an_old_object_that_a_kept_checkpoint_refers_to_stays() -> None:
    manifests = [*FOUR[:3], kept(14, 4, data(5, 4), data(5, 1))]
    assert plan(manifests, 1, 4, {}, Found(LOG, ALL_DATA, []), OWN).data == (data(5, 2), data(5, 3))


def test_the_base_of_a_checkpoint_in_flight_stays_and_all_between() -> None:
    deletions = plan(FOUR, 1, 4, {5: 2}, Found(LOG, [*ALL_DATA, data(5, 5)], []), OWN)
    assert deletions == Deletions((8, 9, 10, 11), (data(5, 1),), ())


def test_a_checkpoint_that_the_job_may_go_back_to_stays_though_the_log_has_newer_ones() -> None:
    deletions = plan(FOUR, 1, 2, {}, Found(LOG, ALL_DATA, []), OWN, wanted=(2,))
    assert deletions == Deletions((8, 9, 10, 11), (data(5, 1),), ())


def test_objects_of_a_checkpoint_in_flight_stay_also_below_the_newest_complete_one() -> None:
    deletions = plan(FOUR, 4, 4, {3: None}, Found(LOG, [data(5, 3) + "x", data(5, 2) + "x"], []), OWN)
    assert deletions.data == (data(5, 2) + "x",)


def test_objects_above_the_newest_complete_checkpoint_stay() -> None:
    assert plan(FOUR, 4, 4, {}, Found(LOG, [data(5, 9)], []), OWN).data == ()


def test_unreferenced_objects_of_superseded_claims_go_whatever_their_id() -> None:
    assert plan(FOUR, 4, 4, {}, Found(LOG, [data(4, 900)], []), OWN).data == (data(4, 900),)


def test_nothing_of_a_newer_claim_is_touched() -> None:
    found = Found(LOG, [data(6, 1)], [wrapped_key_name("c6-00", "k")])
    assert plan(FOUR, 1, 4, {}, found, OWN) == Deletions((8, 9, 10, 11, 12, 13), (), ())


def test_without_fencing_only_what_is_ones_own_goes() -> None:
    found = Found(LOG, [data(4, 1), data(5, 1)], [wrapped_key_name("c4-00", "k")])
    deletions = plan(FOUR, 1, 4, {}, found, Sweeper(5, "c5-00", own_only=True))
    assert (deletions.data, deletions.keys) == ((data(5, 1),), ())


def test_a_data_key_goes_with_its_last_reference() -> None:
    keys = [wrapped_key_name(name, "k") for name in ("c2-00", "c3-00", "c4-00", "c5-00", "c5-11")]
    manifests = [kept(14, 4, data(3, 1), keys=frozenset({"c3-00", "c5-00"}))]
    log = {12: "c2-00", 13: "c4-00", 14: "c5-00"}
    assert plan(manifests, 1, 4, {}, Found(log, [], keys), OWN).keys == (keys[0], keys[2], keys[4])
    # a record that stays needs its key, too
    assert plan([kept(13, 3), *manifests], 2, 4, {}, Found(log, [], keys), OWN).keys == (keys[0], keys[4])


def test_the_newest_record_is_never_deleted_and_without_a_checkpoint_nothing_is() -> None:
    assert plan([], 3, 0, {}, Found({1: "", 2: ""}, [data(4, 1)], []), OWN) == Deletions()
    assert 14 not in plan([kept(20, 4)], 1, 4, {}, Found(LOG, [], []), OWN).log


def test_names_that_nobody_knows_are_left_alone() -> None:
    found = Found(LOG, ["data/notes.txt"], ["keys/readme"])
    deletions = plan(FOUR, 1, 4, {}, found, OWN)
    assert (deletions.data, deletions.keys) == ((), ())


def test_at_least_one_checkpoint_is_retained() -> None:
    with pytest.raises(ValueError, match="under 1"):
        plan(FOUR, 0, 4, {}, Found(LOG, [], []), OWN)


# -- over a store -----------------------------------------------------------------------------------------------------


def claimed(store: FaultyStore) -> CheckpointLog:
    log = open_log(store, "app", provider())
    log.claim("token")
    return log


def test_a_sweep_deletes_manifests_then_objects_then_keys_and_the_rest_can_be_restored() -> None:
    store = faulty_store()
    first = claimed(store)
    base = checkpoint(first, 1)
    checkpoint(first, 2)
    log = claimed(store)
    orphan = put_chunk(store, first.data_key, first.claim_number, 3)
    checkpoint(log, 3)
    for number in range(4, 7):
        newest = checkpoint(log, number, base.chunks[0])
    in_flight = put_chunk(store, log.data_key, log.claim_number, 7)
    swept = sweep(log, retained=2, complete=6, in_flight={7: 6})
    assert (swept.records, swept.objects, swept.keys) == (6, 4, 0)
    names = store.list("")
    assert orphan.object_name not in names
    assert in_flight.object_name in names
    view = open_log(store, "app", provider()).read()
    assert [entry.header.checkpoint for entry in view.manifests if entry.header] == [6, 5]
    for entry in view.manifests:
        manifest = log.manifest(entry)
        assert verify(store, manifest, log.ring.get_all(manifest.data_keys)) == []
    assert log.manifest(view.manifests[0]) == newest
    checkpoint(log, 8)
    checkpoint(log, 9)
    assert sweep(log, retained=2, complete=9, in_flight={}).keys == 1
    assert len(store.list("data/")) == 2


def test_a_sweep_twice_deletes_nothing_more() -> None:
    store = faulty_store()
    log = claimed(store)
    for number in range(1, 5):
        checkpoint(log, number)
    assert sweep(log, 1, 4, {}).objects == 3
    assert sweep(log, 1, 4, {}).objects == 0


def test_a_deposed_owner_sweeps_nothing() -> None:
    store = faulty_store()
    old = claimed(store)
    for number in range(1, 5):
        checkpoint(old, number)
    claimed(store)
    before = store.list("")
    with pytest.raises(DeposedError, match="deletes nothing"):
        sweep(old, 1, 4, {})
    assert store.list("") == before


def test_nothing_is_kept_for_a_damaged_manifest_and_its_record_does_not_stop_the_sweep() -> None:
    store = faulty_store()
    log = claimed(store)
    for number in range(1, 5):
        checkpoint(log, number)
    store.flip_byte(log.name_of(4))
    assert sweep(log, 2, 4, {}).objects == 2
    view = log.read()
    assert [entry.header.checkpoint for entry in view.manifests if entry.header] == [4, 2]


def test_without_conditional_create_the_journals_manifests_are_swept_and_no_others() -> None:
    store = faulty_store(conditional_create=False)
    other = claimed(store)
    checkpoint(other, 1)
    log = open_log(store, "app", provider())
    log.claim("token", fresh=True)
    for number in range(2, 6):
        checkpoint(log, number)
    swept = sweep(log, 2, 5, {})
    assert (swept.records, swept.objects, swept.keys) == (2, 2, 0)
    view = log.read()
    assert [entry.header.checkpoint for entry in view.manifests if entry.header] == [5, 4]
    assert [verify(store, log.manifest(entry), log.ring.get_all([log.data_key.key_id])) for entry in view.manifests] == [[], []]
    assert len(other.read().manifests) == 1
