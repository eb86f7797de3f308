"""List state: small tables that every subtask reads whole on a restore, and takes its share of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from flinkray.operators.base import OperatorContext, RestoredState, StateCapture, StateKind


@dataclass(frozen=True)
class ListCapture(StateCapture):
    """The whole of a list state, as a table that nobody changes any more."""

    name: str
    table: pa.Table
    kind: StateKind = "list"
    full: bool = True

    def encode(self) -> pa.Table | None:
        return self.table


def origin_tables(restored: Sequence[RestoredState], name: str) -> list[pa.Table]:
    """What each origin subtask wrote last under `name`; empty on a fresh start."""
    return [chain[-1] for state in restored if state.name == name for chain in state.chains if chain]


def share(rows: Sequence, context: OperatorContext) -> Sequence:
    """This subtask's part of rows that all subtasks hold in the same order: dealt out one by one."""
    return rows[context.subtask :: context.parallelism]
