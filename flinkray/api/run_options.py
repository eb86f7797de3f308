"""Options of `flinkray run`, which override the code. They come to the job script in an environment variable, as JSON."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields, replace
from typing import Any

from flinkray.config import JobConfig
from flinkray.errors import ConfigError
from flinkray.graph.job_graph import JobGraph

VARIABLE = "FLINKRAY_RUN_OPTIONS"


class Planned(BaseException):
    """The job's graph, for `flinkray plan`; no `except Exception` of a script takes it."""

    def __init__(self, graph: JobGraph, config: JobConfig) -> None:
        super().__init__("the job was planned, and not started")
        self.graph, self.config = graph, config


@dataclass(frozen=True)
class RunOptions:
    """None: not given, the code's own value holds."""

    name: str | None = None
    parallelism: int | None = None
    runtime: str | None = None
    storage: str | None = None
    checkpoint_interval: str | float | None = None
    restore: str | None = None
    allow_non_restored_state: bool | None = None
    allow_repeated_output: bool | None = None
    detach: bool | None = None
    plan: bool | None = None
    """Start no job: raise `Planned` with the first one's graph."""

    @classmethod
    def from_environment(cls) -> RunOptions:
        text = os.environ.get(VARIABLE)
        if not text:
            return cls()
        try:
            given = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"{VARIABLE} is no JSON: {error}") from error
        known = {field.name for field in fields(cls)}
        if not isinstance(given, dict) or not given.keys() <= known:
            raise ConfigError(f"{VARIABLE} is {text}; it is an object of {', '.join(sorted(known))}")
        return cls(**given)

    def to_json(self) -> str:
        """For the variable: only what was given."""
        return json.dumps(_only_given({field.name: getattr(self, field.name) for field in fields(self)}))

    def apply(self, config: JobConfig) -> JobConfig:
        """The configuration with what was given on the command line."""
        changes: dict[str, Any] = {
            "name": self.name,
            "parallelism": self.parallelism,
            "runtime": self.runtime,
            "restore": self.restore,
            "allow_non_restored_state": self.allow_non_restored_state,
            "allow_repeated_output": self.allow_repeated_output,
            "detached": self.detach,
        }
        if config.checkpointing is not None:
            given: dict[str, Any] = {"storage": self.storage, "interval": self.checkpoint_interval}
            changes["checkpointing"] = replace(config.checkpointing, **_only_given(given))
        return replace(config, **_only_given(changes))


def _only_given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
