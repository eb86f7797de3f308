"""Enumerators of splits: all at once, or of files, once or again and again while new ones are watched for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flinkray.connectors.base import Split, SplitEnumerator
from flinkray.errors import PlanError, SourceError

if TYPE_CHECKING:
    from flinkray.connectors.files import FileSource, InputFile

SPLITS_PER_READER = 4
"""At least so many splits for each reader, where there is enough to split: the last ones to finish keep nobody waiting for long."""


def in_read_order(splits: Sequence[Split]) -> list[Split]:
    """Smallest event time first; before these, splits without statistics, since they hold the watermark back for as long as they wait.
    Otherwise as given: by name and position."""
    return sorted(splits, key=lambda split: (split.min_event_time_us is not None, split.min_event_time_us or 0))


class OnceEnumerator(SplitEnumerator):
    """Splits that are all known from the start; given once. Restored, it has none left."""

    def __init__(self, splits: list[Split]) -> None:
        self._splits = splits

    def discover(self) -> list[Split]:
        splits, self._splits = self._splits, []
        return in_read_order(splits)

    @property
    def finished(self) -> bool:
        return not self._splits

    def state(self) -> Any:
        """Truthy once given; a snapshot before that starts from nothing."""
        return {} if self._splits else {"given": True}


class FileEnumerator(SplitEnumerator):
    """Finds files and splits them: once, or again and again where new files are watched for.

    A watched name counts once for ever, so its files must appear complete (rename them into place) and names must not be used again.
    """

    def __init__(self, source: FileSource, state: Any | None, event_time_column: str | None, parallelism: int) -> None:
        self._source = source
        self._event_time_column = event_time_column
        self._parallelism = parallelism
        self._done: bool = bool(state and state["done"])
        self._seen: dict[str, list[Any]] = dict(state["seen"]) if state else {}

    def discover(self) -> list[Split]:
        if self.finished:
            return []
        files = [file for file in self._source.list_files() if self._is_new(file)]
        try:
            splits = self._source.split_files(files, self._event_time_column, self._parallelism)
        except PlanError as error:
            raise SourceError(str(error)) from error
        if self._source.bounded:
            self._done = True
        else:
            self._seen.update({file.path: [file.size, file.version] for file in files})
        return in_read_order(splits)

    def _is_new(self, file: InputFile) -> bool:
        """A watched file of no bytes is not there yet: somebody is about to write it."""
        if self._source.bounded:
            return True
        before = self._seen.get(file.path)
        if before is not None and before != [file.size, file.version]:
            raise SourceError(
                f"{file.path}: has changed since it was read ({before[0]} bytes then, {file.size} now); new rows belong into new files"
            )
        return before is None and file.size > 0

    @property
    def finished(self) -> bool:
        return self._done

    @property
    def poll_interval_s(self) -> float:
        return self._source.watch_s or 1.0

    def state(self) -> Any:
        return {"done": self._done, "seen": dict(self._seen)}
