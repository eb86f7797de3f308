"""The shell of retention: finds out what there is, and deletes what `retention.plan` says, manifests first."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from flinkray.checkpoint.log_base import CheckpointLog
from flinkray.checkpoint.names import DATA_FOLDER, INCIDENTS_FOLDER, KEYS_FOLDER, parse_incident, parse_wrapped_key
from flinkray.checkpoint.retention import Deletions, Found, Kept, Sweeper, plan
from flinkray.core.storage_log import LogView
from flinkray.errors import DamagedObjectError, DeposedError

_BATCH = 500


@dataclass(frozen=True)
class Swept:
    """What a sweep has deleted."""

    records: int
    objects: int
    keys: int


def sweep(log: CheckpointLog, retained: int, complete: int, in_flight: Mapping[int, int | None], wanted: Collection[int] = ()) -> Swept:
    """Delete what no kept checkpoint needs. `complete`: newest complete checkpoint; `in_flight`: base of each unsettled one; `wanted`:
    checkpoints to be kept however old they are.

    What lies in storage is listed before the log is read: an object that comes later is not judged. Ownership is looked at again before
    each batch of deletions, since an owner may have been frozen for long. Raises DeposedError, StorageError; repeating it is safe.
    """
    data, keys = log.store.list(DATA_FOLDER), log.store.list(KEYS_FOLDER)
    view = _owned_view(log)
    records = {entry.number: entry.header.data_key if entry.header else "" for entry in view.entries}
    records |= {number: "" for number in log.numbers() if number not in records}
    manifests = [kept for kept in (_kept(log, view, index) for index in range(len(view.manifests))) if kept is not None]
    sweeper = Sweeper(log.claim_number, log.data_key.key_id, own_only=not log.fenced)
    deletions = plan(manifests, retained, complete, in_flight, Found(records, data, keys), sweeper, wanted)
    if deletions.keys:
        opened = {parsed.data_key_id for name in log.store.list(INCIDENTS_FOLDER) if (parsed := parse_incident(name)) is not None}
        spared = [name for name in deletions.keys if (key := parse_wrapped_key(name)) is None or key.data_key_id not in opened]
        deletions = replace(deletions, keys=type(deletions.keys)(spared))
    return _delete(log, deletions)


def _delete(log: CheckpointLog, deletions: Deletions) -> Swept:
    names = [*(log.name_of(number) for number in deletions.log), *deletions.data, *deletions.keys]
    for start in range(0, len(names), _BATCH):
        if start:
            _owned_view(log)
        log.store.delete(names[start : start + _BATCH])
    log.forget(deletions.log)
    return Swept(len(deletions.log), len(deletions.data), len(deletions.keys))


def _owned_view(log: CheckpointLog) -> LogView:
    view = log.read()
    if view.claim is not None and view.claim > log.claim_number:
        raise DeposedError(
            f"claim {view.claim} has taken over {log.application} in {log.store.uri}; claim {log.claim_number} deletes nothing more"
        )
    return view


def _kept(log: CheckpointLog, view: LogView, index: int) -> Kept | None:
    entry = view.manifests[index]
    try:
        manifest = log.manifest(entry)
    except DamagedObjectError:
        return None  # can never be restored, so nothing is kept for it
    return Kept(entry.number, manifest.checkpoint, manifest.object_names, manifest.data_keys)
