"""Every query of the Nexmark benchmark (`benchmarks/nexmark`) gives DuckDB's answer."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from benchmarks.nexmark.check import run
from benchmarks.nexmark.data import Files, nexmark_files
from benchmarks.nexmark.oracle import difference, expected
from benchmarks.nexmark.queries import CALENDAR, NAMES, query

EVENTS = 4_000
DENSE_US, SPARSE_US = 20_000, 30_000_000
"""Between two events: 80 s in all, or a day and a half."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nexmark")


@cache
def files(folder: Path, interval_us: int, kind: str) -> Files:
    return nexmark_files(EVENTS, kind, interval_us, folder)


def check(name: str, folder: Path, tmp_path: Path, kind: str = "parquet") -> None:
    one, interval_us = query(name), SPARSE_US if name in CALENDAR else DENSE_US
    wanted = expected(one, files(folder, interval_us, "parquet"))
    assert wanted.num_rows >= (2 if name in ("q2", "q15") else 5)
    differs = difference(run(one, files(folder, interval_us, kind), tmp_path, parallelism=2, runtime="local"), wanted)
    assert differs is None, differs


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_is_duckdbs(name: str, folder: Path, tmp_path: Path) -> None:
    check(name, folder, tmp_path)


@pytest.mark.parametrize("kind", ["csv", "json"])
@pytest.mark.parametrize("name", ["q3", "q18"])
def test_files_of_other_kinds_hold_the_same_rows(name: str, kind: str, folder: Path, tmp_path: Path) -> None:
    check(name, folder, tmp_path, kind)


def test_a_difference_is_told_with_the_rows(folder: Path) -> None:
    wanted = expected(query("q8"), files(folder, DENSE_US, "parquet"))
    assert difference(wanted, wanted) is None
    assert "1 rows missing, 0 too many" in str(difference(wanted.slice(1), wanted))
    assert "types" in str(difference(wanted.set_column(0, "id", wanted["id"].cast("int32")), wanted))
    assert "columns" in str(difference(wanted.drop_columns("id"), wanted))


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(1200)
def test_at_every_parallelism_and_with_a_taskmanager_killed() -> None:
    """Some eight minutes."""
    done = subprocess.run([sys.executable, "benchmarks/nexmark_check.py", "--events", "100000"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.count(" equal ") == len(NAMES)
