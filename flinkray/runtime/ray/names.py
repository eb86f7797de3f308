"""Names of what a job has in a Ray cluster."""

from __future__ import annotations

from flinkray.config import MAX_STANDBYS

NAMESPACE = "flinkray"
KV_NAMESPACE = b"flinkray"
STATUS_PREFIX = b"status/"


MAX_JOB_MANAGERS = 1 + MAX_STANDBYS


def job_manager_name(job: str, number: int = 0) -> str:
    """`number`: 0 is the one that the driver makes, the others are standbys at first."""
    return f"{job}/job-manager" + (f"-{number}" if number else "")


def task_manager_name(job: str, run: str, name: str, instance: str) -> str:
    """Whose it is can be told from the name alone."""
    return f"{job}/{run}/{name}/{instance}"


def instance_of(job: str, run: str, actor_name: str) -> str:
    """Of a TaskManager of that run; empty for any other actor."""
    prefix = f"{job}/{run}/"
    return actor_name.rpartition("/")[2] if actor_name.startswith(prefix) else ""


def journal_prefix(run: str) -> bytes:
    return f"journal/{run}/".encode()


def journal_key(run: str, slot: int) -> bytes:
    return journal_prefix(run) + str(slot).encode()


def snapshot_prefix(run: str) -> bytes:
    return journal_prefix(run) + b"snapshot/"


def snapshot_key(run: str, slots: int) -> bytes:
    return snapshot_prefix(run) + str(slots).encode()


def status_key(job: str) -> bytes:
    return STATUS_PREFIX + job.encode()
