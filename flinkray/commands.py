"""Commands that look at or end a job from another process: through its record on this machine, else through the Ray cluster it runs in."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from typing import Any

from flinkray.errors import UsageError, WaitTimeoutError
from flinkray.runtime.record import ENDED, JobRecord, alive, all_records

FRESH_MS = 2_000
"""A record older than this, of a job that has not ended, is not its present."""

CANCEL_TIMEOUT_S = 60.0
PROBE_TIMEOUT_S = 1.0


def list_jobs(as_json: bool) -> int:
    """Every job known here, the newest status of each."""
    documents = [_present(name, record) for name, record in all_records().items()]
    if as_json:
        print(json.dumps(documents, indent=2))
        return 0
    if not documents:
        print("no jobs")
    for document in documents:
        print(
            f"{document['name']:24} {document['status']:11} attempt {document['attempt']}  restarts {document['restarts']}  "
            f"in {document['records_in']:,}  out {document['records_out']:,}"
        )
    return 0


def status(name: str, as_json: bool, watch: bool) -> int:
    while True:
        document = find_status(name)
        print(json.dumps(document, indent=2) if as_json else _readable(document), flush=True)
        if not watch or document["status"] in ENDED:
            return 0
        time.sleep(1.0)


def find_status(name: str) -> dict[str, Any]:
    """The status document of a running or ended job. UsageError when nobody knows it."""
    record = JobRecord(name).read()
    if record is not None:
        return _present(name, record)
    if os.environ.get("RAY_ADDRESS"):
        job = _ray_job(name, os.environ["RAY_ADDRESS"], os.environ.get("RAY_AUTH_MODE", ""))
        if job is not None:
            return job.status()
    raise UsageError(f"no job named {name!r} is known here; see: flinkray list (or set RAY_ADDRESS to the cluster it runs in)")


def cancel(name: str) -> int:
    """Ask the job to end, and wait until it has."""
    record = JobRecord(name)
    document = record.read()
    if document is not None and document["status"]["status"] in ENDED:
        print(f"job {name} has ended already: {document['status']['status']}")
        return 0
    if document is not None and document["runtime"] == "local":
        return _cancel_local(name, record, document)
    address = document["address"] if document is not None else os.environ.get("RAY_ADDRESS", "")
    job = _ray_job(name, address, document.get("auth_mode", "") if document else "") if address else None
    if job is None:
        raise UsageError(f"no running job named {name!r} was found; see: flinkray list")
    job.cancel()
    deadline = time.monotonic() + CANCEL_TIMEOUT_S
    while (found := job.status()["status"]) not in ENDED:
        if time.monotonic() > deadline:
            raise WaitTimeoutError(f"job {name} was asked to end and is {found} after {CANCEL_TIMEOUT_S:.0f} s; it may still end; ask again safely")
        time.sleep(0.1)
    print(f"job {name}: {found}")
    return 0


def _cancel_local(name: str, record: JobRecord, document: dict[str, Any]) -> int:
    if not alive(document["pid"]):
        raise UsageError(f"job {name} is not running: its process {document['pid']} is gone; start it again to go on from its latest checkpoint")
    record.request_cancel()
    deadline = time.monotonic() + CANCEL_TIMEOUT_S
    while alive(document["pid"]):
        now = record.read()
        if now is not None and now["status"]["status"] in ENDED:
            print(f"job {name}: {now['status']['status']}")
            return 0
        if time.monotonic() > deadline:
            raise WaitTimeoutError(f"job {name} was asked to end and has not in {CANCEL_TIMEOUT_S:.0f} s; it may still end; ask again safely")
        time.sleep(0.1)
    print(f"job {name}: its process has ended")
    return 0


def _present(name: str, record: dict[str, Any]) -> dict[str, Any]:
    """The record's status, with its age, and marked when the process that wrote it is gone."""
    job_record = JobRecord(name)
    document = dict(record["status"])
    document["stale_ms"] = 0 if document["status"] in ENDED else job_record.age_ms(record)
    if document["stale_ms"] > FRESH_MS and not alive(record.get("pid", 0)):
        document["waiting_for"] = f"nothing: the JobManager's process {record.get('pid')} is gone; start the job again to go on"
    return document


def _ray_job(name: str, address: str, auth_mode: str) -> Any:
    """A handle through the cluster, or None. The port is probed first: connecting to a dead cluster can hang for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), PROBE_TIMEOUT_S).close()
        except OSError:
            print(f"flinkray: the Ray cluster at {address} does not answer", file=sys.stderr)
            return None
    if auth_mode:
        os.environ["RAY_AUTH_MODE"] = auth_mode
    from flinkray.runtime.ray.submit import find_at

    return find_at(name, address)


def _readable(document: dict[str, Any]) -> str:
    checkpoints, timing = document["checkpoints"], document["timing"]
    lines = [
        f"{document['name']}: {document['status']} (attempt {document['attempt']}, restarts {document['restarts']})",
        f"  rows in {document['records_in']:,}, out {document['records_out']:,}, late {document['late_rows']:,}, "
        f"skipped {document['skipped_rows']:,}, dead letters {document['dead_letter_rows']:,}",
        f"  watermark {document['watermark'] or '-'}",
        f"  checkpoints {checkpoints['completed']} complete, {checkpoints['failed']} failed, latest {checkpoints['latest_id'] or '-'}"
        f" ({checkpoints['latest_duration_ms'] or 0} ms, {checkpoints['latest_bytes'] or 0:,} bytes)",
        f"  submitted {timing['submitted_at']}, running {timing['running_at'] or '-'}, finished {timing['finished_at'] or '-'}",
    ]
    lines += [f"  {tm['id']} pid {tm['pid']} {tm['role']} {', '.join(tm['tasks'])}" for tm in document["task_managers"]]
    lines += [f"  waiting for {document['waiting_for']}"] if document.get("waiting_for") else []
    lines += [f"  error: {document['error']}"] if document.get("error") else []
    lines += [f"  as of {document['stale_ms'] / 1e3:.1f} s ago"] if document["stale_ms"] > FRESH_MS else []
    return "\n".join(lines)
