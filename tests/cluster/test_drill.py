"""`flinkray drill`: losses for real, from another terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cluster.command_line import flinkray, in_background, until_running, write_script

pytestmark = pytest.mark.cluster

JOB = """
import flinkray as fr
env = fr.StreamEnvironment("drilled", parallelism=2, checkpointing=fr.Checkpointing(interval="500ms", min_pause="50ms"))
bids = env.from_source(fr.sources.Nexmark(stream="bid", rows=100_000_000, rate=5_000), uid="bids")
bids.key_by("auction").aggregate(bids=fr.agg.count()).uid("count").sink_to(fr.sinks.Blackhole(), uid="out")
env.execute()
"""


def test_losing_the_leader_and_a_task_manager(tmp_path: Path) -> None:
    with in_background(tmp_path, "run", write_script(tmp_path, "drilled", JOB)):
        until_running("drilled")
        flinkray("status", "drilled")
        leader = flinkray("drill", "drilled", "leader")
        assert leader.returncode == 0, leader.stdout + leader.stderr
        assert "leader changed; 0 restart(s): no task was restarted, no row was read again" in leader.stdout
        worker = flinkray("drill", "drilled", "taskmanager")
        assert worker.returncode == 0, worker.stdout + worker.stderr
        assert "1 restart(s): rows since the last checkpoint were read again" in worker.stdout
        document = json.loads(flinkray("status", "drilled", "--json").stdout)
        assert (document["status"], document["restarts"]) == ("RUNNING", 1)
        refused = flinkray("drill", "drilled", "node")
        assert refused.returncode == 2
        assert "a node can be lost in a cluster of several only" in refused.stderr
        assert flinkray("drill", "drilled", "zone").returncode == 2
        assert flinkray("cancel", "drilled").returncode == 0
