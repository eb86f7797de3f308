"""`python -m flinkray.testing.simulate`, and what it prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flinkray.errors import PlanError
from flinkray.testing import Faults, simulate
from flinkray.testing.simulation.cli import main
from flinkray.testing.simulation.faults import KINDS, parse_faults
from flinkray.testing.simulation.job import Settings
from flinkray.testing.simulation.jobs import JOBS
from flinkray.testing.simulation.plants import PLANTS
from flinkray.testing.simulation.shrink import only_text, parse_only, shrink

JOB = """
import flinkray as fr

def build_job(env):
    bids = env.from_source(fr.sources.Nexmark("bid", rows=200, rate=400), uid="bids").select("auction", "price")
    bids.key_by("auction").aggregate(total=fr.agg.sum("price"), emit="final").uid("totals").sink_to(fr.sinks.Parquet("/nowhere"), uid="out")
"""


def test_a_users_job_is_rehearsed_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "my_job.py"
    file.write_text(JOB)
    command = [sys.executable, "-m", "flinkray.testing.simulate", "--job", str(file), "--seeds", "0:3", "--faults", "crash"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "3 seeds, 3 passed" in shown.stdout
    assert "never happened: " in shown.stdout


def test_a_failing_seed_is_shrunk_and_told_with_the_command_that_repeats_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--builtin", "hot-items", "--seeds", "0:20", "--plant", "splits-lost"]) == 1
    told = capsys.readouterr().out
    (command,) = [line for line in told.splitlines() if line.startswith("  python -m flinkray.testing.simulate")]
    assert "exactly once:" in told
    assert "last events:" in told
    arguments = command.split()[3:]
    assert main(arguments) == 1, "the command repeats the failure"
    assert "VIOLATION" in capsys.readouterr().out
    mended = arguments[: arguments.index("--plant")] + arguments[arguments.index("--plant") + 2 :]
    assert main(mended) == 0


def test_wrong_usage_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--faults", "gremlins"]) == 2
    assert "'gremlins' is no fault; there are: drop, delay," in capsys.readouterr().err
    assert main(["--seeds", "many"]) == 2
    assert main(["--job", "/nowhere/job.py"]) == 2


def test_shrinking_leaves_out_faults_and_rows_that_do_not_matter() -> None:
    plant, faults = PLANTS["splits-lost"], Faults.only("crash", "delay", "duplicate", "clock_jump")
    simulate(JOBS["hot-items"], 0, Faults.none())
    with plant.planted():
        report = next(r for r in (simulate(JOBS["hot-items"], seed, faults) for seed in range(50)) if r.violations)
        shrunk = shrink(JOBS["hot-items"], report, Settings())
    assert not shrunk.report.exactly_once
    assert len(shrunk.faults) < len(report.injected)
    assert shrunk.settings.rows is not None
    assert parse_only(only_text(shrunk.faults)) == frozenset(fault.id for fault in shrunk.faults)


def test_a_job_without_an_end_or_without_output_is_refused() -> None:
    import flinkray as fr

    def nothing(env: fr.StreamEnvironment) -> None:
        env.from_source(fr.sources.Nexmark("bid", rows=5), uid="bids")

    with pytest.raises(PlanError):
        simulate(nothing)


def test_strengths_are_given_by_name() -> None:
    faults = parse_faults("crash=2.5,drop")
    assert (faults.crash, faults.drop, faults.pause) == (2.5, KINDS["drop"].typical, 0.0)
    assert parse_faults("swarm").chosen(3) == parse_faults("swarm").chosen(3)
    assert parse_faults("swarm").chosen(3) != parse_faults("swarm").chosen(4)
