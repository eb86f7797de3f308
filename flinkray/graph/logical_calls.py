"""Steps whose rows are answered beside the mailbox: stages on workers of their own, and calls of coroutines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from flinkray.graph.logical import FunctionNode


@dataclass(frozen=True)
class Stage:
    """Where the batches of a `map_batches` run. Latency and timeout in seconds; workers of all subtasks together."""

    workers: tuple[int, int]
    batch_size: int
    max_latency_s: float | None
    timeout_s: float | None
    cpus: float
    gpus: float

    def describe(self) -> str:
        least, most = self.workers
        count = str(least) if least == most else f"{least} to {most}"
        each = [f"{amount:g} {kind}" for amount, kind in ((self.gpus, "GPU"), (self.cpus, "CPU")) if amount]
        within = "" if self.max_latency_s is None else f", answered within {self.max_latency_s:g} s"
        return f"{count} workers{' of ' + ' and '.join(each) if each else ''}; batches of up to {self.batch_size} rows{within}"


@dataclass(frozen=True)
class AsyncCalls:
    """How coroutines are called. Times in seconds; `batch_size` None: row by row."""

    ordered: bool
    capacity: int
    batch_size: int | None
    max_latency_s: float | None
    timeout_s: float | None
    retries: int
    pause_s: float

    def describe(self) -> str:
        what = "rows" if self.batch_size is None else f"batches of up to {self.batch_size} rows"
        return f"{self.capacity} {what} at once{'' if self.ordered else ', in any order'}"


@dataclass(frozen=True, eq=False, kw_only=True)
class CallNode(FunctionNode):
    """A `map_batches` with a Stage, or an `async_map`. Rows in flight are part of the checkpoint."""

    stateful: ClassVar[bool] = True

    calls: Stage | AsyncCalls
