"""A failing seed made small: the fewest of its faults, and the fewest rows, with which a rule is still broken."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from flinkray.testing.simulation.faults import Faults, Injected, ids
from flinkray.testing.simulation.job import BuildJob, Settings
from flinkray.testing.simulation.report import SimulationReport
from flinkray.testing.simulation.run import simulate

Ids = frozenset[tuple[str, int]]
FEWEST_ROWS = 2


@dataclass(frozen=True)
class Shrunk:
    report: SimulationReport
    """Of the smallest failing run that was found."""
    faults: tuple[Injected, ...]
    settings: Settings
    tries: int


def shrink(build_job: BuildJob, report: SimulationReport, settings: Settings, limit_s: float = 60.0) -> Shrunk:
    """Delta debugging over the faults that happened, then the rows halved, for `limit_s` at most. `report` must be a failing one."""
    search = _Search(build_job, report, settings, time.perf_counter() + limit_s)
    search.fewer_faults()
    search.fewer_rows()
    search.fewer_faults()
    best = search.best
    return Shrunk(best, tuple(best.injected), search.settings, search.tries)


class _Search:
    def __init__(self, build_job: BuildJob, report: SimulationReport, settings: Settings, deadline: float) -> None:
        self.best = report
        self.settings = settings
        self.tries = 0
        self._build_job = build_job
        self._faults: Faults = report.faults
        self._deadline = deadline
        self._only = ids(report.injected)

    def fewer_faults(self) -> None:
        """ddmin: leave out halves, then quarters, and so on, as long as the run fails without them."""
        parts = 2
        while len(self._only) > 1 and parts <= 2 * len(self._only):
            kept = sorted(self._only)
            chunks = _cut(kept, parts)
            smaller = next((rest for chunk in chunks if self._fails(rest := frozenset(kept) - frozenset(chunk), self.settings)), None)
            if smaller is None:
                parts *= 2
            else:
                self._only = smaller & ids(self.best.injected)
                parts = max(2, parts - 1)
        if len(self._only) == 1:
            self._fails(frozenset(), self.settings)

    def fewer_rows(self) -> None:
        rows = self.settings.rows or 512
        while rows > FEWEST_ROWS:
            rows //= 2
            settings = replace(self.settings, rows=rows)
            if not self._fails(self._only, settings):
                return
            self.settings = settings

    def _fails(self, only: Ids, settings: Settings) -> bool:
        if time.perf_counter() > self._deadline:
            return False
        self.tries += 1
        report = simulate(self._build_job, self.best.seed, self._faults, settings=settings, only=only)
        if report.exactly_once:
            return False
        self.best = report
        self._only = only & ids(report.injected)
        return True


def _cut(items: Sequence[tuple[str, int]], parts: int) -> list[Sequence[tuple[str, int]]]:
    size = max(1, -(-len(items) // parts))
    return [items[start : start + size] for start in range(0, len(items), size)]


def only_text(faults: Sequence[Injected]) -> str:
    """The faults as the command line takes them."""
    return ",".join(f"{kind}:{number}" for kind, number in sorted(ids(faults))) or "none"


def parse_only(text: str) -> Ids:
    """The opposite of `only_text`."""
    if text == "none":
        return frozenset()
    pairs = (part.rpartition(":") for part in text.split(","))
    return frozenset((kind, int(number)) for kind, _, number in pairs)
