"""Nexmark through flinkray and what a user would pick instead, in one run over the same files: rows/s, ratios, a table and a plot.

    python benchmarks/run.py [--queries q0,q5,sum] [--engines flinkray,duckdb] [--events 10000000] [--text-events 4000000] [--python-events 50000]
                             [--repeat 3] [--parallelism 2] [--name nexmark] [--json FILE]

Engines take turns: each round runs every engine once, in a process of its own, and the median of `--repeat` rounds counts, without start-up and warm-up;
each engine says in its script (`benchmarks/engines/`) what its seconds are. flinkray runs on Ray at parallelism 1 and 2, without checkpoints but the
last and with one every second; Flink, like it, both ways. DuckDB, DataFusion and Polars answer in batch and forget. An engine is compared with flinkray over the
same kind of files, at the same parallelism, with checkpoints where it has them. `pip install '.[bench]'` brings the batch engines, `python
benchmarks/engines/environments.py` makes environments for the streaming ones; what is not installed is skipped by name. Rows of a query are those of the
streams that it reads. Results go to benchmarks/results/NAME.json, .md and .png.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines import environments
from nexmark import report
from nexmark.data import Files, nexmark_files, rows_of
from nexmark.queries import NAMES, SUMS, query

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Engine:
    """How an engine is run. `module` is looked for in this environment; `environment` is one of its own."""

    name: str
    script: str
    kind: str
    size: str
    """Which of the sizes: events, text_events or python_events."""
    baseline: str | None = None
    module: str | None = None
    environment: str | None = None
    parallelism: int | None = None
    checkpoints: str | None = None
    warmups: int = 0
    warm_for_good: bool = False
    """Its warm-up is for files and kernels, not for its processes: none in later rounds."""

    def python(self) -> str | None:
        """Its interpreter; None where it is not installed."""
        if self.environment is not None:
            return environments.python(self.environment)
        return sys.executable if self.module is None or importlib.util.find_spec(self.module) else None


def flinkray(name: str, kind: str, size: str, **options: Any) -> Engine:
    return Engine(name, "flinkray_job.py", kind, size, warmups=1, warm_for_good=True, **options)


PARQUET, CSV, JSON = ("parquet", "events"), ("csv", "text_events"), ("json", "text_events")
SMALL_PARQUET, SMALL_CSV = ("parquet", "python_events"), ("csv", "python_events")
ENGINES = (
    flinkray("flinkray", *PARQUET, checkpoints="1s"),
    flinkray("flinkray-no-checkpoints", *PARQUET),
    flinkray("flinkray-p1", *PARQUET, parallelism=1, checkpoints="1s"),
    flinkray("flinkray-p1-no-checkpoints", *PARQUET, parallelism=1),
    Engine("duckdb", "duckdb_batch.py", *PARQUET, baseline="flinkray", module="duckdb"),
    Engine("polars", "polars_batch.py", *PARQUET, baseline="flinkray", module="polars"),
    Engine("datafusion", "datafusion_batch.py", *PARQUET, baseline="flinkray", module="datafusion"),
    Engine("spark", "spark_streaming.py", *PARQUET, baseline="flinkray", environment="spark", warmups=1),
    flinkray("flinkray-csv", *CSV, checkpoints="1s"),
    Engine("flink-sql", "flink_sql.py", *CSV, baseline="flinkray-csv", environment="flink", checkpoints="1s", warmups=1),
    Engine("flink-sql-no-checkpoints", "flink_sql.py", *CSV, baseline="flinkray-csv", environment="flink", warmups=1),
    flinkray("flinkray-json", *JSON, checkpoints="1s"),
    Engine("pathway", "pathway_stream.py", *JSON, baseline="flinkray-json", environment="pathway"),
    Engine("flink-datastream", "flink_datastream.py", *SMALL_CSV, baseline="flinkray-csv", environment="flink", checkpoints="1s"),
    Engine("bytewax", "bytewax_stream.py", *SMALL_PARQUET, baseline="flinkray", environment="bytewax", parallelism=1),
)
"""flink-datastream and bytewax run Python for each row: fewer rows say as much."""


def measure(engine: Engine, python: str, files: Files, options: argparse.Namespace, number: int) -> list[dict[str, Any]]:
    """One process that runs all queries of an engine once, in this round; what it said."""
    asked = {"queries": options.queries, "files": files, "parallelism": engine.parallelism or options.parallelism}
    asked |= {"warmups": 0 if number and engine.warm_for_good else engine.warmups, "repeat": 1, "checkpoints": engine.checkpoints}
    command = [python, str(HERE / "engines" / engine.script), json.dumps(asked)]
    own = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    environ = {**os.environ} | ({"PYTHONPATH": own} if engine.environment is None else {})
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"query"')]
    for answer in said:
        if "error" in answer:
            print(f"{engine.name}: {answer['query']}: {answer['error']}", file=sys.stderr)
    if done.returncode != 0:
        print(f"{engine.name} failed with exit code {done.returncode}:\n{done.stderr[-2000:]}", file=sys.stderr)
    return said


def rounds(options: argparse.Namespace) -> Iterator[list[report.Measured]]:
    """Every engine in turn, `repeat` times; after each round what all rounds so far have given."""
    chosen = [(engine, python) for engine in ENGINES if engine.name in options.engines if (python := installed(engine)) is not None]
    seconds: dict[tuple[str, str], list[float]] = {}
    answers: dict[tuple[str, str], int] = {}
    by_name = {engine.name: engine for engine in ENGINES}
    for number in range(options.repeat):
        for engine, python in chosen:
            events = getattr(options, engine.size)
            print(f"round {number + 1} of {options.repeat}: {engine.name} over {events:,} events as {engine.kind}", file=sys.stderr)
            for answer in measure(engine, python, nexmark_files(events, engine.kind), options, number):
                key = (answer["query"], engine.name)
                if "error" not in answer:
                    seconds.setdefault(key, []).extend(answer["seconds"])
                    answers |= {key: answer["rows"]} if answer["rows"] is not None else {}
        check_rows(answers)
        yield [measured(name, by_name[engine], found, options) for (name, engine), found in seconds.items()]


def installed(engine: Engine) -> str | None:
    python = engine.python()
    if python is None:
        how = f"python benchmarks/engines/environments.py {engine.environment}" if engine.environment else "pip install '.[bench]'"
        print(f"{engine.name}: skipped, not installed; {how}", file=sys.stderr)
    return python


def check_rows(answers: dict[tuple[str, str], int]) -> None:
    """Engines that answer the same question over the same files give as many rows."""
    for name in {name for name, _ in answers}:
        found = {engine: rows for (one, engine), rows in answers.items() if one == name}
        if len(set(found.values())) > 1:
            print(f"{name}: the answers have different numbers of rows: {found}", file=sys.stderr)


def measured(name: str, engine: Engine, seconds: list[float], options: argparse.Namespace) -> report.Measured:
    rows = sum(rows_of(stream, getattr(options, engine.size)) for stream in query(name).reads)
    parallelism = engine.parallelism or options.parallelism
    rate = rows / statistics.median(seconds)
    return report.Measured(name, engine.name, engine.kind, parallelism, engine.checkpoints, rows, seconds, rate, engine.baseline)


def names(text: str, known: tuple[str, ...]) -> list[str]:
    chosen = text.split(",")
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)} unknown; there are: {', '.join(known)}")
    return chosen


def parse() -> argparse.Namespace:
    engines, queries = tuple(engine.name for engine in ENGINES), (*NAMES, *SUMS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=lambda text: names(text, queries), default=list(queries))
    parser.add_argument("--engines", type=lambda text: names(text, engines), default=list(engines))
    parser.add_argument("--events", type=int, default=10_000_000, help="events of all kinds, as Parquet")
    parser.add_argument("--text-events", type=int, default=4_000_000, help="as CSV and JSON")
    parser.add_argument("--python-events", type=int, default=50_000, help="for engines that run Python for each row")
    parser.add_argument("--repeat", type=int, default=3, help="rounds of which the median counts")
    parser.add_argument("--parallelism", type=int, default=2)
    parser.add_argument("--name", default="nexmark", help="of the files in benchmarks/results/")
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    return parser.parse_args()


def main() -> int:
    options = parse()
    machine = report.machine()
    if machine["load_before"] > 1:
        print(f"the load of this machine is {machine['load_before']:.1f} before anything has begun: rates will be too low", file=sys.stderr)
    command, document = " ".join(["python", "benchmarks/run.py", *sys.argv[1:]]), None
    for measured_so_far in rounds(options):  # a run that is cut off has its rounds
        if measured_so_far:
            document = report.document(report.compared(measured_so_far), machine, command)
            report.write(document, HERE / "results", options.name)
    if document is None:
        print("nothing was measured", file=sys.stderr)
        return 1
    print(report.markdown(document))
    if options.json:
        Path(options.json).write_text(json.dumps(document, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
