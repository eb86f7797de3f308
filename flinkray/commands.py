"""Commands that look at or end a job from another process: through its record on this machine, else through the Ray cluster it runs in."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from typing import Any

from flinkray.config import JOB_NAME
from flinkray.errors import UsageError, WaitTimeoutError
from flinkray.runtime.record import ENDED, JobRecord, Record, age_ms, all_records, writer_lives

FRESH_MS = 2_000
"""A record older than this, of a job that has not ended, is not its present."""

CANCEL_TIMEOUT_S = 60.0
GONE = "nothing:"


def list_jobs(as_json: bool) -> int:
    """Every job known here, the newest status of each."""
    records = all_records()
    if cluster := os.environ.get("RAY_ADDRESS"):
        for name, copy in _copies(cluster, os.environ.get("RAY_AUTH_MODE", "")).items():
            records[name] = _newer(records.get(name), copy)
    documents = [_present(records[name]) for name in sorted(records)]
    if as_json:
        print(json.dumps(documents, indent=2))
        return 0
    if not documents:
        print("no jobs")
    for document in documents:
        print(
            f"{document['name']:24} {document['status']:11} attempt {document['attempt']}  restarts {document['restarts']}  "
            f"in {document['records_in']:,}  out {document['records_out']:,}{'  (gone)' if document['waiting_for'].startswith(GONE) else ''}"
        )
    return 0


def status(name: str, as_json: bool, watch: bool) -> int:
    while True:
        document = _present(find_record(name))
        if as_json:
            print(json.dumps(document, indent=None if watch else 2), flush=True)
        else:
            print(_readable(document), flush=True)
        if not watch or document["status"] in ENDED:
            return 0
        time.sleep(1.0)


def find_record(name: str) -> Record:
    """The newest record of a running or ended job: the one in this user's home, or its copy in the GCS. UsageError when nobody knows it."""
    if not JOB_NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name of a job; see: flinkray list")
    record = JobRecord(name).read()
    cluster = os.environ.get("RAY_ADDRESS", "")
    if record is not None and record["status"]["status"] not in ENDED and record["address"] and age_ms(record) > FRESH_MS:
        record = _newer(record, _copies(record["address"], record["auth_mode"], name).get(name))
    if cluster and (record is None or record["address"] != cluster):
        copy = _copies(cluster, os.environ.get("RAY_AUTH_MODE", ""), name).get(name)
        record = _newer(record, copy) if copy is not None else record
    if record is None:
        raise UsageError(f"no job named {name!r} is known here; see: flinkray list (or set RAY_ADDRESS to the cluster it runs in)")
    return record


def cancel(name: str) -> int:
    """Ask the job to end, and wait until it has."""
    record = find_record(name)
    if record["status"]["status"] in ENDED:
        print(f"job {name} has ended already: {record['status']['status']}")
        return 0
    if not writer_lives(record):
        raise UsageError(
            f"job {name} is not running: its process {record['pid']} is gone; start it again to go on from its latest checkpoint"
        )
    if record["runtime"] == "local":
        if record["host"] != os.uname().nodename:
            raise UsageError(f"job {name} runs in a process on {record['host']}; cancel it there")
        JobRecord(name).request_cancel()
    else:
        _join_and_cancel(name, record)
    deadline = time.monotonic() + CANCEL_TIMEOUT_S
    while (found := record["status"]["status"]) not in ENDED and writer_lives(record):
        if time.monotonic() > deadline:
            raise WaitTimeoutError(
                f"job {name} was asked to end and is {found} after {CANCEL_TIMEOUT_S:.0f} s; it may still end; ask again safely"
            )
        time.sleep(0.1)
        record = find_record(name)
    print(f"job {name}: {found if found in ENDED else 'its process has ended'}")
    return 0


def drill(name: str, target: str, zone: str | None) -> int:
    """Cause a loss for real, and print what it did. Exit code 1 when the job does not run again."""
    if (target == "zone") != (zone is not None):
        raise UsageError("give a zone to lose with `drill NAME zone ZONE`, and with it only")
    record = find_record(name)
    if record["status"]["status"] in ENDED:
        raise UsageError(f"job {name} has ended: {record['status']['status']}")
    if record["runtime"] != "ray":
        raise UsageError(f"job {name} runs in one process: there is nothing of it that could be lost alone")
    join(name, record)
    from flinkray.runtime.ray.drill import drill as cause

    print("\n".join(cause(name, target, zone).lines()))
    return 0


def _join_and_cancel(name: str, record: Record) -> None:
    join(name, record).cancel()


def join(name: str, record: Record) -> Any:
    """The job, in the Ray cluster that this process has joined for it."""
    if record["auth_mode"]:
        os.environ["RAY_AUTH_MODE"] = record["auth_mode"]
    from flinkray.runtime.ray.submit import find_at

    job = find_at(name, record["address"])
    if job is None:
        raise UsageError(f"no running job named {name!r} was found in the Ray cluster at {record['address']}; see: flinkray list")
    return job


def _present(record: Record) -> dict[str, Any]:
    """The record's status, with its age, and marked when the process that wrote it is gone."""
    document = dict(record["status"])
    ended = document["status"] in ENDED
    document["stale_ms"] = 0 if ended else age_ms(record)
    if not ended and not writer_lives(record):
        document["waiting_for"] = f"{GONE} the JobManager's process {record['pid']} is gone; start the job again to go on"
    return document


def _newer(known: Record | None, other: Record | None) -> Record:
    candidates = [record for record in (known, other) if record is not None]
    return max(candidates, key=lambda record: record["written_at"])


def _copies(address: str, auth_mode: str, name: str | None = None) -> dict[str, Record]:
    """What the cluster tells; nothing, with a word on stderr, when it does not answer. The port is probed first: connecting to a dead
    cluster can hang for minutes."""
    from flinkray.runtime.ray.status_copy import answers, read_copies

    if answers(address):
        with suppress(TimeoutError):
            return read_copies(address, auth_mode, name)
    print(f"flinkray: the Ray cluster at {address} does not answer", file=sys.stderr)
    return {}


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
    for tm in document["task_managers"]:
        degraded = f"  DEGRADED: {tm['degraded']}" if tm.get("degraded") else ""
        lines.append(f"  {tm['id']} pid {tm['pid']} {tm['role']} {', '.join(tm['tasks'])}{degraded}")
    lines += [f"  waiting for {document['waiting_for']}"] if document.get("waiting_for") else []
    lines += [f"  error: {document['error']}"] if document.get("error") else []
    lines += [f"  as of {document['stale_ms'] / 1e3:.1f} s ago"] if document["stale_ms"] > FRESH_MS else []
    return "\n".join(lines)
