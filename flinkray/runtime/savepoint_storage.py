"""Between a run and its savepoints: a checkpoint's state copied out of the run's objects, and a savepoint's state copied into a new run's.

Both ways nothing refers to the other side afterwards (rule 21): a savepoint may be deleted under the run that was restored from it, and a
run may go on under a savepoint that was made of it.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import replace

from flinkray import __version__
from flinkray.checkpoint.log_base import CheckpointLog, Claimed
from flinkray.checkpoint.manifest import CheckpointStats, Manifest
from flinkray.checkpoint.names import data_object_name, origin_of
from flinkray.checkpoint.repack import Target, repack, sealed_bytes
from flinkray.checkpoint.savepoint_format import SavepointFacts, SavepointHeader
from flinkray.checkpoint.savepoints import Creation, Savepoints
from flinkray.checkpoint.state_source import StateSource
from flinkray.core.messages import StateRef
from flinkray.core.restore_plan import check_restore
from flinkray.errors import DamagedObjectError, FlinkrayError, RestoreError, StorageError
from flinkray.runtime.restore_choice import Readable
from flinkray.runtime.sinks import sinks_of
from flinkray.runtime.task_manager import JobBundle

SAVEPOINT = "savepoint:"
"""What `--restore` says before a savepoint's name."""


def savepoints_of(log: CheckpointLog) -> Savepoints:
    return Savepoints(log.store, log.application, lambda: log.ring.provider)


def write_savepoint(savepoints: Savepoints, creation: Creation, source: StateSource, code_digest: str) -> SavepointHeader:
    """Copy a complete checkpoint. When that fails the savepoint is FAILED, and says why. Raises what went wrong."""
    manifest = source.manifest
    try:
        data_key = savepoints.new_key(creation)
        target = Target(
            creation.store,
            data_key,
            manifest.origin,
            manifest.checkpoint,
            creation.object_namer(manifest.claim, manifest.checkpoint, manifest.attempt),
            "zstd",
        )
        facts = SavepointFacts(manifest.checkpoint, manifest.claim, manifest.fingerprint, code_digest, __version__)
        copy = _with_states(manifest, repack(source, target))
        return savepoints.complete(creation, copy, data_key, facts)
    except FlinkrayError as error:
        with suppress(StorageError):
            savepoints.fail(creation, str(error))
        raise


def restore_savepoint(bundle: JobBundle, log: CheckpointLog, token: str) -> tuple[Readable, Claimed, str]:
    """Make the savepoint the first checkpoint of a new claim. Everything is checked, every byte read, before the application is claimed.

    Returns the checkpoint, the claim with ids above it, and a line that says what was chosen. Raises RestoreError, DamagedObjectError,
    KeyUnavailableError, StorageError.
    """
    name = bundle.config.restore.removeprefix(SAVEPOINT)
    header, source = savepoints_of(log).read(name)
    manifest = source.manifest
    check_restore(bundle.graph, manifest, f"savepoint {name!r}", bundle.config.allow_non_restored_state)
    _refuse_repeated_output(bundle, name, header.facts.checkpoint)
    for problem in source.problems():
        raise DamagedObjectError(problem.object_name, f"{problem.reason}; savepoint {name!r} cannot be restored")
    claimed = log.claim(token)
    started = time.monotonic()
    checkpoint, attempt = max(claimed.next_checkpoint, manifest.checkpoint + 1), claimed.next_attempt
    instance = os.urandom(16).hex()
    target = Target(
        log.store,
        claimed.data_key,
        origin_of(bundle.application, claimed.claim),
        checkpoint,
        lambda n: data_object_name(claimed.claim, checkpoint, attempt, instance, f"restored-{n}"),
    )
    states = repack(source, target)
    moved = replace(
        _with_states(manifest, states, (time.monotonic() - started) * 1e3),
        application=bundle.application,
        origin=target.origin,
        claim=claimed.claim,
        checkpoint=checkpoint,
        attempt=attempt,
        created_at_us=time.time_ns() // 1000,
    )
    appended = log.append_manifest(moved)
    if not appended.complete:
        raise StorageError(f"savepoint {name!r} could not be made a checkpoint of this run: {appended.reason}; start again")
    claimed = replace(claimed, next_checkpoint=checkpoint + 1, next_attempt=attempt + 1)
    line = f"restoring savepoint {name} (checkpoint {header.facts.checkpoint} of claim {header.facts.claim}) of {log.store.uri}, as checkpoint {checkpoint}"
    return Readable(moved, appended.name), claimed, line


def _with_states(manifest: Manifest, states: tuple[StateRef, ...], duration_ms: float = 0.0) -> Manifest:
    """The manifest over copied states: full, and without transactions."""
    rows = sum(chunk.rows for state in states for chunk in state.chunks)
    stats = CheckpointStats(sealed_bytes(states), 0, rows, duration_ms, 0.0, True)
    return replace(manifest, states=states, transactions={}, stats=stats)


def _refuse_repeated_output(bundle: JobBundle, name: str, checkpoint: int) -> None:
    """An output with rows of later checkpoints would get them again (rule 20)."""
    if bundle.config.allow_repeated_output:
        return
    for uid, sink, _ in sinks_of(bundle.graph):
        newest = sink.newest_checkpoint(uid)
        if newest > checkpoint:
            raise RestoreError(
                f"sink {uid!r} ({sink.describe()}) shows rows of checkpoint {newest}, savepoint {name!r} is of checkpoint {checkpoint}: restoring it would "
                "write them again; give the job another output, or --allow-repeated-output to accept that"
            )
