"""The journal on a real GCS key-value store: write-once slots, snapshots, compaction, a successor."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cluster.command_line import environment

pytestmark = pytest.mark.cluster

SCRIPT = """
import ray
from flinkray.core.journal_records import CheckpointCompleted, RunEnded
from flinkray.errors import DeposedError
from flinkray.runtime.ray.gcs_slots import GcsSlots
from tests.journal_driver import Journal

ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR")
slots, other = GcsSlots("run-1"), GcsSlots("run-11")
first = Journal(slots, "a", interval=8)
assert first.lead("jm-a") == 1
for number in range(40):
    first.append(CheckpointCompleted(number + 1, f"log/{number + 1}"))
assert slots.snapshots() == (32, 40), slots.snapshots()
assert slots.get(31) is None and slots.get(32) is not None
assert other.snapshots() == () and other.get(40) is None, "runs do not see each other"
second = Journal(GcsSlots("run-1"), "b", interval=8)
assert second.lead("jm-b") == 2
assert second.view.checkpoint == 40
try:
    first.append(RunEnded("FINISHED"))
except DeposedError:
    print("deposed")
ray.shutdown()
"""


def test_the_journal_on_the_gcs_has_snapshots_frees_slots_and_deposes() -> None:
    answer = subprocess.run([sys.executable, "-c", SCRIPT], env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert answer.stdout.splitlines()[-1] == "deposed"
