"""The table of docs/resilience.md: recovery here beside Apache Flink's, as Markdown.

    PYTHONPATH=. python benchmarks/resilience.py [--kills 9] [--leader-kills 10] [--json FILE]

Runs benchmarks/recovery.py and benchmarks/failover.py one after the other, each in a process of its own, on a machine that does nothing else. Flink
is not run: its figures are those of Flink 2.3, measured before on the same kind of machine, at its defaults and with timeouts tuned down.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent

FLINK_DEFAULT = ("13.6 s", "44 s, all tasks failed and restored (ZooKeeper)")
FLINK_TUNED = ("2.3 s (1 s heartbeats)", "6.5 s (4 s session, 1 s heartbeats)")


def run(script: str, *arguments: str) -> dict[str, Any]:
    """What the script wrote as JSON. SystemExit with its output when it failed."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        done = subprocess.run([sys.executable, str(HERE / script), *arguments, "--json", str(result)], capture_output=True, text=True)
        if done.returncode or not result.exists():
            raise SystemExit(f"{script} failed:\n{done.stdout}\n{done.stderr}")
        found: dict[str, Any] = json.loads(result.read_text())
        return found


def table(recovery: dict[str, Any], failover: dict[str, Any]) -> str:
    times = recovery["seconds"]
    lost = f"{median(times):.2f} s (median of {len(times)}; {min(times):.2f} to {max(times):.2f})"
    gaps, led = failover["gap_s"], failover["led_again_s"]
    leader = (
        f"no gap: longest at the sink {gaps['with kills'] * 1e3:.0f} ms, {gaps['without kills'] * 1e3:.0f} ms without kills; "
        f"led again after {median(led):.2f} s (median of {len(led)})"
    )
    rows = [
        ("", "flinkray", "Flink 2.3, defaults", "Flink 2.3, tuned"),
        ("---",) * 4,
        ("TaskManager killed, to the first new row", lost, FLINK_DEFAULT[0], FLINK_TUNED[0]),
        ("leader killed, to the first new row", leader, FLINK_DEFAULT[1], FLINK_TUNED[1]),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=9, help="of TaskManagers")
    parser.add_argument("--leader-kills", type=int, default=10)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    recovery = run("recovery.py", "--kills", str(options.kills))
    failover = run("failover.py", "--kills", str(options.leader_kills))
    print(table(recovery, failover))
    if options.json:
        Path(options.json).write_text(json.dumps({"recovery": recovery, "failover": failover}, indent=2))


if __name__ == "__main__":
    main()
