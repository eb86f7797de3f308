"""Stored state as Arrow tables: for a notebook, a check, or a repair. Works without Ray and without a running job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from flinkray.config import KeyConfig


def read_state(
    storage: str,
    app: str,
    operator: str,
    at: str | int = "latest",
    key: Any = None,
    state: str | None = None,
    encryption_key: KeyConfig | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> pa.Table:
    """The keyed state of one operator: key columns, `window_start` and `window_end` where there is a window, and each aggregate under its
    name, as its answer would be now.

    `storage`: as in `Checkpointing`. `operator`: its uid. `at`: "latest", a checkpoint's id, or "savepoint:NAME". `key`: only this key, a value, or a tuple
    for several key columns. `state`: instead of the decoded table the chunks of this named state as they were written, with `_subtask`
    and `_chunk`; "timers": those of a process function, with `key`, `time` and `domain` ("event" or "processing"). `encryption_key`: what sealed it, `KeyFile` or `KeyEnv`; else FLINKRAY_KEY, or the key in the home folder.

    Of a process function: `key` (or `key0`, `key1`, ...) and a column for each of its states, null where the key has none. Of joins,
    rankings and deduplication: the rows that they keep, with `side`, `event_time` and `partners` or `has_partner` where there is such a thing.
    A window's row is there while the window is open (for a sliding window one row per open window). Tables of pyarrow go to pandas with
    `.to_pandas()`, to Polars with `polars.from_arrow`, and DuckDB queries them by name.

    Raises UsageError and RestoreError (an unknown application, checkpoint, operator, or state that has no decoded form),
    KeyUnavailableError, DamagedObjectError, StorageError.
    """
    from flinkray.runtime.inspection import open_saved
    from flinkray.runtime.inspection import read_state as read

    return read(open_saved(storage, app, at, encryption_key, storage_options), operator, key, state)


def list_state(
    storage: str,
    app: str,
    at: str | int = "latest",
    encryption_key: KeyConfig | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> pa.Table:
    """What state a checkpoint holds: a row for each operator, named state and subtask, with key groups (null for list state), stored
    rows (deltas included) and sealed bytes. Arguments and errors as for `read_state`."""
    from flinkray.runtime.inspection import list_state as listed
    from flinkray.runtime.inspection import open_saved

    return listed(open_saved(storage, app, at, encryption_key, storage_options))


def write_savepoint(
    storage: str,
    app: str,
    name: str,
    tables: Mapping[str, pa.Table],
    base: str | int = "latest",
    encryption_key: KeyConfig | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Make savepoint `name` of a checkpoint or savepoint (`base`: "latest", an id, or "savepoint:NAME") with the state of some operators replaced: to repair a
    job, or to begin one with totals that were computed elsewhere. Returns what `flinkray savepoint describe --json` prints.

    `tables`: by operator uid all its keys, as `read_state` gives them: key columns and aggregates by name, each key once. A key that is left out is
    gone. For running aggregates (`key_by().aggregate()`) of count, sum, min and max over numbers and times, of others (mean, first, collect_list...) the result does not tell
    what is kept, and for all state of process functions, where null is no value (timers stay; a time to live begins with the restore). Everything else, source offsets included,
    is as in `base`; a base without rows comes from `flinkray stop APP --savepoint NAME` over an empty input.

    Raises UsageError (a table that does not fit, a name that is taken), and what `read_state` raises. Nothing of `base` changes.
    """
    from flinkray.checkpoint.state_reader import StateReader
    from flinkray.runtime.inspection import open_saved
    from flinkray.runtime.state_writing import write_savepoint as write

    saved = open_saved(storage, app, base, encryption_key, storage_options)
    return write(saved, StateReader(storage, app, encryption_key, storage_options).savepoints, name, tables)
