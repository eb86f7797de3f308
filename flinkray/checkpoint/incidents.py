"""Incidents in storage: what failed in user code, sealed, under `incidents/<data key>/<name>`. The latest of each operator subtask and claim."""

from __future__ import annotations

import json
import re

from flinkray.checkpoint.base import ObjectStore
from flinkray.checkpoint.keys import DataKey, KeyRing
from flinkray.checkpoint.names import INCIDENTS_FOLDER, parse_incident
from flinkray.checkpoint.sealing import seal, unseal
from flinkray.errors import RestoreError

KEPT = 20
"""Of older ones the rest is deleted when another one is saved."""


def incident_name(claim: int, uid: str, subtask: int) -> str:
    return f"c{claim}-{re.sub(r'[^A-Za-z0-9_.-]', '-', uid)}-{subtask}"


def save_incident(store: ObjectStore, data_key: DataKey, application: str, name: str, content: bytes) -> None:
    """Raises StorageError."""
    object_name = f"{INCIDENTS_FOLDER}{data_key.key_id}/{name}"
    store.put(object_name, seal(data_key.secret, _place(application, object_name), content))
    others = [other for other in list_incidents(store) if other != object_name]
    store.delete(others[: -(KEPT - 1)])


def list_incidents(store: ObjectStore) -> list[str]:
    """Objects, those of older claims first."""
    found = [(parsed.claim, name) for name in store.list(INCIDENTS_FOLDER) if (parsed := parse_incident(name)) is not None]
    return [name for _, name in sorted(found)]


def read_incident(store: ObjectStore, ring: KeyRing, application: str, name: str | None) -> tuple[str, bytes]:
    """(Its name, what was saved); the newest claim's last one without a name. Raises RestoreError naming those there are, StorageError,
    KeyUnavailableError, DamagedObjectError."""
    found = {parsed.name: object_name for object_name in list_incidents(store) if (parsed := parse_incident(object_name)) is not None}
    if not found or (name is not None and name not in found):
        wanted = f"incident {name!r}" if name is not None else "incident"
        raise RestoreError(f"there is no {wanted} of {application} in {store.uri}; there are: {', '.join(found) or 'none'}")
    chosen = name if name is not None else list(found)[-1]
    parsed = parse_incident(found[chosen])
    assert parsed is not None
    secret = ring.get(parsed.data_key_id).secret
    return chosen, unseal(secret, _place(application, found[chosen]), store.get(found[chosen]), found[chosen])


def _place(application: str, object_name: str) -> bytes:
    return json.dumps(["flinkray incident 1", application, object_name]).encode()
