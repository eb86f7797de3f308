"""What a running job is asked for from another process: `flinkray stop`, `rescale` and `savepoint create`."""

from __future__ import annotations

import os
import secrets
import time
from typing import Any

from flinkray.commands import find_record, join
from flinkray.errors import JobFailedError, UsageError, WaitTimeoutError
from flinkray.runtime.record import ENDED, JobRecord, writer_lives

_POLL_S = 0.1
_LAST_WORDS_S = 3.0
"""A process that has just ended may still be writing its answer."""


def stop(name: str, savepoint: str | None, drain: bool, timeout_s: float) -> int:
    """End the job with a last checkpoint; returns the exit code when it has STOPPED."""
    record = find_record(name)
    ended = record["status"]["status"]
    if ended in ENDED and savepoint is None:
        print(f"job {name} has ended already: {ended}")
        return 0
    document = ask_running(name, "stop", {"savepoint": savepoint or "", "drain": drain}, timeout_s)
    made = f", savepoint {savepoint} of checkpoint {document['checkpoint']}" if document else ""
    print(f"job {name}: STOPPED{made}")
    return 0


def rescale(name: str, parallelism: int, timeout_s: float) -> int:
    """Returns the exit code when the job runs at the new parallelism."""
    ask_running(name, "rescale", {"parallelism": parallelism}, timeout_s)
    print(f"job {name} runs at parallelism {parallelism}")
    return 0


def ask_running(name: str, what: str, arguments: dict[str, Any], timeout_s: float) -> dict[str, Any] | None:
    """The savepoint's document where one was made. Raises UsageError when the job does not run or the request is wrong, JobFailedError when it was
    not done, WaitTimeoutError when that is not known in time."""
    record = find_record(name)
    if record["status"]["status"] in ENDED or not writer_lives(record):
        raise UsageError(f"job {name} is not running; see: flinkray list")
    if record["runtime"] == "local":
        if record["host"] != os.uname().nodename:
            raise UsageError(f"job {name} runs in a process on {record['host']}; ask there")
        return _ask_process(name, what, arguments, timeout_s)
    found: dict[str, Any] | None = join(name, record)._request(what, arguments, timeout_s, f"job {name}: {what} is not done")
    return found


def _ask_process(name: str, what: str, arguments: dict[str, Any], timeout_s: float) -> dict[str, Any] | None:
    """Through files in the user's home."""
    record, request = JobRecord(name), secrets.token_hex(8)
    record.request(request, what, arguments)
    deadline = time.monotonic() + timeout_s
    while (told := record.take_answer(request)) is None:
        known = record.read()
        if known is None or not (writer_lives(known) and known["status"]["status"] not in ENDED):
            deadline = min(deadline, time.monotonic() + _LAST_WORDS_S)
        if time.monotonic() > deadline:
            if known is None or known["status"]["status"] in ENDED or not writer_lives(known):
                raise JobFailedError(f"job {name} has ended before {what} was done; see: flinkray status {name}")
            raise WaitTimeoutError(f"job {name}: {what} is not done after {timeout_s:g} s; it may still happen")
        time.sleep(_POLL_S)
    if told["error"]:
        raise (UsageError if told["usage"] else JobFailedError)(told["error"])
    document: dict[str, Any] | None = told["document"]
    return document
