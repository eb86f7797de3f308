"""Two streams connected: one function with state for both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from flinkray.graph.logical import ProcessNode
from flinkray.graph.row_process import RowProcessNode


@dataclass(frozen=True, eq=False, kw_only=True)
class CoProcessNode(ProcessNode):
    """`right_keys` None: every subtask gets every row of the right stream. Rows have event time where both streams have it."""

    kind: ClassVar[str] = "connect"

    right_keys: tuple[str, ...] | None


@dataclass(frozen=True, eq=False, kw_only=True)
class RowCoProcessNode(RowProcessNode):
    """The same without keys."""

    kind: ClassVar[str] = "row_connect"

    broadcast: bool
    """Every subtask gets every row of the right stream."""
