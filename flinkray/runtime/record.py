"""What other processes of this user may know of a job: a small file for each under `~/.flinkray/jobs/`, rewritten about twice a second."""

from __future__ import annotations

import json
import os
import tempfile
import time
from contextlib import suppress
from typing import Any

from flinkray.config import flinkray_home

ENDED = ("FINISHED", "STOPPED", "CANCELLED", "FAILED")


class JobRecord:
    """Written by the process of the JobManager; read by the command line."""

    def __init__(self, name: str) -> None:
        self._folder = os.path.join(flinkray_home(), "jobs")
        self._path = os.path.join(self._folder, f"{name}.json")
        self._cancel = os.path.join(self._folder, f"{name}.cancel")

    def write(self, document: dict[str, Any]) -> None:
        """Atomically; a full disk or a read-only home never ends the job."""
        with suppress(OSError):
            os.makedirs(self._folder, exist_ok=True)
            document = {**document, "written_at": time.time()}
            handle, temporary = tempfile.mkstemp(dir=self._folder, prefix=".")
            with os.fdopen(handle, "w") as file:
                json.dump(document, file, default=str)
            os.replace(temporary, self._path)

    def read(self) -> dict[str, Any] | None:
        try:
            with open(self._path) as file:
                return json.load(file)
        except (OSError, ValueError):
            return None

    def age_ms(self, document: dict[str, Any]) -> int:
        return max(0, round((time.time() - document.get("written_at", 0)) * 1e3))

    def is_running_elsewhere(self) -> bool:
        """A local job of this name lives in another process."""
        document = self.read()
        if document is None or document.get("runtime") != "local" or document["status"]["status"] in ENDED:
            return False
        pid = document.get("pid", 0)
        return pid != os.getpid() and alive(pid)

    def request_cancel(self) -> None:
        os.makedirs(self._folder, exist_ok=True)
        with open(self._cancel, "w") as file:
            file.write("cancel")

    def take_cancel_request(self) -> bool:
        try:
            os.unlink(self._cancel)
        except OSError:
            return False
        return True


def all_records() -> dict[str, dict[str, Any]]:
    """Every record by job name."""
    folder = os.path.join(flinkray_home(), "jobs")
    names = sorted(entry[:-5] for entry in os.listdir(folder) if entry.endswith(".json")) if os.path.isdir(folder) else []
    found = {name: JobRecord(name).read() for name in names}
    return {name: document for name, document in found.items() if document is not None}


def alive(pid: int) -> bool:
    """A process of this number exists on this machine."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
