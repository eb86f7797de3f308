"""What failed in user code: the operator as planned, what it was given, and the state of the keys concerned. Taken where it failed, run again
elsewhere."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np
import pyarrow as pa

from flinkray.errors import OperatorError
from flinkray.graph.job_graph import OperatorSpec
from flinkray.ids import KeyGroupRange
from flinkray.operators.base import Operator, OperatorContext, StateKind
from flinkray.operators.restore import KEY_GROUP, StateChain
from flinkray.runtime.chain import Chain, Offence
from flinkray.state.key_hash import hash_keys, key_groups

MOST_STATE_BYTES = 256 << 20
"""Larger state is left out."""

_SNAPSHOT = 1 << 62
"""Number of the snapshot that is taken of the failed operator; no checkpoint has it."""


@dataclass(frozen=True)
class Incident:
    application: str
    spec: OperatorSpec
    subtask: int
    parallelism: int
    max_parallelism: int
    key_groups: KeyGroupRange
    hash_seed: int
    batch_rows: int
    input_schemas: tuple[pa.Schema | None, ...]
    checkpoint: int
    """The newest complete one that the failed attempt knew of; 0: none."""
    at_s: float
    """Seconds since 1970."""
    error: str
    """With the user's traceback."""
    batch: pa.RecordBatch | None
    input_index: int
    watermark_us: int | None
    """What was given instead of rows, or had come before them."""
    states: tuple[tuple[str, StateKind, pa.Table], ...]
    """Of the keys of the rows (by key group), as before they came."""
    whole: bool
    """False: state was too large and is left out."""
    clock_s: float | None = None
    """What was given, where it was neither rows nor a watermark: the clock's time, seconds since 1970."""
    ended: bool = False
    """The end of all inputs."""

    def to_bytes(self) -> bytes:
        return cloudpickle.dumps(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Incident:
        incident = pickle.loads(data)
        if not isinstance(incident, Incident):
            raise TypeError(f"{type(incident).__name__} is no incident")
        return incident

    def chains(self) -> list[StateChain]:
        return [StateChain(name, kind, self.subtask, self.key_groups, (table,)) for name, kind, table in self.states]


def incident_of(application: str, chain: Chain, error: OperatorError, checkpoint: int, at_s: float) -> Incident:
    """Of a chain in which an operator has raised."""
    offence = chain.offence
    assert offence is not None
    spec, operator = chain.vertex.operators[offence.index], chain.operators()[offence.index][1]
    context = operator.context
    states = _states(operator, spec, offence, context)
    whole = sum(table.nbytes for _, _, table in states) <= MOST_STATE_BYTES
    return Incident(
        application=application,
        spec=spec,
        subtask=context.subtask,
        parallelism=context.parallelism,
        max_parallelism=context.max_parallelism,
        key_groups=context.key_groups,
        hash_seed=context.hash_seed,
        batch_rows=context.batch_rows,
        input_schemas=context.input_schemas,
        checkpoint=checkpoint,
        at_s=at_s,
        error=str(error),
        batch=offence.batch,
        input_index=offence.input_index,
        watermark_us=offence.watermark_us,
        states=tuple(states) if whole else (),
        whole=whole,
        clock_s=offence.clock_s,
        ended=offence.ended,
    )


def _states(operator: Operator, spec: OperatorSpec, offence: Offence, context: OperatorContext) -> list[tuple[str, StateKind, pa.Table]]:
    if spec.kind in ("stage", "async_map", "source"):
        return []  # its state is the rows in flight, of which only these have failed
    groups = _groups(spec.params, offence, context)
    states: list[tuple[str, StateKind, pa.Table]] = []
    for capture in operator.snapshot(_SNAPSHOT, None):
        parts = []
        for table in capture.encode_parts():
            if groups is not None and capture.kind == "keyed":
                table = table.filter(pa.array(np.isin(table.column(KEY_GROUP).to_numpy(), groups)))
            parts.append(table)
        if parts:
            states.append((capture.name, capture.kind, pa.concat_tables(parts)))
    return states


def _groups(params: Mapping[str, Any], offence: Offence, context: OperatorContext) -> np.ndarray | None:
    """Key groups of the rows; None where there are no rows, or no keys."""
    keys = params.get("right_keys") if offence.input_index else params.get("keys")
    if offence.batch is None or not keys:
        return None
    return np.unique(key_groups(hash_keys(offence.batch, keys, context.hash_seed), context.max_parallelism))
