"""CPUs for the slots of a job, reserved as a whole: TaskManagers, spares and JobManagers themselves take none, so that a spare can take
over a slot without asking the scheduler."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from flinkray.errors import ResourceError

WAIT_S = 10.0
SETTLES_S = 3.0


def reserve(name: str, slots: int, cpus_per_slot: float) -> Any:
    """A placement group of one bundle a slot, spread over nodes. ResourceError naming what is missing."""
    if cpus_per_slot <= 0:
        return None
    wanted = slots * cpus_per_slot
    total = ray.cluster_resources().get("CPU", 0.0)
    free = _free_cpus(wanted) if wanted <= total else ray.available_resources().get("CPU", 0.0)
    if free < wanted:
        raise ResourceError(
            f"job {name!r} asks for {wanted:g} CPUs ({slots} slots of {cpus_per_slot:g}); the cluster has {total:g}, of which {free:g} are free: "
            "lower --parallelism, end other jobs, or set Resources(cpus_per_slot=...)"
        )
    group = placement_group([{"CPU": cpus_per_slot}] * slots, strategy="SPREAD", name=f"flinkray/{name}", lifetime="detached")
    if not group.wait(WAIT_S):
        remove_placement_group(group)
        raise ResourceError(
            f"job {name!r}: {slots} slots of {cpus_per_slot:g} CPUs did not fit on the nodes in {WAIT_S:.0f} s "
            f"({free:g} CPUs are free in all, but not in pieces of {cpus_per_slot:g})"
        )
    return group


def _free_cpus(wanted: float) -> float:
    """What has just ended (a job, Ray Data's tasks) is given back a moment later."""
    deadline = time.monotonic() + SETTLES_S
    while (free := float(ray.available_resources().get("CPU", 0.0))) < wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    return free


def release(group: Any) -> None:
    if group is not None:
        with suppress(Exception):  # the cluster may be going down
            remove_placement_group(group)
