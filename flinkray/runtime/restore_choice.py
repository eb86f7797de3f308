"""What a run restores: the newest checkpoint, the one that was asked for, or, for a new leader, those of its own run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from flinkray.checkpoint.log_base import CheckpointLog
from flinkray.checkpoint.manifest import Manifest
from flinkray.core.job_events import JobStatus
from flinkray.core.journal_view import JournalView
from flinkray.core.log_records import RecordKind
from flinkray.core.storage_log import LogEntry, LogView
from flinkray.errors import DamagedObjectError, RestoreError
from flinkray.runtime.sinks import transactional_uids
from flinkray.runtime.task_manager import JobBundle


@dataclass(frozen=True)
class Readable:
    """A manifest, and the object that it is."""

    manifest: Manifest
    name: str


@dataclass(frozen=True)
class RestoreChoice:
    bundle: JobBundle
    log: CheckpointLog
    retained: int

    @property
    def _uri(self) -> str:
        return self.log.store.uri

    def choose(self, view: LogView) -> tuple[list[Readable], str]:
        """Manifests newest first, beginning with the one to restore, and a line about the choice. Raises RestoreError, DamagedObjectError."""
        wanted = self.bundle.config.restore
        if wanted == "none":
            return [], "starting afresh (--restore none)"
        if wanted.startswith("checkpoint:"):
            return self._choose_id(view, wanted.removeprefix("checkpoint:"))
        if wanted != "latest":
            raise RestoreError(f"--restore {wanted!r}: use latest, none, savepoint:NAME or checkpoint:ID")
        if view.ended == JobStatus.FINISHED.value:
            return [], "the run before has FINISHED: starting afresh"
        manifests = self.read(view.since_finished)
        if not manifests:
            return [], "nothing to restore: starting afresh"
        return manifests, f"restoring checkpoint {manifests[0].manifest.checkpoint} of {self._uri}"

    def _choose_id(self, view: LogView, text: str) -> tuple[list[Readable], str]:
        names = {entry.number: self.log.name_of(entry.number) for entry in view.manifests}
        found = [entry for entry in view.manifests if text in (str(_checkpoint(entry)), names[entry.number])]
        if not found:
            known = sorted(_checkpoint(entry) for entry in view.manifests)
            raise RestoreError(f"there is no checkpoint {text} of {self.bundle.application} in {self._uri}; there are: {known or 'none'}")
        if len(found) > 1:
            several = ", ".join(names[entry.number] for entry in found)
            raise RestoreError(
                f"checkpoint {text} of {self.bundle.application} was written {len(found)} times; give one as checkpoint:NAME: {several}"
            )
        chosen = found[0]
        at = _checkpoint(chosen)
        others = [entry for entry in view.manifests if entry is not chosen]
        self._refuse_repeated_output([self.log.manifest(entry) for entry in others if _checkpoint(entry) >= at], at)
        manifests = self.read([chosen, *(entry for entry in others if _checkpoint(entry) < at)])
        return manifests, f"restoring checkpoint {manifests[0].manifest.checkpoint} (asked for) of {self._uri}"

    def _refuse_repeated_output(self, newer: list[Manifest], chosen: int) -> None:
        """An older point into an output that has later rows repeats them (rule 20)."""
        visible = sorted({uid for manifest in newer for uid, prepared in manifest.transactions.items() if prepared})
        if visible and not self.bundle.config.allow_repeated_output:
            raise RestoreError(
                f"sinks {', '.join(visible)} have committed rows after checkpoint {chosen}; restoring it would write them again: "
                "give --allow-repeated-output to accept that"
            )

    def read(self, entries: Iterable[LogEntry]) -> list[Readable]:
        """Manifests among `entries`, newest first. A damaged newest one is passed over only where nothing after the one before can have been
        committed, or where repeated output is accepted (rule 20)."""
        manifests: list[Readable] = []
        damaged: DamagedObjectError | None = None
        for entry in entries:
            if len(manifests) == self.retained:
                break
            try:
                if entry.is_good(RecordKind.MANIFEST):
                    manifests.append(Readable(self.log.manifest(entry), self.log.name_of(entry.number)))
                elif _may_have_been_a_manifest(entry):
                    raise DamagedObjectError(self.log.name_of(entry.number), entry.damage)
            except DamagedObjectError as error:
                damaged = damaged if damaged or manifests else error
        if damaged is None:
            return manifests
        if not manifests:
            raise DamagedObjectError(
                damaged.object_name, f"{damaged.reason}; no older checkpoint is left: start afresh with --restore none"
            )
        if transactional_uids(self.bundle.graph) and not self.bundle.config.allow_repeated_output:
            raise DamagedObjectError(
                damaged.object_name,
                f"{damaged.reason}; restoring checkpoint {manifests[0].manifest.checkpoint} would write again what the sinks may have committed since: "
                "give --allow-repeated-output to accept repeated rows, or start afresh with --restore none",
            )
        return manifests


def own_entries(log: LogView, journal: JournalView, fenced: bool) -> Iterator[LogEntry]:
    """Records that a new leader of a run may restore from, newest first: what the run has written since its claim, and what it may go back to
    of earlier ones. Others are there because somebody chose not to restore them."""
    assert journal.claim is not None
    for entry in log.entries:
        header = entry.header
        if header is None:
            if not fenced or entry.number > journal.claim:
                yield entry
        elif header.checkpoint not in journal.passed_over and (header.claim == journal.claim or header.checkpoint in journal.chosen):
            yield entry


def _may_have_been_a_manifest(entry: LogEntry) -> bool:
    return bool(entry.damage) and not entry.deposed and (entry.header is None or entry.header.kind is RecordKind.MANIFEST)


def _checkpoint(entry: LogEntry) -> int:
    assert entry.header is not None
    return entry.header.checkpoint
