"""`flinkray savepoint ...`: what storage holds, and what a running job is asked for from another process."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from flinkray.checkpoint.savepoint_format import check_savepoint_name
from flinkray.checkpoint.savepoints import SavepointInfo, SavepointState
from flinkray.checkpoint.state_reader import StateReader
from flinkray.commands import find_record
from flinkray.errors import JobFailedError, RestoreError, UsageError, WaitTimeoutError
from flinkray.runtime.record import ENDED, JobRecord, Record, writer_lives

_POLL_S = 0.1


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
    record = find_record(reader.application)
    if record["status"]["status"] in ENDED or not writer_lives(record):
        raise UsageError(f"job {reader.application} is not running: a savepoint is made of a running job; see: flinkray list")
    if record["runtime"] == "local":
        info = _ask_process(reader, name, record, timeout_s)
    else:
        _ask_cluster(reader.application, name, record, timeout_s)
        info = reader.savepoints.describe(name)
    _show(info, as_json)
    return 0


def _ask_cluster(application: str, name: str, record: Record, timeout_s: float) -> None:
    if record["auth_mode"]:
        os.environ["RAY_AUTH_MODE"] = record["auth_mode"]
    from flinkray.runtime.ray.submit import find_at

    job = find_at(application, record["address"])
    if job is None:
        raise UsageError(f"no running job named {application!r} was found in the Ray cluster at {record['address']}; see: flinkray list")
    job.savepoint(name, timeout_s)


def _ask_process(reader: StateReader, name: str, record: Record, timeout_s: float) -> SavepointInfo:
    """Of the one-process runtime: through a file in its home; storage tells how it went."""
    if record["host"] != os.uname().nodename:
        raise UsageError(f"job {reader.application} runs in a process on {record['host']}; ask for the savepoint there")
    JobRecord(reader.application).request_savepoint(name)
    deadline = time.monotonic() + timeout_s
    while True:
        info = _look(reader, name)
        if info is not None and info.state is SavepointState.READY:
            return info
        if info is not None and info.state is SavepointState.FAILED:
            raise JobFailedError(f"savepoint {name!r} of {reader.application} FAILED: {info.reason}; delete it before another try")
        if info is None and not _lives(reader.application):
            raise JobFailedError(f"job {reader.application} has ended before savepoint {name!r} was begun")
        if time.monotonic() > deadline:
            raise WaitTimeoutError(f"savepoint {name!r} of {reader.application} is not READY after {timeout_s:g} s; it may still become so")
        time.sleep(_POLL_S)


def _lives(application: str) -> bool:
    record = find_record(application)
    return record["status"]["status"] not in ENDED and writer_lives(record)


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
