"""What a JobManager has while it leads: the job core, the gate to the journal, storage, and calls to TaskManagers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from flinkray.checkpoint.base import ObjectStore
from flinkray.checkpoint.key_providers import LocalKeyProvider
from flinkray.checkpoint.keys import KeyProvider
from flinkray.checkpoint.sealing import KEY_BYTES
from flinkray.core.degraded import DegradedPolicy
from flinkray.core.gate import JournalGate
from flinkray.core.job import JobCore
from flinkray.core.job_events import JobEvent
from flinkray.core.messages import Command, Deploy
from flinkray.runtime.job_manager import job_settings
from flinkray.runtime.job_storage import JobStorage
from flinkray.runtime.sinks import transactional_uids
from flinkray.runtime.task_manager import JobBundle, Secrets
from flinkray.testing.simulation.calls import TaskManagerCalls
from flinkray.testing.simulation.lane import Lane
from flinkray.testing.simulation.world import Process

if TYPE_CHECKING:
    from flinkray.testing.simulation.cluster import Cluster

DEGRADED = DegradedPolicy(migrates=True, late_s=0.3, late_reports=1, pause_s=0.5)
SEARCH_S = 0.4
"""Simulated jobs are over in seconds."""

KEY = LocalKeyProvider(b"simulated".ljust(KEY_BYTES), "the simulation's key")


class SimulatedStorage(JobStorage):
    """Opens the process's own client of the simulated disk, and waits in virtual time."""

    def __init__(self, bundle: JobBundle, token: str, hash_seed: int, store: ObjectStore, process: Process) -> None:
        super().__init__(bundle, token, lambda: hash_seed)
        self._given = store
        self._stop = _VirtualEvent(process)

    def _provider(self) -> KeyProvider:
        return KEY

    def _open_store(self) -> ObjectStore:
        return self._given


class _VirtualEvent(threading.Event):
    def __init__(self, process: Process) -> None:
        super().__init__()
        self._process = process

    def wait(self, timeout: float | None = None) -> bool:
        if not self.is_set() and timeout is not None:
            self._process.sleep(timeout)
        return self.is_set()


class Reign:
    """Dropped when its process is deposed."""

    def __init__(
        self, process: Process, store: ObjectStore, cluster: Cluster, bundle: JobBundle, token: str, give: Callable[[JobEvent], None]
    ) -> None:
        settings = replace(job_settings(bundle.config), degraded=DEGRADED, search_s=SEARCH_S)
        self.core = JobCore(bundle.graph, settings, token, transactional_uids(bundle.graph), bundle.graph_at)
        self.gate = JournalGate()
        self.storage = SimulatedStorage(bundle, token, cluster.world.seed, store, process)
        self.io = Lane(process)
        self.sweeper = Lane(process)
        self.savepoints = Lane(process)
        self.calls = TaskManagerCalls(process, cluster, lambda: self.core.epoch, give)
        self.over = False

    def send(self, instance: str, command: Command) -> None:
        secrets = None
        if isinstance(command.body, Deploy):
            data_key, data_keys = self.storage.data_keys()
            secrets = Secrets(b"simulated", data_key, data_keys)
        self.calls.send(instance, command, secrets)

    def close(self) -> None:
        self.over = True
        self.storage.stop_waiting()
        self.io.close()
        self.sweeper.close()
        self.savepoints.close()
        self.calls.close()
