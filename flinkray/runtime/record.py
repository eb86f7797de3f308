"""What other processes of this user may know of a job: a small file for each under `~/.flinkray/jobs/`, rewritten about twice a second."""

from __future__ import annotations

import json
import os
import tempfile
import time
from contextlib import suppress
from typing import Any

from flinkray.config import flinkray_home
from flinkray.errors import FlinkrayError

ENDED = ("FINISHED", "STOPPED", "CANCELLED", "FAILED")

Record = dict[str, Any]
"""runtime, address and auth_mode of the cluster, host, pid and process of the writer, written_at (wall clock), status (the document)."""

SILENT_S = 10.0
"""A writer on another host that has written nothing for so long is taken for dead."""


def new_record(status: dict[str, Any], address: str = "", auth_mode: str = "") -> Record:
    """As of now, by this process. Without `address`: the one-process runtime."""
    return {
        "runtime": "ray" if address else "local",
        "address": address,
        "auth_mode": auth_mode,
        "host": os.uname().nodename,
        "pid": os.getpid(),
        "process": process_start(os.getpid()),
        "written_at": time.time(),
        "status": status,
    }


class JobRecord:
    """Written by the process of the JobManager, and once by the driver; read by the command line."""

    def __init__(self, name: str) -> None:
        self._folder = os.path.join(flinkray_home(), "jobs")
        self._path = os.path.join(self._folder, f"{name}.json")
        self._cancel = os.path.join(self._folder, f"{name}.cancel")

    def write(self, record: Record) -> None:
        """Atomically; a full disk or a read-only home never ends the job."""
        with suppress(OSError):
            self._put(self._path, json.dumps(record, default=str).encode())

    def read(self) -> Record | None:
        try:
            with open(self._path) as file:
                return json.load(file)
        except (OSError, ValueError):
            return None

    def write_newer(self, record: Record) -> None:
        """Unless there is one already that was written later."""
        known = self.read()
        if known is None or known["written_at"] < record["written_at"]:
            self.write(record)

    def is_running_elsewhere(self) -> bool:
        """A job of this name is under way in another process, on whichever runtime and cluster."""
        record = self.read()
        if record is None or record["status"]["status"] in ENDED or record["pid"] == os.getpid():
            return False
        return writer_lives(record)

    def request_cancel(self) -> None:
        os.makedirs(self._folder, exist_ok=True)
        with open(self._cancel, "w") as file:
            file.write("cancel")

    def request(self, request: str, what: str, arguments: dict[str, Any]) -> None:
        """Of a job in another process of this machine; as `JobManager.ask`."""
        self._put(f"{self._path}.request.{request}", json.dumps({"request": request, "what": what, "arguments": arguments}).encode())

    def take_requests(self) -> list[dict[str, Any]]:
        """What was asked for since the last call."""
        prefix = f"{os.path.basename(self._path)}.request."
        found = []
        with suppress(OSError, ValueError):
            for entry in sorted(os.listdir(self._folder)):
                if entry.startswith(prefix):
                    path = os.path.join(self._folder, entry)
                    with open(path) as file:
                        found.append(json.load(file))
                    os.unlink(path)
        return found

    def answer(self, request: str, outcome: tuple[dict[str, Any] | None, FlinkrayError | None]) -> None:
        document, error = outcome
        told = {"document": document, "error": str(error) if error else "", "usage": error is not None and error.exit_code == 2}
        with suppress(OSError):
            self._put(f"{self._path}.answer.{request}", json.dumps(told).encode())

    def take_answer(self, request: str) -> dict[str, Any] | None:
        """document, error and usage; None: there is none yet."""
        path = f"{self._path}.answer.{request}"
        try:
            with open(path) as file:
                told: dict[str, Any] = json.load(file)
            os.unlink(path)
        except OSError:
            return None
        return told

    def _put(self, path: str, data: bytes) -> None:
        """Whole or not at all."""
        os.makedirs(self._folder, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self._folder, prefix=".")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)

    def take_cancel_request(self) -> bool:
        try:
            os.unlink(self._cancel)
        except OSError:
            return False
        return True


def all_records() -> dict[str, Record]:
    """Every record by job name."""
    folder = os.path.join(flinkray_home(), "jobs")
    names = sorted(entry[:-5] for entry in os.listdir(folder) if entry.endswith(".json")) if os.path.isdir(folder) else []
    found = {name: JobRecord(name).read() for name in names}
    return {name: record for name, record in found.items() if record is not None}


def age_ms(record: Record) -> int:
    return max(0, round((time.time() - record["written_at"]) * 1e3))


def writer_lives(record: Record) -> bool:
    """Its process is there. On another host only the record's age can tell."""
    if record["host"] != os.uname().nodename:
        return age_ms(record) < SILENT_S * 1e3
    return bool(record["process"]) and process_start(record["pid"]) == record["process"]


def process_start(pid: int) -> str:
    """When the process of this number began, as the kernel counts, so that a number used again is told apart; empty when it is gone.
    A zombie is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return "" if os.path.exists("/proc/self/stat") else _exists(pid)
    return "" if fields[0] in "ZX" else fields[19]


def _exists(pid: int) -> str:
    """Without /proc: whether there is a process of this number at all."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return "there"
    return "there"
