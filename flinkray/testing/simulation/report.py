"""What one simulated run came to, in a form to be read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from flinkray.testing.simulation.faults import Faults, Injected
from flinkray.testing.simulation.output import Rows
from flinkray.testing.simulation.world import Line

TAIL_LINES = 30


@dataclass
class SimulationReport:
    seed: int
    faults: Faults
    finished: bool
    violations: list[str]
    """Rules that were broken, the first one first; empty when all is well."""
    rows: Rows = field(repr=False)
    """Committed rows as text, by the sink's uid; none where a judge had them."""
    expected: Rows = field(repr=False)
    """Those of the run without failures."""
    judged: bool
    """The caller's judge had the committed rows: they are not compared with `expected`."""
    checkpoints: int
    """Complete manifests."""
    recoveries: int
    """Attempts after the first, restarted and taken-over runs included."""
    runs: int
    failures: list[str]
    """Why runs ended that did not finish; somebody started the job again."""
    injected: list[Injected] = field(repr=False)
    coverage: Counter[str] = field(repr=False)
    events: int
    virtual_s: float
    hash: str
    """Equal for equal histories."""
    timeline: list[Line] = field(repr=False)

    @property
    def exactly_once(self) -> bool:
        """The job finished, no rule was broken, and its committed rows are those of the run without a failure, or right to the judge."""
        return self.finished and not self.violations and (self.judged or self.rows == self.expected)

    @property
    def counts(self) -> bool:
        """Something happened: three complete checkpoints, a recovery, an injected fault."""
        return self.checkpoints >= 3 and self.recoveries >= 1 and bool(self.injected)

    def describe(self) -> str:
        """One line."""
        state = "passed" if self.exactly_once else f"FAILED: {self.violations[0].splitlines()[0] if self.violations else 'not finished'}"
        return (
            f"seed {self.seed} {state} ({self.checkpoints} checkpoints, {self.recoveries} recoveries, {len(self.injected)} faults, "
            f"{self.runs} runs, {self.virtual_s:.1f} virtual s, {self.events} events, hash {self.hash})"
        )

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines of the timeline: virtual seconds, who, what."""
        return "\n".join(str(line) for line in self.timeline[-lines:])

    def story(self) -> str:
        """Everything about a failure: rules broken, faults, the end of the timeline."""
        faults = "\n".join(map(str, self.injected)) or "(none)"
        broken = "\n".join(self.violations) or "(none)"
        return f"{self.describe()}\n\nbroken rules:\n{broken}\n\nfaults:\n{faults}\n\nlast events:\n{self.tail()}"
