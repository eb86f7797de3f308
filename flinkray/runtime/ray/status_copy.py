"""A copy of each job's record in the GCS, renewed about twice a second: other hosts read it without joining the cluster, and it answers
also while the JobManager is frozen."""

from __future__ import annotations

import json
import os
import queue
import socket
import threading
from contextlib import suppress

import ray
from ray._private.services import canonicalize_bootstrap_address_or_die
from ray._raylet import GcsClient  # type: ignore[attr-defined]

from flinkray.runtime.ray.names import KV_NAMESPACE, STATUS_PREFIX, status_key
from flinkray.runtime.record import Record

TIMEOUT_S = 2
PROBE_TIMEOUT_S = 1.0


class StatusCopy:
    """Puts from a thread of its own: a GCS that does not answer never holds up the JobManager."""

    def __init__(self, name: str) -> None:
        self._key = status_key(name)
        self._client = GcsClient(address=ray.get_runtime_context().gcs_address)
        self._newest: queue.Queue[Record | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="flinkray-status-copy", daemon=True)
        self._thread.start()

    def put(self, record: Record) -> None:
        self._newest.put(record)

    def close(self) -> None:
        """The last record is there, unless the GCS is not."""
        self._newest.put(None)
        self._thread.join(2 * TIMEOUT_S)

    def _run(self) -> None:
        record: Record | None = None
        while True:
            given = self._newest.get()
            record = given or record
            if given is not None and not self._newest.empty():
                continue  # a newer one waits
            if record is not None:
                self._put(json.dumps(record, default=str).encode())
            if given is None:
                return

    def _put(self, data: bytes) -> None:
        with suppress(ray.exceptions.RpcError):  # the next one comes soon
            self._client.internal_kv_put(self._key, data, True, namespace=KV_NAMESPACE, timeout=TIMEOUT_S)


def answers(address: str) -> bool:
    """Something listens at host:port; True for an address of another form, which only Ray can tell."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return True
    try:
        socket.create_connection((host.strip("[]"), int(port)), PROBE_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def read_copies(address: str, auth_mode: str, name: str | None = None) -> dict[str, Record]:
    """Records by job name, of all jobs or one, from the GCS at `address` (host:port, or auto). TimeoutError when it does not answer."""
    if auth_mode:
        os.environ["RAY_AUTH_MODE"] = auth_mode
    try:
        client = GcsClient(address=canonicalize_bootstrap_address_or_die(address))
        if name is not None:
            keys = [status_key(name)]
        else:
            keys = client.internal_kv_keys(STATUS_PREFIX, namespace=KV_NAMESPACE, timeout=TIMEOUT_S)
        found = {key: client.internal_kv_get(key, namespace=KV_NAMESPACE, timeout=TIMEOUT_S) for key in keys}
    except ray.exceptions.RpcError as error:
        raise TimeoutError(f"the GCS at {address} did not answer: {error}") from error
    return {key.removeprefix(STATUS_PREFIX).decode(): json.loads(data) for key, data in found.items() if data is not None}
