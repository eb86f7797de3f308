"""kill -9 of a TaskManager whose state is four times its memory: the answer equals DuckDB's, and the process takes much less memory than without a budget."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import flinkray as fr
from tests.chaos.test_kill_task_manager import TIMEOUT_S, kill, until
from tests.held import Held

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]

MB = 1 << 20
BYTES_PER_KEY = 170
"""Of state, at least: what makes it four times the budget."""
TIMES = 4


class Memory(threading.Thread):
    """What processes have in memory, private pages and mapped ones, sampled."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.pids: set[int] = set()
        self.most = 0
        """MB, of the largest."""
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.01):
            for pid in list(self.pids):
                self.most = max(self.most, self._now_mb(pid))

    def watch(self, status: dict[str, Any]) -> None:
        self.pids |= {tm["pid"] for tm in status["task_managers"]}

    def stop(self) -> None:
        self._over.set()
        self.join()

    @staticmethod
    def _now_mb(pid: int) -> int:
        """0: it has ended."""
        try:
            lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        except OSError:
            return 0
        return sum(int(lines[name].split()[0]) >> 10 for name in ("RssAnon", "RssFile")) if "RssAnon" in lines else 0


def start(tmp_path: Path, name: str, parallelism: int, budget_mb: int | None, held_rows: int) -> fr.JobHandle:
    """`held_rows`: after these each reader waits until there is a file `gate`."""
    env = fr.StreamEnvironment(
        name,
        parallelism=parallelism,
        checkpointing=fr.Checkpointing(interval="1s", min_pause="100ms", storage=f"file://{tmp_path}/checkpoints"),
        resources=fr.Resources(state_memory_mb=budget_mb, spill_folder=str(tmp_path / "spill")) if budget_mb else fr.Resources(),
    )
    source = Held(fr.sources.Parquet(str(tmp_path / "in" / "*.parquet")), held_rows, str(tmp_path / "gate"))
    functions = [(f"{f}_{column}", getattr(fr.agg, f)(column)) for column in ("a", "b") for f in ("sum", "min", "max", "mean")]
    totals = env.from_source(source, uid="rows").key_by("key").aggregate(n=fr.agg.count(), **dict(functions), emit="final").uid("sums")
    totals.sink_to(fr.sinks.Parquet(str(tmp_path / "out")), uid="out")
    return env.execute_async()


def write_input(tmp_path: Path, parallelism: int, rows: int, keys: int) -> None:
    """Of each reader a file: first every key, then keys at random."""
    (tmp_path / "in").mkdir()
    (tmp_path / "spill").mkdir()
    random = np.random.default_rng(5)
    key = np.concatenate([random.permutation(keys), random.integers(0, keys, rows - keys)])
    for number in range(parallelism):
        mine = key[number::parallelism]
        columns = {"key": mine, "a": random.integers(-(10**9), 10**9, len(mine)), "b": random.integers(0, 10**6, len(mine))}
        pq.write_table(pa.table(columns), tmp_path / "in" / f"{number}.parquet", row_group_size=1 << 16)


def wrong_rows(tmp_path: Path) -> tuple[int, int]:
    """(rows that are in one answer and not in the other, keys)."""
    functions = ", ".join(
        f"{sql}({column})::{kind}" for column in "ab" for sql, kind in (("sum", "BIGINT"), ("min", "BIGINT"), ("max", "BIGINT"))
    )
    wanted = f"SELECT key, count(*) AS n, {functions} FROM '{tmp_path}/in/*.parquet' GROUP BY key"
    columns = ", ".join(f"{f}_{column}" for column in "ab" for f in ("sum", "min", "max"))
    found = f"SELECT key, n, {columns} FROM '{tmp_path}/out/**/*.parquet'"
    with duckdb.connect() as db:
        both = f"(({wanted}) EXCEPT ALL ({found})) UNION ALL (({found}) EXCEPT ALL ({wanted}))"
        wrong = db.execute(f"SELECT count(*) FROM ({both})").fetchone()
        keys = db.execute(f"SELECT count(*) FROM ({found})").fetchone()
    assert wrong is not None
    assert keys is not None
    return wrong[0], keys[0]


def run_with_a_kill(tmp_path: Path, parallelism: int, budget_mb: int | None, rows: int, keys: int) -> tuple[Memory, dict[str, Any]]:
    """The job, killed when most rows are there; checks its answer. (Memory of its processes, status with all of state)."""
    write_input(tmp_path, parallelism, rows, keys)
    held_rows = rows * 9 // 10 // parallelism
    job, memory = start(tmp_path, f"spilled-{budget_mb}-{keys}", parallelism, budget_mb, held_rows), Memory()
    memory.watch(until(job, lambda s: s["status"] == "RUNNING"))
    memory.start()
    full = until(job, lambda s: s["records_in"] >= held_rows * parallelism and s["state"]["rows"] >= keys * 8 // 10)
    done = full["checkpoints"]["completed"]
    status = until(job, lambda s: s["checkpoints"]["completed"] >= done + 2 and any(tm["role"] == "spare" for tm in s["task_managers"]))
    memory.watch(status)
    kill(status, "active")
    memory.watch(until(job, lambda s: s["restarts"] == 1 and s["status"] == "RUNNING"))
    until(job, lambda s: s["state"]["rows"] >= keys * 8 // 10)
    (tmp_path / "gate").touch()
    result = job.wait(timeout=TIMEOUT_S)
    memory.stop()
    assert result.restarts == 1
    assert result.records_in == rows, "replayed rows are not counted twice"
    assert wrong_rows(tmp_path) == (0, keys)
    assert os.listdir(tmp_path / "spill") == []
    return memory, full["state"]


def test_a_task_manager_with_state_of_four_times_its_memory_is_killed(tmp_path: Path) -> None:
    keys = 2 * 4 * TIMES * MB // BYTES_PER_KEY
    _, state = run_with_a_kill(tmp_path, 2, 4, keys * 5 // 4, keys)
    assert state["bytes"] >= TIMES * 2 * 4 * MB
    assert state["spilled_bytes"] >= (TIMES - 1.5) * 2 * 4 * MB


@pytest.mark.slow
def test_a_task_manager_with_state_of_four_times_its_memory_takes_much_less_than_without_a_budget(tmp_path: Path) -> None:
    """Beside state there are batches, snapshots on their way, and what the sink gathers."""
    budget_mb, most = 64, {}
    keys = budget_mb * TIMES * MB // BYTES_PER_KEY
    for name, budget, of_keys in (("little state", None, 1000), ("no budget", None, keys), ("budget", budget_mb, keys)):
        (tmp_path / name).mkdir()
        memory, state = run_with_a_kill(tmp_path / name, 1, budget, keys * 5 // 4, of_keys)
        most[name] = memory.most
    print(
        f"\nbudget {budget_mb} MB, state {state['bytes'] / MB:.0f} MB, on disk {state['spilled_bytes'] / MB:.0f} MB; MB in memory at most: {most}"
    )
    assert state["bytes"] >= TIMES * budget_mb * MB
    assert most["budget"] - most["little state"] < (most["no budget"] - most["little state"]) / 2
