"""TaskManagers of the run that its journal does not know: a leader died between a record and what follows it, or was frozen and made one
long after another had taken over. They are looked for by name, and ended (docs/protocol.md, rule 11). Pure."""

from __future__ import annotations

from collections.abc import Sequence

from flinkray.core.job_events import FindWorkers, JobCommand, KillWorker, Say, WorkersFound, WriteJournal
from flinkray.core.job_state import JobState
from flinkray.core.journal_records import WorkerGone


def look_for_strangers(job: JobState, now: float, out: list[JobCommand]) -> None:
    """At once after a change of leaders, and then now and then: what a frozen leader had begun to make may come late. The first leader of a run
    has nobody before it."""
    if job.epoch.election > 1 and now >= job.search_at:
        job.search_at = now + job.settings.search_s
        out.append(FindWorkers())


def on_workers_found(job: JobState, event: WorkersFound, out: list[JobCommand]) -> None:
    """Whoever is to be made is known before; so one that is not known was given up, or is wanted by a leader that was deposed. The journal comes
    first: a leader that is deposed itself, and does not know its successor's, ends none."""
    for instance in strangers(job, event.instances):
        out.append(Say(f"TaskManager {instance} is not in the journal: it is ended"))
        out += [WriteJournal(WorkerGone(instance)), KillWorker(instance)]


def strangers(job: JobState, instances: Sequence[str]) -> list[str]:
    return sorted(instance for instance in instances if instance not in job.workers)
