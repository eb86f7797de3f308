"""Who holds the blocks of Datasets: an actor that hands them out by name, so that no object reference is in a job, a checkpoint or a log.

One for a process that makes jobs, which ends with it; one of its own for a job that is detached, which ends with the job.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from flinkray.errors import StorageError
from flinkray.runtime.ray.names import NAMESPACE
from flinkray.runtime.ray.task_manager_actor import has_job_manager

Ref: TypeAlias = Any
"""An ObjectRef of a block."""

TIMEOUT_S = 60.0
START_S = 600.0
"""A detached job has so long to start."""
GONE_S = 60.0
"""Without a JobManager for so long, it is over."""
LOOK_S = 10.0


class BlocksLostError(Exception):
    """The actor, or a block, is gone for good."""


@dataclass(frozen=True)
class Written:
    """What a sink's transaction brought: named by who wrote it when."""

    uid: str
    claim: int
    attempt: int
    refs: list[Ref]


class BlocksActor:
    """`given`: the blocks of Datasets that are read, `written`: transactions of sinks, by Dataset."""

    def __init__(self, job: str = "") -> None:
        self._given: dict[str, list[Ref]] = {}
        self._written: dict[str, dict[str, Written]] = {}
        self._committed: dict[str, list[str]] = {}
        self._lock = threading.Lock()
        if job:
            threading.Thread(target=_watch, args=(job,), name="flinkray-blocks", daemon=True).start()

    def give(self, dataset: str, refs: list[Ref], own: bool) -> None:
        """`own`: copied, so that they live as long as this actor, whoever made them."""
        self._given[dataset] = copied(refs) if own else refs

    def block(self, dataset: str, number: int) -> list[Ref]:
        return [self._given[dataset][number]]

    def prepare(self, dataset: str, name: str, written: Written) -> None:
        """Copied: what a TaskManager has put ends with it."""
        written = replace(written, refs=copied(written.refs))
        with self._lock:
            self._written.setdefault(dataset, {})[name] = written

    def commit(self, dataset: str, names: Sequence[str]) -> list[str]:
        """Returns those that it does not know."""
        with self._lock:
            known, committed = self._written.get(dataset, {}), self._committed.setdefault(dataset, [])
            committed += [name for name in names if name in known and name not in committed]
            return [name for name in names if name not in known]

    def discard_older(self, dataset: str, uid: str, claim: int, attempt: int) -> None:
        with self._lock:
            known, committed = self._written.get(dataset, {}), self._committed.get(dataset, [])
            for name, one in list(known.items()):
                if one.uid == uid and name not in committed and (one.claim, one.attempt) < (claim, attempt):
                    del known[name]

    def take(self, dataset: str) -> list[Ref]:
        """Committed blocks in the order of their commits. They are the caller's now."""
        with self._lock:
            written, names = self._written.pop(dataset, {}), self._committed.pop(dataset, [])
        return [ref for name in names for ref in written[name].refs]


def _watch(job: str) -> None:
    """Ends the process when the job has."""
    left_s = START_S
    while left_s > 0:
        time.sleep(LOOK_S)
        try:
            left_s = GONE_S if has_job_manager(job) else left_s - LOOK_S
        except RayError:  # the GCS is away: nothing is known
            continue
    os._exit(0)


def copied(refs: Sequence[Ref], at_once: int = 4) -> list[Ref]:
    """The same blocks, owned by the caller, each where the one was. Takes no CPUs: those may all be a job's."""
    made: list[Ref] = []
    for ref in refs:
        if len(made) >= at_once:
            ray.wait([made[-at_once]], timeout=None, fetch_local=False)
        made.append(_copy.remote(ref))
    if made:
        ray.wait(made, num_returns=len(made), timeout=None, fetch_local=False)
    return made


def _same(block: Any) -> Any:
    return block


_copy = ray.remote(num_cpus=0, max_retries=3)(_same)


_names: dict[str, str] = {}
"""Of this process's actors, by the job that outlives it; "": of all others."""
_kept: list[Any] = []
"""A handle of each: an actor without one ends."""


def blocks_actor(job: str = "") -> str:
    """The name of the actor, which is made when there is none. `job`: one that outlives this process."""
    name = _names.get(job)
    if name is None or not _is_there(name):
        name = _names[job] = f"{job or 'driver'}/blocks-{secrets.token_hex(8)}"
        made = ray.remote(num_cpus=0, max_concurrency=8)(BlocksActor).options(
            name=name, namespace=NAMESPACE, lifetime="detached" if job else None
        )
        _kept.append(made.remote(job))
        ray.get(_kept[-1].__ray_ready__.remote(), timeout=TIMEOUT_S)
    return name


def _is_there(name: str) -> bool:
    try:
        ray.get_actor(name, NAMESPACE)
    except ValueError:
        return False
    return True


class Blocks:
    """The actor of this name, called from any process. StorageError when it does not answer, BlocksLostError when it never will."""

    def __init__(self, name: str) -> None:
        try:
            self._actor = ray.get_actor(name, NAMESPACE)
        except ValueError as error:
            raise BlocksLostError("the process that held them has ended") from error

    def call(self, method: str, *arguments: Any) -> Any:
        return _get(getattr(self._actor, method).remote(*arguments))

    def block(self, dataset: str, number: int) -> Any:
        (ref,) = self.call("block", dataset, number)
        return _get(ref)


def _get(ref: Ref) -> Any:
    try:
        return ray.get(ref, timeout=TIMEOUT_S)
    except GetTimeoutError as error:
        raise StorageError(f"Ray's object store did not give a block in {TIMEOUT_S:.0f} s: {error}") from error
    except (RayActorError, ray.exceptions.ObjectLostError) as error:
        raise BlocksLostError(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
