"""What tests wait for and do while a job runs."""

from __future__ import annotations

import time

import pytest

import flinkray as fr

TIMEOUT_S = 120.0


def until_checkpoints(job: fr.JobHandle, completed: int) -> None:
    """Until so many were completed. A job that ends before has to be made longer (`tests.held`)."""
    deadline = time.monotonic() + TIMEOUT_S
    while (status := job.status())["checkpoints"]["completed"] < completed:
        assert status["status"] not in ("FINISHED", "STOPPED", "CANCELLED", "FAILED"), status
        assert time.monotonic() < deadline, status
        time.sleep(0.02)


def cancel(job: fr.JobHandle) -> None:
    job.cancel()
    with pytest.raises(fr.JobCancelledError):
        job.wait(TIMEOUT_S)
