"""Nexmark queries through flinkray and its peers in one run: rows/s and ratios.

    python benchmarks/nexmark.py [--queries q0,q5,sum] [--engines flinkray,duckdb] [--rows 40000000] [--csv-rows 4000000]
                                 [--passes 1] [--repeat 3] [--parallelism 2] [--check] [--json FILE]

Bids as Parquet for flinkray, DuckDB and Polars, the same bids as CSV for flinkray and PyFlink; made once by `data.py`. DuckDB and Polars answer
in batch and forget; flinkray and PyFlink stream, with exactly-once checkpoints every second. Each engine runs alone, in its own process, and
says in its module what its seconds are: the median of `--repeat` runs, without start-up. A job's first touch of its memory, its last checkpoint and
commits are in them, some 80 ms: over 10 million rows, a fifth of a second, they weigh more than the engine. `--passes 4` reads the
Parquet files four times over, so that a running sum runs for seconds and through checkpoints. PyFlink needs `python benchmarks/peers/flink_env.py`
once. An engine that is not installed is skipped by name. `--check` compares all answers of flinkray with DuckDB's first and exits 1 when one differs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import data
from peers import flink_env

HERE = Path(__file__).parent
QUERIES = ("q0", "q1", "q2", "q5", "q5-panes", "q7", "q11", "sum", "sum-final")
MEANING = {
    "q0": "pass through",
    "q1": "currency conversion",
    "q2": "filter",
    "q5": "hot items, sliding 10 s / 2 s",
    "q5-panes": "hot items, counted in panes by hand",
    "q7": "highest bids per 10 s, whole rows",
    "q11": "bids per session of a bidder, gap 10 s",
    "sum": "running sum of price by bidder",
    "sum-final": "sum of price by bidder, answered at the end",
}


@dataclass(frozen=True)
class Engine:
    """How an engine is run. `emission` is when it answers windows, `sums` when the running sum."""

    name: str
    script: str
    input: str
    sink: str
    emission: str
    sums: str
    baseline: str | None = None
    """The flinkray engine that it is compared with."""
    lacks: tuple[str, ...] = ()
    module: str | None = None


STREAM, BATCH = "as windows close", "once, at the end"
ENGINES = (
    Engine("flinkray", "queries.py", "parquet", "Blackhole", STREAM, 'emit="batch"', lacks=("q5-panes",)),
    Engine("duckdb", "peers/duckdb_batch.py", "parquet", "Arrow, dropped", BATCH, BATCH, "flinkray", ("sum-final",), "duckdb"),
    Engine("polars", "peers/polars_batch.py", "parquet", "dropped", BATCH, BATCH, "flinkray", ("sum-final",), "polars"),
    Engine("flinkray-csv", "queries.py", "csv", "Blackhole", STREAM, 'emit="batch"', lacks=("q5-panes",)),
    Engine("flink-sql", "peers/flink_sql.py", "csv", "blackhole", STREAM, "mini-batch", "flinkray-csv", ("sum-final", "q5-panes")),
    Engine(
        "flink-datastream",
        "peers/flink_datastream.py",
        "small csv",
        "discarding",
        STREAM,
        "each row",
        "flinkray-csv",
        ("sum-final", "q5-panes"),
    ),
)
TIMELESS = ("q0", "q1", "q2", "sum", "sum-final")
TARGETS = {("q5", "duckdb"): 1.5, ("sum", "duckdb"): 0.6, ("q5", "flink-sql"): 10, ("sum", "flink-sql"): 10} | {
    (query, "flink-sql"): 4 for query in ("q0", "q1", "q2")
}


@dataclass
class Measured:
    query: str
    engine: str
    input: str
    sink: str
    emission: str
    rows: int
    seconds: list[float]
    rows_per_s: float
    ratio: float | None = None
    """How many times this engine's rate flinkray's is, over the same kind of input."""
    target: float | None = None


def interpreter(engine: Engine) -> str | None:
    """The Python that runs the engine; None where it is not installed."""
    if engine.name.startswith("flink-"):
        return flink_env.python()
    return sys.executable if engine.module is None or importlib.util.find_spec(engine.module) else None


def emission(engine: Engine, query: str) -> str:
    """When the engine gives the query's answers."""
    if query in ("q0", "q1", "q2"):
        return "as rows come"
    if query == "sum":
        return engine.sums
    return BATCH if query == "sum-final" else engine.emission


def measure(engine: Engine, python: str, queries: list[str], files: list[str], rows: int, options: argparse.Namespace) -> list[Measured]:
    """One process that runs all queries of one engine."""
    request = {"queries": queries, "files": files, "folder": os.path.dirname(files[0])}
    request |= {"parallelism": options.parallelism, "repeat": options.repeat}
    command = [python, str(HERE / engine.script), json.dumps(request)]
    results = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        output, errors = process.communicate()
    for line in output.splitlines():
        if not line.startswith('{"query"'):
            continue
        answer = json.loads(line)
        query, seconds = answer["query"], answer["seconds"]
        rate = rows / statistics.median(seconds)
        results.append(Measured(query, engine.name, engine.input, engine.sink, emission(engine, query), rows, seconds, rate))
    if process.returncode != 0:
        print(f"{engine.name} failed with exit code {process.returncode}:\n{errors[-2000:]}", file=sys.stderr)
    return results


def compare(results: list[Measured]) -> None:
    """Fill in the ratios."""
    rates = {(r.query, r.engine): r.rows_per_s for r in results}
    baselines = {engine.name: engine.baseline for engine in ENGINES}
    for result in results:
        query = "q5" if result.query == "q5-panes" else result.query
        baseline = rates.get((query, baselines[result.engine] or ""))
        result.ratio = baseline / result.rows_per_s if baseline else None
        result.target = TARGETS.get((result.query, result.engine))


def show(results: list[Measured]) -> None:
    """The table, by query."""
    print(f"\n{'engine':17} {'input':10} {'sink':15} {'emission':18} {'M rows/s':>9}  flinkray's rate is")
    for query in QUERIES:
        rows = [r for r in results if r.query == query]
        if rows:
            print(f"{query}: {MEANING[query]}")
        for r in rows:
            ratio = "" if r.ratio is None else f"{r.ratio:8.2f} times this"
            target = "" if r.ratio is None or r.target is None else f" (target {r.target:g}{'' if r.ratio >= r.target else ', missed'})"
            print(f"  {r.engine:15} {r.input:10} {r.sink:15} {r.emission:18} {r.rows_per_s / 1e6:9.3f}  {ratio}{target}")


def names(text: str, known: tuple[str, ...]) -> list[str]:
    chosen = text.split(",")
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)} unknown; there are: {', '.join(known)}")
    return chosen


def parse() -> argparse.Namespace:
    engines = tuple(engine.name for engine in ENGINES)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=lambda text: names(text, QUERIES), default=list(QUERIES))
    parser.add_argument("--engines", type=lambda text: names(text, engines), default=list(engines))
    parser.add_argument("--rows", type=int, default=40_000_000, help="bids as Parquet")
    parser.add_argument("--passes", type=int, default=1, help="so many times over the Parquet files: q0, q1, q2, sum and sum-final only")
    parser.add_argument("--csv-rows", type=int, default=4_000_000, help="bids as CSV")
    parser.add_argument("--small-rows", type=int, default=50_000, help="bids as CSV for PyFlink's DataStream, which takes rows singly")
    parser.add_argument("--repeat", type=int, default=3, help="runs of which the median counts")
    parser.add_argument("--parallelism", type=int, default=2)
    parser.add_argument("--check", action="store_true", help="compare flinkray's answers with DuckDB's first")
    parser.add_argument("--check-rows", type=int, default=1_000_000, help="bids that are compared")
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    options = parser.parse_args()
    timed = [query for query in options.queries if query not in TIMELESS]
    if options.passes > 1 and timed:
        parser.error(f"--passes: {', '.join(timed)} look at the time of bids, which would begin anew with each pass")
    return options


def main() -> None:
    options = parse()
    if options.check and subprocess.run([sys.executable, str(HERE / "check.py"), str(options.check_rows)]).returncode != 0:
        sys.exit(1)
    load = os.getloadavg()[0]
    if load > 1:
        print(f"the load of this machine is {load:.1f} before anything has begun: rates will be too low", file=sys.stderr)
    inputs = {"parquet": (data.parquet_files, options.rows), "csv": (data.csv_files, options.csv_rows)}
    inputs["small csv"] = (data.csv_files, options.small_rows)
    results: list[Measured] = []
    for engine in ENGINES:
        queries = [query for query in options.queries if query not in engine.lacks]
        if engine.name not in options.engines or not queries:
            continue
        python = interpreter(engine)
        if python is None:
            hint = "; run python benchmarks/peers/flink_env.py" if engine.name.startswith("flink-") else ""
            print(f"{engine.name}: skipped, not installed{hint}", file=sys.stderr)
            continue
        make, rows = inputs[engine.input]
        files = make(rows)
        if engine.input == "parquet":
            files, rows = data.repeated(files, options.passes), rows * options.passes
        print(f"{engine.name}: {', '.join(queries)} over {rows:,} rows", file=sys.stderr)
        results += measure(engine, python, queries, files, rows, options)
    compare(results)
    show(results)
    if options.json:
        document: dict[str, Any] = {"load_before": load, "cpus": os.cpu_count(), "parallelism": options.parallelism}
        Path(options.json).write_text(json.dumps(document | {"results": [asdict(r) for r in results]}, indent=2))


if __name__ == "__main__":
    main()
