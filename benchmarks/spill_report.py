"""What `benchmarks/spill.py` measured, as JSON and Markdown."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

CASES = {
    "uniform": "17 aggregates by key, keys at random",
    "skewed": "the same, 9 of 10 rows of 1 % of the keys",
    "objects": "a process function that replaces an object of 550 bytes, keys at random",
}
STEPS = {
    "full_sync_s": "a full snapshot stops the task",
    "full_s": "until it is stored",
    "delta_sync_s": "one after changes of 1 % of the keys stops the task",
    "delta_s": "until it is stored",
    "restore_s": "a restore of both",
}


def write(results: dict[str, Any], folder: Path) -> None:
    """`spill.json` and `spill.md`."""
    results["load_after"] = os.getloadavg()[0]
    (folder / "spill.json").write_text(json.dumps(results, indent=2) + "\n")
    (folder / "spill.md").write_text(markdown(results))


def markdown(results: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {results['versions'][name]}" for name in ("flinkray", "pyarrow", "numba"))
    lines = [
        f"`{results['command']}`, {results['date']}: {results['cpus']} CPUs ({results['cpu']}), {results['memory_gb']} GB, {results['system']}, Python "
        f"{results['python']}, {versions}; load {results['load_before']:.1f} before and {results['load_after']:.1f} after; one run.",
        "",
        f"A budget of {results['budget_mb']} MB; in brackets the part of the rate without a budget, or what it takes without one.",
        "",
        "| case | state | new keys/s | rows/s afterwards | at most in memory above the process | wrong answers |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += [_rates(name, results[case]) for case, name in CASES.items() if case in results]
    if "checkpoint" in results:
        lines += ["", "Snapshots and a restore of the aggregates (the keys skewed):", "", "| | seconds |", "|---|---:|"]
        lines += _steps(results["checkpoint"])
    return "\n".join(lines) + "\n"


def _rates(name: str, result: dict[str, Any]) -> str:
    within, without = result["within"], result["without"]
    inserts, updates = (f"{within[rate]:,} ({within[rate] / without[rate]:.2f})" for rate in ("inserts_per_s", "updates_per_s"))
    return (
        f"| {name}, {result['keys'] / 1e6:.1f} M keys | {within['state_mb']:,} MB | {inserts} | {updates} | {within['most_above_mb']:,} MB "
        f"({without['most_above_mb']:,}) | {within['wrong_keys']} |"
    )


def _steps(result: dict[str, Any]) -> list[str]:
    within, without = result["within"], result["without"]
    lines = [f"| {what} | {within[step]} ({without[step]}) |" for step, what in STEPS.items()]
    equal = "equal" if within["digest"] == without["digest"] else "DIFFERENT"
    most = ", ".join(f"{step} {mb}" for step, mb in within["most_above_mb_by_step"].items())
    return [
        *lines,
        "",
        f"All answers after the restore are {equal} to those without a budget. State {within['state_mb']:,} MB; at most in memory above the process, MB: {most} "
        f"(without a budget {without['most_above_mb']:,}).",
    ]
