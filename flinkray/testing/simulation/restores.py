"""After a run: each checkpoint that storage still holds is restored, without failures, and must lead to the same answer."""

from __future__ import annotations

from flinkray.checkpoint.names import log_name
from flinkray.core.log_records import RecordKind, decode
from flinkray.testing.simulation.answers import what_is_wrong
from flinkray.testing.simulation.cluster import Cluster
from flinkray.testing.simulation.faults import Faults
from flinkray.testing.simulation.virtual import virtual_time

EVERY = 16
"""Of so many seeds one is checked."""

LIMIT_S = 60.0
"""Virtual time in which a restored job must finish."""


def check_restores(cluster: Cluster) -> int:
    """Adds to the violations of a cluster whose job has finished. Returns how many checkpoints were restored."""
    checkers = cluster.checkers
    standing = [checkers.complete[number].header.checkpoint for number in _chain(cluster) if number in checkers.complete]
    chosen = [checkpoint for checkpoint in standing if checkpoint not in checkers.abandoned]
    for checkpoint in chosen:
        why = _restore(cluster, checkpoint)
        if why:
            checkers.violated("retained checkpoints all restore to the same answer", f"checkpoint {checkpoint} of {chosen}: {why}")
            break
    return len(chosen)


def _restore(before: Cluster, checkpoint: int) -> str:
    """Why the job restored from `checkpoint` ends otherwise; empty when it does not."""
    cluster = Cluster(before.plan, before.world.seed, Faults.none())
    with virtual_time(cluster.world):
        cluster.inherit(before)
        _forget_the_end(cluster)
        cluster.restore_older(checkpoint)
        cluster.world.run(lambda: cluster.finished or bool(cluster.checkers.violations), LIMIT_S)
        for process in cluster.processes():
            process.end()
    if cluster.checkers.violations:
        return cluster.checkers.violations[0]
    if not cluster.finished:
        return f"not finished in {LIMIT_S:.0f} s"
    return what_is_wrong(cluster.output, before.plan.expected, before.plan.judge)


def _chain(cluster: Cluster) -> list[int]:
    """Numbers from the newest record down to the first gap: what is below it was freed, and won by somebody deposed."""
    numbers = cluster.log_numbers()
    return [number for rank, number in enumerate(reversed(numbers)) if number == numbers[-1] - rank]


def _forget_the_end(cluster: Cluster) -> None:
    """As the log was before the last record that said so."""
    for number in reversed(cluster.log_numbers()):
        header, _, _ = decode(cluster.disk.objects[log_name(number)])
        if header.kind is not RecordKind.ENDED:
            return
        del cluster.disk.objects[log_name(number)]
