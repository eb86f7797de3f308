"""Read a whole checkpoint back and say what is wrong with it (`flinkray checkpoint verify`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flinkray.checkpoint.base import ChunkRef, ObjectStore
from flinkray.checkpoint.chunk_writer import check_chunk
from flinkray.checkpoint.keys import DataKey
from flinkray.checkpoint.manifest import Manifest
from flinkray.errors import DamagedObjectError, KeyUnavailableError


@dataclass(frozen=True)
class Problem:
    object_name: str
    reason: str


def verify(store: ObjectStore, manifest: Manifest, data_keys: Mapping[str, DataKey]) -> list[Problem]:
    """Every chunk that does not read back as it was written; empty when the checkpoint can be restored.

    Raises StorageError when storage is away.
    """
    problems = []
    for state in manifest.states:
        if state.chunks and not state.chunks[0].full:
            problems.append(Problem(state.chunks[0].object_name, f"the chain of {state.uid}/{state.name} does not begin with a full chunk"))
        problems += [problem for chunk in state.chunks if (problem := _problem(store, chunk, data_keys)) is not None]
    return problems


def _problem(store: ObjectStore, chunk: ChunkRef, data_keys: Mapping[str, DataKey]) -> Problem | None:
    try:
        check_chunk(store, chunk, data_keys)
    except DamagedObjectError as error:
        return Problem(chunk.object_name, error.reason)
    except KeyUnavailableError as error:
        return Problem(chunk.object_name, str(error))
    return None
