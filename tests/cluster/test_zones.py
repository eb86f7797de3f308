"""Three labelled zones on one machine: where a job's processes go, and a zone that is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.command_line import environment

pytestmark = pytest.mark.cluster

SCRIPT = """
import sys, time
import pyarrow.parquet as pq
import ray
from ray.cluster_utils import Cluster
import flinkray as fr
from flinkray.connectors.nexmark import nexmark_table
from flinkray.errors import ResourceError
from tests.golden.oracle import hot_items, same

folder, victim = sys.argv[1:]
LABEL = "ray.io/availability-zone"
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = {zone: cluster.add_node(num_cpus=3, labels={LABEL: zone}) for zone in "abc"}
ray.init(address=cluster.address, namespace="flinkray", log_to_driver=False, logging_level="ERROR")
ROWS = 2_400_000
env = fr.StreamEnvironment(
    "zones", parallelism=3, checkpointing=fr.Checkpointing(interval="1s", storage=f"file://{folder}/checkpoints"),
    high_availability=fr.HighAvailability(zones="require"),
)
bids = env.from_source(fr.sources.Nexmark("bid", rows=ROWS, rate=80_000), watermark=fr.Watermarks.bounded("date_time", "1s"), uid="bids")
counts = bids.key_by("auction").window(fr.windows.Sliding("10s", "2s")).aggregate(bids=fr.agg.count()).uid("count")
counts.window_all(fr.windows.Tumbling("2s")).top_n(1, by="bids").uid("hottest").sink_to(fr.sinks.Parquet(f"{folder}/out"), uid="out")
job = env.execute_async()


def until(condition):
    deadline = time.monotonic() + 60
    while not condition(status := job.status()):
        assert time.monotonic() < deadline, status
        time.sleep(0.05)
    return status


def ready(s):
    return s["status"] == "RUNNING" and s["checkpoints"]["completed"] >= 2 and s["standbys"] and all(
        tm["role"] != "starting" for tm in s["task_managers"])


status = until(ready)
active = [tm for tm in status["task_managers"] if tm["role"] == "active"]
assert sorted(tm["zone"] for tm in active) == ["a", "b", "c"], active
leader = status["leader"]["zone"]
assert leader and status["standbys"][0]["zone"] not in ("", leader), status
zone = leader if victim == "leader" else next(z for z in "abc" if z not in (leader, status["standbys"][0]["zone"]))
killed_at = time.monotonic()
cluster.remove_node(nodes[zone], allow_graceful=False)
status = until(lambda s: s["status"] == "RUNNING" and s["restarts"] == 1)
print(f"zone {zone} lost, running again after {time.monotonic() - killed_at:.2f} s")
status = until(lambda s: s["standbys"] and s["standbys"][0]["zone"] not in ("", s["leader"]["zone"]))
assert all(tm["zone"] != zone for tm in status["task_managers"] if tm["role"] != "starting"), status
result = job.wait(timeout=120)
assert (result.status, result.restarts, result.records_in) == ("FINISHED", 1, ROWS), result
answer = pq.read_table(f"{folder}/out").select(["auction", "window_start", "bids"])
same(answer, hot_items(nexmark_table("bid", ROWS, 0)).select(["auction", "window_start", "bids"]))
print("equal")
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["leader", "worker"])
def test_a_job_over_three_zones_survives_the_loss_of_one(tmp_path: Path, victim: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), victim], env=environment(), capture_output=True, text=True, timeout=240, check=False
    )
    print(answer.stdout)
    assert answer.returncode == 0, answer.stdout + answer.stderr[-4000:]
    assert "equal" in answer.stdout.splitlines()  # among what Ray says of the lost node


ONE_ZONE = """
import ray, flinkray as fr
from flinkray.errors import ResourceError
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", namespace="flinkray", labels={"ray.io/availability-zone": "a"})
env = fr.StreamEnvironment("one-zone", checkpointing=None, high_availability=fr.HighAvailability(zones="require"))
env.from_source(fr.sources.Nexmark("bid", rows=10), uid="bids").sink_to(fr.sinks.Blackhole(), uid="out")
try:
    env.execute()
except ResourceError as error:
    print(error)
"""


def test_zones_that_are_required_and_not_there_are_an_error_at_once() -> None:
    answer = subprocess.run([sys.executable, "-c", ONE_ZONE], env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert "zones='require', and the 1 living nodes are in a" in answer.stdout, answer.stdout + answer.stderr[-3000:]
