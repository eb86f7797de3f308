"""Each rule of the protocol, broken on purpose: the simulator notices, and with the rule mended the same seed passes."""

from __future__ import annotations

import pytest

from flinkray.core.job_events import Tick, WriteManifest
from flinkray.core.messages import Acknowledged, Counters, Report
from flinkray.testing import simulate
from flinkray.testing.simulation.faults import parse_faults
from flinkray.testing.simulation.jobs import JOBS
from flinkray.testing.simulation.plants import PLANTS, Plant
from tests.unit.test_job_core import Driver

SEEDS = 500


def caught(plant: Plant, seed: int) -> bool:
    with plant.planted():
        return not simulate(JOBS[plant.job], seed, parse_faults(plant.faults), parallelism=plant.parallelism).exactly_once


@pytest.mark.parametrize("plant", [plant for plant in PLANTS.values() if not plant.directed], ids=lambda plant: plant.name)
def test_a_planted_bug_is_caught_and_the_same_seed_passes_without_it(plant: Plant) -> None:
    simulate(JOBS[plant.job], plant.seed, parse_faults("none"), parallelism=plant.parallelism)  # the answer to compare with, before the bug
    seed = next((seed for seed in (plant.seed, *range(SEEDS)) if caught(plant, seed)), None)
    assert seed is not None, f"{SEEDS} seeds of {plant.faults} do not notice: {plant.doc}"
    report = simulate(JOBS[plant.job], seed, parse_faults(plant.faults), parallelism=plant.parallelism)
    assert report.exactly_once, report.story()


def acknowledged_by_a_lost_instance() -> list:
    """Slot 0 has acknowledged checkpoint 1; then an instance that nobody knows (any more) says that slot 1 has."""
    driver = Driver()
    driver.run()
    driver.give(Tick(), at=2.0)
    driver.report(0, Acknowledged(1, 0, (), {}, Counters()))
    return driver.give(Report("of-another-time", driver.core.attempt - 1, Acknowledged(1, 1, (), {}, Counters())))


def test_an_old_instances_acknowledgement_is_not_counted() -> None:
    """Random seeds do not reach it: ids never repeat, so an old instance has no acknowledgement of a checkpoint that is pending now."""
    assert not [command for command in acknowledged_by_a_lost_instance() if isinstance(command, WriteManifest)]
    with PLANTS["old-instances-ack"].planted():
        assert [command for command in acknowledged_by_a_lost_instance() if isinstance(command, WriteManifest)]


def test_every_plant_that_has_no_seeds_names_its_directed_test() -> None:
    for plant in PLANTS.values():
        assert not plant.directed or plant.directed in globals()
