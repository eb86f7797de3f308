"""Hosts of their own on one machine: network namespaces around a router that can drop packets by sender and receiver, silently, as a broken
switch does. Needs root and iproute2.

What runs in a host is started with `ip netns exec`, and ended with the host, process by process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cluster.command_line import environment

NETWORK = "10.97"
GCS_PORT = 6399
START_TIMEOUT_S = 90


def ip(*arguments: str, check: bool = True) -> str:
    answer = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=30, check=False)
    if check and answer.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {answer.stderr.strip()}")
    return answer.stdout


def why_not_allowed() -> str:
    """Empty where namespaces, virtual links and rules can be made."""
    name = f"flk{os.getpid()}-probe"
    try:
        ip("netns", "add", name)
        ip("-n", name, "rule", "add", "from", "192.0.2.1", "to", "192.0.2.2", "blackhole")
        ip("-n", name, "link", "add", "one", "type", "veth", "peer", "name", "two")
    except OSError as error:
        return str(error) or type(error).__name__
    finally:
        with suppress(OSError):
            ip("netns", "del", name, check=False)
    return ""


class Host:
    """One namespace. `address` is its own on a link to the router, through which everything goes."""

    def __init__(self, prefix: str, router: str, number: int) -> None:
        self.name = f"{prefix}-h{number}"
        self.address = f"{NETWORK}.{number}.2"
        link = f"r{number}"
        ip("netns", "add", self.name)
        ip("-n", router, "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("-n", router, "addr", "add", f"{NETWORK}.{number}.1/24", "dev", link)
        ip("-n", router, "link", "set", link, "up")
        ip("-n", self.name, "addr", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", self.name, "link", "set", device, "up")
        ip("-n", self.name, "route", "add", "default", "via", f"{NETWORK}.{number}.1")

    def command(self, *arguments: str) -> list[str]:
        return ["ip", "netns", "exec", self.name, *arguments]

    def run(self, *arguments: str, **more: str) -> None:
        answer = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=START_TIMEOUT_S, env=environment(**more), check=False
        )
        assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-3000:]

    def pids(self) -> list[int]:
        return [int(pid) for pid in ip("netns", "pids", self.name, check=False).split()]

    def signal(self, number: int) -> None:
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """Everything on it."""
        deadline = time.monotonic() + 30
        while self.pids() and time.monotonic() < deadline:
            self.signal(signal.SIGKILL)
            time.sleep(0.05)

    def end(self) -> None:
        self.kill()
        ip("netns", "del", self.name, check=False)


class Network:
    """`hosts`, all of which reach each other until they are cut."""

    def __init__(self, count: int) -> None:
        prefix = f"flk{os.getpid()}"
        self._router = f"{prefix}-router"
        ip("netns", "add", self._router)
        ip("netns", "exec", self._router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        ip("-n", self._router, "link", "set", "lo", "up")
        self.hosts = [Host(prefix, self._router, number) for number in range(count)]
        self._cuts: list[tuple[str, str]] = []

    def cut(self, senders: Sequence[Host], receivers: Sequence[Host]) -> None:
        """Nothing of what these send reaches those any more; the other direction stays."""
        for sender in senders:
            for receiver in receivers:
                if sender is not receiver:
                    ip("-n", self._router, "rule", "add", "from", sender.address, "to", receiver.address, "blackhole")
                    self._cuts.append((sender.address, receiver.address))

    def cut_both(self, some: Sequence[Host], others: Sequence[Host]) -> None:
        self.cut(some, others)
        self.cut(others, some)

    def cut_off(self, host: Host) -> None:
        self.cut_both([host], [other for other in self.hosts if other is not host])

    def heal(self) -> None:
        for sender, receiver in self._cuts:
            ip("-n", self._router, "rule", "del", "from", sender, "to", receiver, "blackhole")
        self._cuts = []

    def end(self) -> None:
        for host in self.hosts:
            host.end()
        ip("netns", "del", self._router, check=False)


def start_head(host: Host, folder: Path, **more: str) -> str:
    """The GCS, on a host without CPUs for work. Returns the cluster's address."""
    host.run(
        *ray("start", "--head", f"--node-ip-address={host.address}", f"--port={GCS_PORT}", "--num-cpus=0"),
        "--include-dashboard=false",
        f"--temp-dir={folder}",
        **more,
    )
    return f"{host.address}:{GCS_PORT}"


def start_worker(host: Host, address: str, cpus: int, zone: str = "", **more: str) -> None:
    labels = [f"--labels=ray.io/availability-zone={zone}"] if zone else []
    host.run(*ray("start", f"--address={address}", f"--node-ip-address={host.address}", f"--num-cpus={cpus}"), *labels, **more)


def ray(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ray.scripts.scripts", *arguments]


def network(count: int) -> Iterator[Network]:
    """For a fixture."""
    if reason := why_not_allowed():
        pytest.skip(f"network namespaces are not allowed here: {reason}")
    made = Network(count)
    try:
        yield made
    finally:
        made.end()
