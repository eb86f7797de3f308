"""The example jobs run as scripts on the local runtime, of generated rows and of files, and what they write is DuckDB's answer."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import flinkray as fr
from flinkray.api.collect import final_rows
from flinkray.connectors.nexmark import nexmark_table
from tests.golden import oracle, test_jobs, test_keyed_operators

JOBS = Path(__file__).parents[2] / "jobs"

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a script of jobs/ as `python jobs/NAME.py OPTIONS` would, into tmp_path/out; returns what it prints."""

    def run(name: str, *options: object) -> str:
        common = ["--runtime", "local", "--out", str(tmp_path / "out"), "--storage", f"file://{tmp_path}/checkpoints"]
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *common, *map(str, options)])
        runpy.run_path(str(JOBS / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


def files_of(table: pa.Table, folder: Path) -> str:
    """Three Parquet files with these rows; returns their glob."""
    folder.mkdir()
    part = -(-table.num_rows // 3)
    for number in range(3):
        pq.write_table(table.slice(number * part, part), folder / f"{number}.parquet")
    return f"{folder}/*.parquet"


def is_answer(found: Path, expected: pa.Table) -> None:
    oracle.same(pq.read_table(found).select(expected.column_names), expected)


both_inputs = pytest.mark.parametrize("files", [False, True], ids=["generated", "files"])


@both_inputs
@pytest.mark.parametrize(("name", "options"), [("hot_items", ()), ("sessions", ("--gap", "200ms"))])
def test_windows_of_bids(name: str, options: tuple[str, ...], files: bool, run: Run, tmp_path: Path) -> None:
    inputs = ("--input", files_of(test_jobs.bids(), tmp_path / "bids")) if files else ("--rows", test_jobs.ROWS)
    assert f"FINISHED: {test_jobs.ROWS:,} bids" in run(name, *options, *inputs)
    is_answer(tmp_path / "out", test_jobs.answer(name.replace("_", " ")))


@pytest.mark.parametrize("changelog", [False, True])
def test_running_totals_of_csv_files(changelog: bool, run: Run, tmp_path: Path) -> None:
    env = fr.StreamEnvironment("files", runtime="local")
    test_jobs.csv_bids(env, tmp_path, None, lambda source: source)
    told = run("running_totals", "--input", f"{tmp_path}/csv/*.csv", *(["--changelog"] if changelog else []))
    assert f"FINISHED: {test_jobs.ROWS:,} rows" in told
    found, expected = pq.read_table(tmp_path / "out"), test_jobs.answer("running totals")
    if changelog:
        assert found.num_rows > expected.num_rows, "keys have answers in between"
        found = final_rows(found.sort_by("_seq").drop_columns(["_seq"]), ("bidder",))
    oracle.same(found.select(expected.column_names), expected)


def test_running_totals_that_watch_have_no_last_answers(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("running_totals", "--input", "nowhere/*.csv", "--watch", "1s")
    assert ended.value.code == 2
    assert "give --changelog too" in capsys.readouterr().err


@both_inputs
def test_enrichment(files: bool, run: Run, tmp_path: Path) -> None:
    rows, auctions = test_keyed_operators.BIDS, test_keyed_operators.AUCTIONS
    inputs: tuple[object, ...] = ("--rows", rows)
    if files:
        tables = [(name, nexmark_table(name, count, 0)) for name, count in (("bid", rows), ("auction", auctions))]
        inputs = tuple(part for name, table in tables for part in (f"--{name}s", files_of(table, tmp_path / name)))
    assert f"FINISHED: {rows + auctions:,} rows read, {rows:,} bids in" in run("enrichment", *inputs)
    is_answer(tmp_path / "out", test_keyed_operators.expected("the enrichment job"))


@both_inputs
def test_fraud(files: bool, run: Run, tmp_path: Path) -> None:
    small, large, within = test_keyed_operators.FRAUD
    rows = test_keyed_operators.BIDS
    inputs = ("--input", files_of(nexmark_table("bid", rows, 0), tmp_path / "bids")) if files else ("--rows", rows)
    told = run("fraud", *inputs, "--small", small, "--large", large, "--within-s", within.total_seconds())
    alerts, quiet = (test_keyed_operators.expected(f"the fraud job{what}") for what in ("", "'s side output"))
    assert f"FINISHED: {rows:,} bids, {alerts.num_rows + quiet.num_rows:,} alerts and quiet bids in" in told
    is_answer(tmp_path / "out" / "alerts", alerts)
    is_answer(tmp_path / "out" / "quiet", quiet)


def test_every_job_is_here_or_beside_the_stages() -> None:
    here = {"hot_items", "sessions", "running_totals", "enrichment", "fraud"}
    assert {path.stem for path in JOBS.glob("*.py")} == here | {"streaming_inference"}, "see tests/golden/test_stages.py"


@pytest.mark.parametrize("name", ["hot_items", "sessions", "enrichment", "fraud"])
def test_an_answer_of_another_run_is_not_written_over(name: str, run: Run) -> None:
    run(name, "--rows", 1_000)
    with pytest.raises(fr.FlinkrayError, match="overwrite"):
        run(name, "--rows", 1_000, "--seed", 1)
    run(name, "--rows", 1_000, "--seed", 1, "--mode", "overwrite")
