"""All queries by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pyarrow as pa

import flinkray as fr
from flinkray.connectors.base import Sink
from flinkray.connectors.nexmark_events import LAYOUTS

from .streams import Nexmark

NAMES = tuple(f"q{number}" for number in range(23))
SUMS = ("sum", "sum-final")
"""Not of Nexmark: the simplest keyed state there is."""
CALENDAR = frozenset({"q14", "q15", "q16", "q17"})
"""They look at hours and days: a check wants rows of more than one."""


@dataclass(frozen=True)
class Query:
    """What a module `qN` says."""

    name: str
    meaning: str
    sql: str
    build: Callable[[Nexmark], fr.DataStream]
    key: tuple[str, ...]
    sink: Callable[[str], Sink] | None
    """Where its rows go, when that is a part of the query."""
    checked: Callable[[pa.Table], pa.Table]
    """What of an answer is the same in every run."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The streams that it looks at."""
        return tuple(stream for stream in LAYOUTS if re.search(rf"(FROM|JOIN) {stream}\b", self.sql))


def query(name: str) -> Query:
    module: Any = import_module(f".{name.replace('-', '_')}", __package__)
    meaning = module.__doc__.split(":", 1)[1].split(".")[0].strip()
    checked = getattr(module, "checked", lambda answer: answer)
    return Query(name, meaning, module.SQL, module.build, getattr(module, "KEY", ()), getattr(module, "sink", None), checked)
