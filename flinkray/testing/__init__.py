"""For those who test what they build on flinkray: `simulate` rehearses a whole job, `harness` runs one operator, the suites check stores and
connectors, `sentinels` and `faulty_store` misbehave on command."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flinkray.testing.simulation import Faults, SimulationReport, simulate

__all__ = ["Faults", "SimulationReport", "simulate"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from flinkray.testing import simulation

        return getattr(simulation, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
