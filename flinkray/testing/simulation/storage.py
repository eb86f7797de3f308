"""Object storage on virtual time: a disk that outlives all processes, and each process's client, through which everything can go wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from flinkray.checkpoint.base import CreateOutcome, ObjectStore
from flinkray.checkpoint.names import LOG_FOLDER
from flinkray.checkpoint.store import check_name, check_prefix
from flinkray.errors import StorageError
from flinkray.testing.simulation.faults import Injected, Injector
from flinkray.testing.simulation.fibers import Fiber
from flinkray.testing.simulation.network import Network
from flinkray.testing.simulation.world import Process

REQUEST_S = 0.004
"""A typical way to storage and back."""

TIMEOUT_S = 1.0
"""When a client gives up a request without an answer."""

T = TypeVar("T")
Fate = Literal["done", "store_fail", "store_hang", "store_tear", "store_late", "store_unanswered"]


class Disk:
    """The objects, and who wants to know of changes."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.on_write: Callable[[str, bytes | None, bytes], None] = lambda name, before, after: None
        self.on_delete: Callable[[Sequence[str]], None] = lambda names: None

    def put(self, name: str, data: bytes) -> None:
        before = self.objects.get(name)
        self.objects[name] = data
        self.on_write(name, before, data)

    def create(self, name: str, data: bytes) -> bool:
        """False: something stands there."""
        if name in self.objects:
            return False
        self.put(name, data)
        return True

    def delete(self, names: Sequence[str]) -> None:
        for name in names:
            self.objects.pop(name, None)
        self.on_delete(names)


class SimulatedStore(ObjectStore):
    """One process's view of the disk. In a fiber a request takes its time; in a step it makes the process busy."""

    def __init__(self, disk: Disk, place: Process, process: Process, network: Network, injector: Injector) -> None:
        self._disk = disk
        self._place = place
        self._process = process
        self._network = network
        self._injector = injector
        self._random = process.world.random("storage")
        self.on_freeze: Callable[[Injected], float] | None = None
        """Of a leader: what `freeze_owner` does besides; returns for how long the record is on its way."""

    @property
    def uri(self) -> str:
        return "memory://simulated"

    @property
    def shared(self) -> bool:
        return True

    @property
    def conditional_create(self) -> bool:
        return True

    def put(self, name: str, data: bytes | memoryview) -> None:
        whole = bytes(data)
        torn = whole[: len(whole) // 2]
        self._request(
            "put", check_name(name), lambda: self._disk.put(name, whole), self._write_fate("store_tear"), lambda: self._disk.put(name, torn)
        )

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        data = self._request("get", check_name(name), lambda: self._disk.objects.get(name), self._fate())
        if data is None:
            raise FileNotFoundError(f"{self.uri}/{name}")
        data = data[offset:] if length is None else data[offset : offset + length]
        if data and (fault := self._injector.strikes("read_damage")) is not None:
            position = self._injector.choices(fault).randrange(len(data))
            self._injector.record(fault, f"{self._process.name} reads {name}, byte {position}")
            data = data[:position] + bytes([data[position] ^ 0x40]) + data[position + 1 :]
        return data

    def create(self, name: str, data: bytes) -> CreateOutcome:
        """As on S3: a conditional PUT, that the client may repeat by itself; what is refused is compared with what stands there."""
        check_name(name)
        if (fault := self._injector.strikes("store_retried")) is not None:
            self._injector.record(fault, f"{self._process.name} {name}")
            self._request("create", name, lambda: self._disk.create(name, data), "done")
        if self._request("create", name, lambda: self._disk.create(name, data), self._write_fate(), late_s=self._freeze_s(name)):
            return CreateOutcome.CREATED
        return CreateOutcome.CREATED if self.get(name) == data else CreateOutcome.TAKEN

    def exists(self, name: str) -> bool:
        return self._request("look for", check_name(name), lambda: name in self._disk.objects, self._fate())

    def list(self, prefix: str) -> list[str]:
        check_prefix(prefix)
        return self._request("list", prefix, lambda: sorted(name for name in self._disk.objects if name.startswith(prefix)), self._fate())

    def delete(self, names: Sequence[str]) -> None:
        self._request("delete", f"{len(names)} objects", lambda: self._disk.delete(names), self._fate())

    # -- requests -------------------------------------------------------------------------------------------------

    def _fate(self) -> Fate:
        kind: Fate
        for kind in ("store_fail", "store_hang"):
            if self._struck(kind):
                return kind
        return "done"

    def _write_fate(self, *more: Fate) -> Fate:
        kind: Fate
        for kind in (*more, "store_late", "store_unanswered"):
            if self._struck(kind):
                return kind
        return self._fate()

    def _struck(self, kind: str) -> bool:
        fault = self._injector.strikes(kind)
        if fault is not None:
            self._injector.record(fault, f"a request of {self._process.name}")
        return fault is not None

    def _freeze_s(self, name: str) -> float:
        if self.on_freeze is None or not name.startswith(LOG_FOLDER):
            return 0.0
        fault = self._injector.strikes("freeze_owner")
        return self.on_freeze(fault) if fault is not None else 0.0

    def _request(
        self, what: str, name: str, act: Callable[[], T], fate: Fate, tear: Callable[[], None] | None = None, late_s: float = 0.0
    ) -> T:
        """Carry `act` out at the disk, or not; raises StorageError where no answer comes."""
        there_s = late_s + self._random.expovariate(2.0 / REQUEST_S)
        back_s = self._random.expovariate(2.0 / REQUEST_S)
        answer: list[T] = []
        reached = not self._network.blocked(self._process, self._place)
        if reached and fate in ("done", "store_unanswered"):
            self._at_disk(there_s, lambda: answer.append(act()))
        elif reached and fate == "store_tear" and tear is not None:
            self._at_disk(there_s, tear)
        elif reached and fate == "store_late":
            self._at_disk(there_s + TIMEOUT_S + self._random.expovariate(1.0), lambda: answer.append(act()))
        if not reached or fate in ("store_hang", "store_late"):
            there_s, back_s = TIMEOUT_S, (4.0 if fate == "store_hang" else 0.0) * self._random.random()
        self._process.sleep(there_s + back_s)
        if not reached or fate != "done" or self._network.blocked(self._place, self._process):
            raise StorageError(f"{what} {name}: no answer from {self.uri} (simulated: {fate if reached else 'out of reach'})")
        return answer[0]

    def _at_disk(self, after_s: float, act: Callable[[], object]) -> None:
        """What has left the process happens, whatever becomes of the process. A step's requests happen at once."""
        if Fiber.current() is None:
            act()
            return
        self._process.world.schedule(after_s, lambda: _drop(act()))


def _drop(value: object) -> None:
    del value
