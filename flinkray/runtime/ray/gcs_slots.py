"""The journal's write-once slots in the GCS key-value store (docs/protocol.md, rule 7)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any

import ray
from ray._raylet import Config, GcsClient  # type: ignore[attr-defined]

from flinkray.runtime.journal import Slots
from flinkray.runtime.ray.names import KV_NAMESPACE, journal_key, journal_prefix, snapshot_key, snapshot_prefix

TIMEOUT_S = 5

RECONNECT_MS = {
    "gcs_grpc_initial_reconnect_backoff_ms": 100,
    "gcs_grpc_max_reconnect_backoff_ms": 200,
    "grpc_client_check_connection_status_interval_milliseconds": 100,
}
"""Ray's own settings (2,000 at most between two tries, 1,000 between two looks) find a GCS that is back after some 2.8 s; these after 0.3 s."""

SETTINGS_KNOWN_IN = "2.60"
"""Ray ends a process that names a setting which it does not know, so another version keeps its own."""


def gcs_client(address: str) -> Any:
    """With a connection of its own, which tries often while the GCS is away. What the operator has set as `RAY_<name>` stays."""
    wanted = {name: value for name, value in RECONNECT_MS.items() if f"RAY_{name}" not in os.environ}
    if wanted and ray.__version__.startswith(f"{SETTINGS_KNOWN_IN}."):
        Config.initialize(json.dumps(wanted).encode())
    return GcsClient(address=address)


class GcsSlots(Slots):
    """Every call has a timeout; RPC errors mean doubt, which the journal resolves by asking again."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._client = gcs_client(ray.get_runtime_context().gcs_address)

    def put_if_absent(self, slot: int, value: bytes) -> None:
        self._call(self._client.internal_kv_put, journal_key(self._run, slot), value, False)

    def get(self, slot: int) -> bytes | None:
        return self._call(self._client.internal_kv_get, journal_key(self._run, slot))

    def delete(self, slots: Iterable[int]) -> None:
        for slot in slots:
            self._call(self._client.internal_kv_del, journal_key(self._run, slot), False)

    def put_snapshot_if_absent(self, slots: int, value: bytes) -> None:
        self._call(self._client.internal_kv_put, snapshot_key(self._run, slots), value, False)

    def get_snapshot(self, slots: int) -> bytes | None:
        return self._call(self._client.internal_kv_get, snapshot_key(self._run, slots))

    def snapshots(self) -> tuple[int, ...]:
        prefix = snapshot_prefix(self._run)
        return tuple(sorted(int(key.removeprefix(prefix)) for key in self._call(self._client.internal_kv_keys, prefix)))

    def delete_snapshots(self, snapshots: Iterable[int]) -> None:
        for number in snapshots:
            self._call(self._client.internal_kv_del, snapshot_key(self._run, number), False)

    def erase(self) -> None:
        """All of the run. TimeoutError when it is not known whether it happened."""
        self._call(self._client.internal_kv_del, journal_prefix(self._run), True)

    def _call(self, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments, namespace=KV_NAMESPACE, timeout=TIMEOUT_S)
        except ray.exceptions.RpcError as error:
            raise TimeoutError(f"the GCS did not answer: {error}") from error
