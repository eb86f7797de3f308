"""`flinkray doctor`: what works on this machine, and what a job here would not survive."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Literal

from flinkray.config import default_storage, flinkray_home
from flinkray.errors import FlinkrayError

Verdict = Literal["ok", "note", "broken"]
Finding = tuple[Verdict, str, str]

PACKAGES = ("ray", "pyarrow", "numba", "numpy", "pyzmq", "cryptography", "fsspec", "s3fs")
LOW_DISK_BYTES = 2 << 30
LOW_SHM_BYTES = 1 << 30


def doctor() -> int:
    """Print a table; exit code 1 when something is broken."""
    findings = list(examine())
    width = max(len(name) for _, name, _ in findings)
    for verdict, name, text in findings:
        print(f"{verdict:6} {name:{width}}  {text}")
    _cluster()
    broken = sum(verdict == "broken" for verdict, _, _ in findings)
    print(f"\n{broken} broken, {sum(verdict == 'note' for verdict, _, _ in findings)} notes")
    return 1 if broken else 0


def examine() -> Iterator[Finding]:
    yield "ok", "python", f"{platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores"
    for package in PACKAGES:
        yield _package(package)
    yield _folder("home", flinkray_home())
    yield _kernels()
    try:
        yield _storage()
    except (FlinkrayError, OSError) as error:
        yield "broken", "storage", str(error)
    yield _checked("exchange", _exchange)
    yield _space("disk", flinkray_home(), LOW_DISK_BYTES)
    if os.path.isdir("/dev/shm"):
        yield _space("/dev/shm", "/dev/shm", LOW_SHM_BYTES)
    yield _spilling()
    yield from _survival()


def _package(name: str) -> Finding:
    try:
        return "ok", name, metadata.version(name)
    except metadata.PackageNotFoundError:
        return "broken", name, "not installed; pip install flinkray"


def _folder(name: str, path: str) -> Finding:
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path):
            pass
    except OSError as error:
        return "broken", name, f"{path} cannot be written ({error.strerror}); set FLINKRAY_HOME"
    return "ok", name, path


def _kernels() -> Finding:
    from flinkray.state.warm import warm_kernels

    seconds = warm_kernels()
    return "ok", "kernels", f"compiled and kept in {os.environ['NUMBA_CACHE_DIR']} (this took {seconds:.1f} s)"


def _checked(name: str, check: Callable[[], str]) -> Finding:
    try:
        return "ok", name, check()
    except (FlinkrayError, OSError) as error:
        return "broken", name, str(error)


def _storage() -> Finding:
    from flinkray.checkpoint.store import check_reachable, open_store

    store = open_store(default_storage(), ".doctor")
    check_reachable(store)
    if store.conditional_create:
        return "ok", "storage", f"{store.uri} creates if absent: two clusters cannot both write a job's checkpoints"
    return "note", "storage", f"{store.uri} cannot create if absent: another cluster that runs the same job cannot be kept out"


def _exchange() -> str:
    import zmq

    return f"ZeroMQ {zmq.zmq_version()}, {'CURVE' if zmq.has('curve') else 'no CURVE: traffic between hosts cannot be encrypted'}"


def _space(name: str, path: str, low_bytes: int) -> Finding:
    free = shutil.disk_usage(path).free
    return ("ok" if free >= low_bytes else "note"), name, f"{free / 1e9:.1f} GB free"


def _spilling() -> Finding:
    """Where state goes that is larger than its memory, where a job sets `Resources.state_memory_mb`."""
    from flinkray.state.memory import StateMemory

    folder = tempfile.gettempdir()
    try:
        StateMemory(1 << 20, folder).zeros(1 << 17, "i8")
    except FlinkrayError as error:
        return "note", "spill folder", f"{error} (only for jobs with Resources.state_memory_mb)"
    free = shutil.disk_usage(folder).free
    return (
        "ok",
        "spill folder",
        f"{folder}, {free / 1e9:.1f} GB free; jobs with Resources.state_memory_mb write state there unencrypted: an encrypted volume keeps it secret",
    )


def _survival() -> Iterator[Finding]:
    """What is lost with this host whatever the cluster is."""
    if not default_storage().startswith("s3://"):
        yield (
            "note",
            "this host's death",
            f"checkpoints on {default_storage()} are lost with its disk; use Checkpointing(storage='s3://...')",
        )
    key = os.path.join(flinkray_home(), "key")
    if os.path.exists(key) and not os.environ.get("FLINKRAY_KEY"):
        yield "note", "the key", f"checkpoints are sealed with {key}, which exists on this host only: keep a copy"


def _cluster() -> None:
    """The table of what the cluster at RAY_ADDRESS survives. Raises ResourceError when it does not answer."""
    address = os.environ.get("RAY_ADDRESS", "")
    if not address or address == "local":
        print(
            "\nno cluster: RAY_ADDRESS is not set; a job that starts its own Ray survives its TaskManagers and its leader, and ends with this host"
        )
        return
    from flinkray.runtime.ray.survey import survey
    from flinkray.survival import survival

    rows = list(survival(survey()))
    width = max(len(what) for _, what, _ in rows)
    print(f"\nthe cluster at {address}; would it survive the loss of ...")
    for verdict, what, why in rows:
        print(f"{verdict:9} {what:{width}}  {why}")
