"""Are flinkray's answers to Nexmark those of DuckDB? `python benchmarks/nexmark_check.py`: a table; exit code 1 when one differs.

    python benchmarks/nexmark_check.py [--queries q4,q19] [--events 200000] [--parallelism 1,2,3] [--runtime local] [--no-kill] [--kind parquet]

Every query runs at each parallelism with checkpoints every 200 ms, and once more on Ray at parallelism 2 with a TaskManager killed (SIGKILL) after the
first checkpoint; its final state is compared row by row. Queries that look at days run over the same events further apart.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nexmark.check import run
from nexmark.data import KINDS, Files, nexmark_files
from nexmark.oracle import difference, expected
from nexmark.queries import CALENDAR, NAMES, Query, query

DENSE_US, SPARSE_US = 1_000, 1_000_000
"""Between two events."""
KILLED_JOB_S = 4.0
"""How long a job takes at least, so that it can be killed before its end."""


@contextmanager
def ray() -> Iterator[None]:
    """One Ray for all jobs."""
    import ray as library

    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    library.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR", namespace="flinkray")
    try:
        yield
    finally:
        library.shutdown()


def checks(name: str, options: argparse.Namespace) -> bool:
    """All runs of a query, a line for it; whether all were right."""
    one, interval_us = query(name), SPARSE_US if name in CALENDAR else DENSE_US
    files = nexmark_files(options.events, options.kind, interval_us)
    wanted = expected(one, files if options.kind == "parquet" else nexmark_files(options.events, "parquet", interval_us))
    started, wrong = time.monotonic(), []
    runs = [(f"p={parallelism}", parallelism, options.runtime, False) for parallelism in options.parallelism]
    if options.kill:
        runs.append(("killed", 2, "ray", True))
    for label, parallelism, runtime, kill in runs:
        found = checked(one, files, parallelism, runtime, kill, options.events)
        if (differs := difference(found, wanted)) is not None:
            wrong.append(f"{label}: {differs}")
    verdict = "DIFFERS" if wrong else "equal"
    print(
        f"{name:4} {verdict:8} {wanted.num_rows:9,} rows  {', '.join(r[0] for r in runs)}  {time.monotonic() - started:5.1f} s  {one.meaning}",
        flush=True,
    )
    for text in wrong:
        print(f"     {text}", flush=True)
    return not wrong


def checked(one: Query, files: Files, parallelism: int, runtime: str, kill: bool, events: int) -> object:
    with tempfile.TemporaryDirectory(prefix="nexmark-check-") as folder:
        rate = events / KILLED_JOB_S if kill else None
        return run(one, files, Path(folder), parallelism=parallelism, runtime=runtime, rate=rate, kill=kill)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=lambda text: text.split(","), default=list(NAMES))
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--kind", choices=KINDS, default="parquet", help="files that flinkray reads")
    parser.add_argument("--parallelism", type=lambda text: [int(p) for p in text.split(",")], default=[1, 2, 3])
    parser.add_argument("--runtime", choices=("ray", "local"), default="local", help="of the runs without a kill")
    parser.add_argument("--no-kill", dest="kill", action="store_false")
    options = parser.parse_args()
    if options.kill or options.runtime == "ray":
        with ray():
            wrong = [name for name in options.queries if not checks(name, options)]
    else:
        wrong = [name for name in options.queries if not checks(name, options)]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
