"""A whole job in one thread on virtual time, from one seed: the product's cores, shells, operators, state and checkpoints; everything
around them is simulated, and goes wrong where the seed says.

    report = simulate(build_job, seed=7, faults=Faults.swarm())      # build_job(env) makes the user's graph
    assert report.exactly_once
"""

from __future__ import annotations

from flinkray.testing.simulation.faults import Faults
from flinkray.testing.simulation.job import Settings
from flinkray.testing.simulation.report import SimulationReport
from flinkray.testing.simulation.run import simulate

__all__ = ["Faults", "Settings", "SimulationReport", "simulate"]
