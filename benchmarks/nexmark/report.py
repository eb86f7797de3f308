"""What `benchmarks/run.py` measured, as JSON, Markdown and a plot."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engines.environments import ENVIRONMENTS

from .queries import NAMES, SUMS, query

PACKAGES = ("flinkray", "ray", "pyarrow", "numba", "duckdb", "polars", "datafusion")
Document = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """One query of one engine; `seconds` of each round, `rows_per_s` by their median."""

    query: str
    engine: str
    input: str
    parallelism: int
    checkpoints: str | None
    rows: int
    seconds: list[float]
    rows_per_s: float
    baseline: str | None
    ratio: float | None = None
    """How many times this engine's rate the baseline's is: above 1, flinkray is faster."""


def compared(results: list[Measured]) -> list[Measured]:
    """With ratios, by query and then in the order of the engines."""
    rates = {(r.query, r.engine): r.rows_per_s for r in results}
    order = {name: number for number, name in enumerate((*NAMES, *SUMS))}
    filled = []
    for result in sorted(results, key=lambda r: order[r.query]):
        base = rates.get((result.query, result.baseline or ""))
        filled.append(replace(result, ratio=base / result.rows_per_s if base else None))
    return filled


def machine() -> dict[str, Any]:
    """Where and with what it is measured. `load_before`: before it begins."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        models = [
            line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
        ]
        cpu = models[0] if models else cpu
    versions = {name: importlib.metadata.version(name) for name in PACKAGES if importlib.util.find_spec(name)}
    versions |= {name: environment.version for name, environment in ENVIRONMENTS.items()}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": cpu,
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions,
        "load_before": os.getloadavg()[0],
    }


def document(results: list[Measured], where: dict[str, Any], command: str) -> Document:
    return {"command": command, **where, "load_after": os.getloadavg()[0], "results": [asdict(result) for result in results]}


def markdown(given: Document) -> str:
    """A row for each query, a column for each engine: M rows/s, and in brackets how many times that flinkray's rate is."""
    results = given["results"]
    engines = list(dict.fromkeys(result["engine"] for result in results))
    queries = list(dict.fromkeys(result["query"] for result in results))
    cells = {(result["query"], result["engine"]): _cell(result) for result in results}
    lines = [
        f"`{given['command']}`, {given['date']}: {given['cpus']} CPUs ({given['cpu']}), {given['memory_gb']} GB, {given['system']}, Python "
        f"{given['python']}; load {given['load_before']:.1f} before and {given['load_after']:.1f} after.",
        "",
        ", ".join(f"{name} {version}" for name, version in given["versions"].items()) + ".",
        "",
        "M rows/s, median of the rounds; in brackets how many times the engine's rate flinkray's is, over the same kind of files.",
        "",
        f"| query | {' | '.join(engines)} |",
        f"|---|{'---:|' * len(engines)}",
    ]
    for name in queries:
        row = " | ".join(cells.get((name, engine), "") for engine in engines)
        lines.append(f"| {name}: {query(name).meaning} | {row} |")
    return "\n".join(lines)


def _cell(result: dict[str, Any]) -> str:
    rate = f"{result['rows_per_s'] / 1e6:.3g}"
    return rate if result["ratio"] is None else f"{rate} ({result['ratio']:.2g})"


def write(given: Document, folder: Path, name: str) -> None:
    """NAME.json, NAME.md, and NAME.png where matplotlib is there."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(given, indent=2) + "\n")
    (folder / f"{name}.md").write_text(markdown(given) + "\n")
    if importlib.util.find_spec("matplotlib") is None:
        print("no plot: pip install '.[bench]' brings matplotlib", file=sys.stderr)
        return
    plot(given, folder / f"{name}.png")


def plot(given: Document, path: Path) -> None:
    """Rates by query, on a logarithmic axis, one mark for each engine."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    results = given["results"]
    queries = list(dict.fromkeys(result["query"] for result in results))
    figure, axes = pyplot.subplots(figsize=(max(6.0, 0.5 * len(queries) + 3), 5), layout="constrained")
    marks = "osD^v<>pPX*hH8d"
    for number, engine in enumerate(dict.fromkeys(result["engine"] for result in results)):
        mine = [result for result in results if result["engine"] == engine]
        places = [queries.index(result["query"]) for result in mine]
        rates = [result["rows_per_s"] / 1e6 for result in mine]
        own = engine.startswith("flinkray")
        axes.plot(places, rates, marks[number % len(marks)], label=engine, markersize=8 if own else 5, alpha=1 if own else 0.7)
    axes.set_yscale("log")
    axes.set_xticks(range(len(queries)), queries, rotation=60)
    axes.set_ylabel("M rows/s")
    axes.grid(axis="y", alpha=0.3)
    axes.set_title(f"Nexmark, {given['cpus']} CPUs, {given['date']}")
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
