"""Profiles of queries: `benchmarks/profile.py` says what they are and is how to call this."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

import flinkray as fr
from flinkray.connectors.base import Sink, Split, SplitReader
from flinkray.connectors.wrapped import WrappedReader, WrappedSource

from .data import nexmark_files
from .flame import Stacks, by_category, flame_graph, read_stacks
from .queries import NAMES, SUMS, query
from .streams import Nexmark

WAIT_S = 120.0


@dataclass(frozen=True)
class Gated(WrappedSource):
    """Gives nothing before there is a file at `gate`."""

    gate: str

    def open_split(self, split: Split, offset: Any | None) -> SplitReader:
        return _GatedReader(self, self.inner.open_split(split, offset))


class _GatedReader(WrappedReader):
    def __init__(self, gated: Gated, inner: SplitReader) -> None:
        super().__init__(inner)
        self._gated: Gated | None = gated

    def read(self, max_rows: int) -> pa.RecordBatch | None:
        if self._gated is not None:
            if not os.path.exists(self._gated.gate):
                time.sleep(0.005)
                return pa.RecordBatch.from_pylist([], self._gated.schema())
            self._gated = None
        return self._inner.read(max_rows)


def start(options: argparse.Namespace, folder: Path) -> fr.JobHandle:
    one = query(options.query)
    env = fr.StreamEnvironment(
        f"profile-{options.query}",
        parallelism=options.parallelism,
        runtime=options.runtime,
        checkpointing=fr.Checkpointing(interval=options.checkpoints, storage=f"file://{folder}/checkpoints"),
        resources=fr.Resources(spare_task_managers=0),
        high_availability=fr.HighAvailability(standbys=0),
    )
    files = nexmark_files(options.events, options.kind)
    sink: Sink = one.sink(f"{folder}/out") if one.sink is not None else fr.sinks.Blackhole()
    one.build(Nexmark(env, files, wrap=lambda source: Gated(source, f"{folder}/gate"))).sink_to(sink, uid="out")
    return env.execute_async()


def workers(job: fr.JobHandle, options: argparse.Namespace) -> list[int]:
    """The processes that do the work, once the job runs."""
    deadline = time.monotonic() + WAIT_S
    while (status := job.status())["status"] != "RUNNING":
        if time.monotonic() > deadline or status["status"] == "FAILED":
            raise RuntimeError(f"the job does not run: {status['status']}")
        time.sleep(0.05)
    return [os.getpid()] if options.runtime == "local" else [tm["pid"] for tm in status["task_managers"] if tm["role"] == "active"]


def watch(pid: int, path: Path, options: argparse.Namespace) -> subprocess.Popen[bytes]:
    """py-spy, when it has begun to sample. What it says goes to a file: a pipe that is full would stop it, while it has stopped the process."""
    command = [
        "py-spy",
        "record",
        "--pid",
        str(pid),
        "--format",
        "raw",
        "--function",
        "--nonblocking",
        "--rate",
        str(options.rate),
        "--output",
        str(path),
    ]
    said, deadline = path.with_suffix(".log"), time.monotonic() + WAIT_S
    with said.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    while "Sampling process" not in said.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            hint = "it may need root, or kernel.yama.ptrace_scope=0"
            raise RuntimeError(f"py-spy cannot watch process {pid}; {hint}:\n{said.read_text()}")
        time.sleep(0.01)
    return process


def stop(process: subprocess.Popen[bytes]) -> None:
    """py-spy writes its file when the process that it watches ends, or when it is interrupted."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    process.wait(WAIT_S)


def profiled(options: argparse.Namespace) -> tuple[Stacks, fr.JobResult]:
    with tempfile.TemporaryDirectory(prefix="flinkray-profile-") as name:
        folder = Path(name)
        job = start(options, folder)
        paths = {pid: folder / f"{pid}.txt" for pid in workers(job, options)}
        watching = [watch(pid, path, options) for pid, path in paths.items()]
        (folder / "gate").touch()
        try:
            result = job.wait()
        finally:
            for process in watching:
                stop(process)
        return read_stacks(path for path in paths.values() if path.exists()), result


def table(stacks: Stacks, result: fr.JobResult, options: argparse.Namespace) -> str:
    """Time by category, largest first."""
    assert result.first_row_at is not None
    assert result.finished_at is not None
    rows, seconds = result.records_in, (result.finished_at - result.first_row_at).total_seconds()
    total = sum(stacks.values())
    lines = [
        f"{options.query}, {query(options.query).meaning}: {rows:,} rows, runtime {options.runtime}, parallelism {options.parallelism}, "
        f"{total:,} samples at {options.rate}/s; first row to end {seconds:.2f} s",
        f"{'':12} {'ns a row':>9} {'share':>7}",
    ]
    for category, samples in by_category(stacks).most_common():
        lines.append(f"{category:12} {samples / options.rate / rows * 1e9:9.1f} {samples / total:7.1%}")
    lines.append(f"{'together':12} {total / options.rate / rows * 1e9:9.1f}")
    return "\n".join(lines)


def main(description: str | None) -> int:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("query", choices=[*NAMES, *SUMS], metavar="QUERY", help="q0 to q22, sum, sum-final")
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--kind", choices=("parquet", "csv", "json"), default="parquet")
    parser.add_argument("--runtime", choices=("ray", "local"), default="ray")
    parser.add_argument("--parallelism", type=int, default=2)
    parser.add_argument("--checkpoints", default="1s", help="their interval")
    parser.add_argument("--rate", type=int, default=250, help="samples a second of each process")
    parser.add_argument("--output", type=Path, help="the flame graph; benchmarks/results/profile-QUERY.svg by default")
    options = parser.parse_args()
    if shutil.which("py-spy") is None:
        print("py-spy is not installed: pip install '.[bench]'", file=sys.stderr)
        return 2
    stacks, result = profiled(options)
    if not stacks:
        print("no samples: the job was too short; give more --events", file=sys.stderr)
        return 1
    output = options.output or Path(__file__).parent.parent / "results" / f"profile-{options.query}.svg"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(
        flame_graph(stacks, f"{options.query}, {result.records_in:,} rows, {options.runtime}, parallelism {options.parallelism}")
    )
    output.with_suffix(".txt").write_text("".join(f"{';'.join(stack)} {count}\n" for stack, count in stacks.items()))
    print(table(stacks, result, options))
    print(f"flame graph: {output}")
    return 0
