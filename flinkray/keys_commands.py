"""`flinkray keys generate|list|rotate`: the keys that wrap data keys, of an application's checkpoints and of its savepoints."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from flinkray.checkpoint.base import ObjectStore
from flinkray.checkpoint.folder_store import FolderStore
from flinkray.checkpoint.key_providers import generate_key_file, resolve_provider
from flinkray.checkpoint.keys import drop_wrappings, rewrap, wrappings
from flinkray.checkpoint.store import open_store
from flinkray.config import key_config
from flinkray.errors import RestoreError, UsageError
from flinkray.storage_commands import known_storage


def keys(options: argparse.Namespace) -> int:
    """Carry out `flinkray keys ...`; returns the exit code."""
    if options.keys_command == "generate":
        print(f"key {generate_key_file(options.path)} is in {options.path}; keep a copy: without it no checkpoint can be read")
        return 0
    storage = options.storage or known_storage(options.application)
    store = open_store(storage, options.application)
    if not store.list(""):
        raise RestoreError(f"there is no application {options.application!r} in {storage}: nothing was ever written there")
    if options.keys_command == "list":
        return _list(store, options.json)
    return _rotate(store, storage, options)


def _list(store: ObjectStore, as_json: bool) -> int:
    found = [{"place": place, "key_id": key, "data_keys": count} for place, part in _places(store) for key, count in _counts(part)]
    if as_json:
        print(json.dumps(found, indent=2))
        return 0
    for one in found:
        print(f"{one['key_id']:24} opens {one['data_keys']} data keys of {one['place']}")
    return 0


def _counts(store: ObjectStore) -> list[tuple[str, int]]:
    counts: dict[str, int] = {}
    for key_ids in wrappings(store).values():
        for key_id in key_ids:
            counts[key_id] = counts.get(key_id, 0) + 1
    return sorted(counts.items())


def _rotate(store: ObjectStore, storage: str, options: argparse.Namespace) -> int:
    """Data keys are wrapped anew, and no data is rewritten."""
    old = resolve_provider(key_config(options.key) if options.key else None, storage, make=False)
    new = resolve_provider(key_config(options.to_key), storage, make=False)
    if old.key_id == new.key_id:
        raise UsageError(f"--to-key is the same key as --key ({old.key_id})")
    added = dropped = 0
    for _, part in _places(store):
        added += rewrap(part, old, new)
    if options.drop_old:
        for _, part in _places(store):
            dropped += drop_wrappings(part, old.key_id, new)
    result: dict[str, Any] = {"from": old.key_id, "to": new.key_id, "wrapped": added, "dropped": dropped}
    if options.json:
        print(json.dumps(result, indent=2))
        return 0
    print(
        f"{added} data keys are wrapped by key {new.key_id} now; give it to the job from its next start on (Checkpointing(key=...) or FLINKRAY_KEY)"
    )
    if options.drop_old:
        print(f"{dropped} wrappings by key {old.key_id} are deleted: it opens nothing here any more")
    else:
        print(f"key {old.key_id} opens them, too, as long as it is there; --drop-old ends that")
    return 0


def _places(store: ObjectStore) -> Iterator[tuple[str, ObjectStore]]:
    """The application's own data keys, and each savepoint's."""
    yield "checkpoints", store
    folders = {name.split("/keys/")[0] for name in store.list("savepoints/") if "/keys/" in name}
    for folder in sorted(folders):
        yield f"savepoint {folder.split('/')[1]}", FolderStore(store, f"{folder}/")
