"""cluster.yaml and the KubeRay example: what Ray's own validation and a reader's copy would meet."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LABEL = "ray.io/availability-zone"


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def kuberay() -> dict[str, Any]:
    text = (ROOT / "docs/operations.md").read_text()
    found = re.search(r"```yaml\n(apiVersion: ray\.io/v1\n.*?)```", text, re.DOTALL)
    assert found, "docs/operations.md has a RayCluster"
    return yaml.safe_load(found.group(1))


def test_ray_takes_it(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import validate_config

    whole = {"cluster_synced_files": [], **cluster}  # `ray up` fills that in, with its other defaults
    validate_config(whole)
    with pytest.raises(ValueError, match="head_node_type"):
        validate_config({**whole, "head_node_type": "of no such name"})


def test_there_is_a_worker_in_each_of_three_zones_and_none_on_the_head(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    head = types.pop(cluster["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert len({node["labels"][LABEL] for node in types.values()}) == 3
    assert len({node["node_config"]["SubnetIds"][0] for node in types.values()}) == 3
    assert all(node["min_workers"] >= 1 for node in types.values())
    assert all(LABEL in command for command in cluster["worker_start_ray_commands"] if "ray start" in command)


def test_the_gcs_keeps_its_tables_on_the_volume(cluster: dict[str, Any]) -> None:
    setup = "\n".join(cluster["head_setup_commands"])
    assert "RAY_gcs_storage=rocksdb" in setup
    assert "RAY_gcs_storage_path=/gcs/" in setup
    assert "RAY_health_check_period_ms" in setup
    assert "Restart=always" in "\n".join(cluster["head_start_ray_commands"])


@pytest.mark.parametrize("part", ["setup_commands", "head_setup_commands", "head_start_ray_commands", "worker_start_ray_commands"])
def test_its_commands_are_shell(cluster: dict[str, Any], part: str) -> None:
    for command in cluster[part]:
        checked = subprocess.run(["bash", "-n"], input=command, capture_output=True, text=True, timeout=30, check=False)
        assert checked.returncode == 0, f"{command}\n{checked.stderr}"


def test_the_kuberay_example_is_like_it() -> None:
    cluster = kuberay()
    spec = cluster["spec"]
    assert cluster["kind"] == "RayCluster"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    head = spec["headGroupSpec"]["template"]["spec"]["containers"][0]
    environment = {entry["name"]: entry["value"] for entry in head["env"]}
    assert environment["RAY_gcs_storage"] == "rocksdb"
    assert any(environment["RAY_gcs_storage_path"].startswith(mount["mountPath"]) for mount in head["volumeMounts"])
    zones = [group["template"]["spec"]["nodeSelector"]["topology.kubernetes.io/zone"] for group in spec["workerGroupSpecs"]]
    labels = [group["rayStartParams"]["labels"] for group in spec["workerGroupSpecs"]]
    assert labels == [f"{LABEL}={zone}" for zone in zones]
    assert len(set(zones)) == 3
