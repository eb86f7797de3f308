"""`flinkray savepoint ...`: what storage holds, and what a running job is asked for from another process."""

from __future__ import annotations

import json
from typing import Any

from flinkray.checkpoint.savepoint_format import check_savepoint_name
from flinkray.checkpoint.savepoints import SavepointInfo
from flinkray.checkpoint.state_reader import StateReader
from flinkray.errors import RestoreError, UsageError
from flinkray.job_requests import ask_running


def list_savepoints(reader: StateReader, as_json: bool) -> int:
    found = reader.savepoints.list()
    if as_json:
        print(json.dumps([info.document() for info in found], indent=2))
        return 0
    if not found:
        print(f"no savepoints of {reader.application} in {reader.store.uri}")
    for info in found:
        document = info.document()
        size = f"checkpoint {document['checkpoint']}, {document['bytes']:,} bytes" if info.header else info.reason
        print(f"{info.name:24} {info.state.value:9} {document.get('created_at', document['begun_at'])}  {size}")
    return 0


def describe_savepoint(reader: StateReader, name: str, as_json: bool) -> int:
    _show(reader.savepoints.describe(name), as_json)
    return 0


def delete_savepoint(reader: StateReader, name: str) -> int:
    reader.savepoints.delete(name)
    print(f"savepoint {name} of {reader.application} is deleted")
    return 0


def copy_savepoint(reader: StateReader, name: str, target: StateReader, new_name: str, as_json: bool) -> int:
    reader.savepoints.copy(name, target.savepoints, new_name)
    _show(target.savepoints.describe(new_name), as_json)
    return 0


def create_savepoint(reader: StateReader, name: str, timeout_s: float, as_json: bool) -> int:
    """Ask the running job, and wait. Raises UsageError when no job runs or the name is taken, JobFailedError when it FAILED."""
    check_savepoint_name(name)
    taken = _look(reader, name)
    if taken is not None:
        raise UsageError(f"savepoint {name!r} of {reader.application} exists already ({taken.state.value}); names are taken once")
    ask_running(reader.application, "savepoint", {"name": name}, timeout_s)
    _show(reader.savepoints.describe(name), as_json)
    return 0


def _look(reader: StateReader, name: str) -> SavepointInfo | None:
    try:
        return reader.savepoints.describe(name)
    except RestoreError:
        return None


def _show(info: SavepointInfo, as_json: bool) -> None:
    document: dict[str, Any] = info.document()
    if as_json:
        print(json.dumps(document, indent=2))
        return
    print(f"savepoint {document.pop('name')}: {document.pop('state')}")
    for field, value in document.items():
        print(f"  {field:15} {value:,}" if isinstance(value, int) else f"  {field:15} {value}")
