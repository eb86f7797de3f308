"""What a spare does before it is counted as one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from flinkray.runtime import rehearsal


def test_it_runs_checkpoints_and_restores_whatever_options_the_real_job_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"name": "real", "parallelism": 3, "storage": f"file://{tmp_path}/real", "restore": "none"}
    monkeypatch.setenv("FLINKRAY_RUN_OPTIONS", json.dumps(options))
    restored = []
    run = rehearsal._run

    def watched(*arguments: object) -> object:
        states = run(*arguments)  # type: ignore[arg-type]
        restored.append((arguments[4], {state.uid for state in states}))
        return states

    monkeypatch.setattr(rehearsal, "_run", watched)
    rehearsal.rehearse()
    assert [checkpoint for checkpoint, _ in restored] == [None, 1]
    assert all({"windows", "running", "sessions", "top"} <= uids for _, uids in restored)
    assert list(tmp_path.iterdir()) == [], "nothing outside the process is touched"


def test_it_reads_a_file_that_is_nowhere_for_jobs_that_read_parquet() -> None:
    files = len(os.listdir("/proc/self/fd"))
    rehearsal._read_parquet()
    assert len(os.listdir("/proc/self/fd")) == files
