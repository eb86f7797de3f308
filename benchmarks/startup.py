"""Start-up: from the command `flinkray run` to the first row that a source reads, and to the job's end. Median of several.

    python benchmarks/startup.py [--repeat 3] [--json FILE]

The job counts 100,000 generated bids by auction, parallelism 2. `running cluster`: Ray is up on this machine and its kernels are compiled.
`no cluster`: the command starts Ray itself. `new machine`: that, with an empty cache of kernels, which are compiled first.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

JOB = """
import sys, time
import flinkray as fr

env = fr.StreamEnvironment("startup", parallelism=2, checkpointing=fr.Checkpointing(storage="file://" + sys.argv[1]))
bids = env.from_source(fr.sources.Nexmark("bid", rows=100_000), uid="bids")
bids.key_by("auction").aggregate(bids=fr.agg.count()).uid("count").sink_to(fr.sinks.Blackhole(), uid="out")
result = env.execute()
print("first row at", result.first_row_at.timestamp(), "finished at", result.finished_at.timestamp())
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """Ray on a port of its own; what the command's environment needs to find it."""
    address = f"127.0.0.1:{free_port()}"
    ray = str(Path(sys.executable).with_name("ray"))
    environ = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    options = ["--head", f"--port={address.split(':')[1]}", "--include-dashboard=false", "--num-cpus=4"]
    process = subprocess.Popen([ray, "start", *options, "--block"], env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while subprocess.run([ray, "health-check", "--address", address], env=environ, capture_output=True).returncode:
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError("ray start: no cluster within a minute")
        yield {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "disabled"}
    finally:
        process.terminate()
        process.wait(30)


def run(folder: Path, environ: dict[str, str]) -> tuple[float, float]:
    """Seconds to the first row, and to the end."""
    job = folder / "startup_job.py"
    job.write_text(JOB)
    with tempfile.TemporaryDirectory(dir=folder) as storage:
        command = [str(Path(sys.executable).with_name("flinkray")), "run", str(job), "--", storage]
        started = time.time()
        done = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    line = next(line for line in done.stdout.splitlines() if line.startswith("first row at")).split()
    return float(line[3]) - started, float(line[6]) - started


def measured(folder: Path, repeat: int) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    run(folder, {})  # kernels are compiled, files of libraries read
    with cluster() as there:
        found["running cluster"] = [run(folder, there) for _ in range(repeat)]
    found["no cluster"] = [run(folder, {}) for _ in range(repeat)]
    found["new machine"] = [run(folder, {"NUMBA_CACHE_DIR": tempfile.mkdtemp(dir=folder)}) for _ in range(repeat)]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flinkray-startup-") as folder:
        found = measured(Path(folder), options.repeat)
    for name, runs in found.items():
        first, end = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"{name}: first row after {first:.1f} s, finished after {end:.1f} s (medians of {len(runs)})")
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
