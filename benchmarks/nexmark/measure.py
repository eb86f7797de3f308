"""How long a query takes in flinkray, on the Ray runtime, into a Blackhole sink (q10: into its folders).

Seconds are from the first read of any task (noted by the source itself, on the clock of this machine) to the job's end, with its last
checkpoint and commits; starting Ray, the actors and deployment are not in it. Neither a spare TaskManager nor a standby JobManager is
asked for: a query of a third of a second would share its cores with processes that are just starting.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flinkray as fr
from flinkray.connectors.base import Sink, Split, SplitReader
from flinkray.connectors.wrapped import WrappedSource

from .data import Files
from .queries import Query
from .streams import Nexmark


@dataclass(frozen=True)
class Stamped(WrappedSource):
    """A source that notes in a folder when each of its splits is opened."""

    folder: str

    def open_split(self, split: Split, offset: Any | None) -> SplitReader:
        (Path(self.folder) / str(time.time_ns())).touch()
        return self.inner.open_split(split, offset)


def seconds(query: Query, files: Files, parallelism: int, interval: str | None, runtime: Any = "ray") -> float:
    """`interval`: of checkpoints; None: there is only the last one."""
    with tempfile.TemporaryDirectory(prefix="flinkray-bench-") as storage:
        opened = Path(storage) / "opened"
        opened.mkdir()
        env = fr.StreamEnvironment(
            name=f"bench-{query.name}",
            parallelism=parallelism,
            runtime=runtime,
            checkpointing=fr.Checkpointing(interval=interval, storage=f"file://{storage}/checkpoints"),
            resources=fr.Resources(spare_task_managers=0),
            high_availability=fr.HighAvailability(standbys=0),
        )
        sink: Sink = query.sink(f"{storage}/out") if query.sink is not None else fr.sinks.Blackhole()
        query.build(Nexmark(env, files, wrap=lambda source: Stamped(source, str(opened)))).sink_to(sink, uid="out")
        result = env.execute()
        assert result.finished_at is not None
        if result.restarts:
            print(f"{query.name}: restarted {result.restarts} times", file=sys.stderr)
        return result.finished_at.timestamp() - min(int(path.name) for path in opened.iterdir()) / 1e9
