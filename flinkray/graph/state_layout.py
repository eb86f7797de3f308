"""What an operator's keyed state means to a person: its keys, aggregates and window, kept in every manifest. Pure.

State is stored as words; with this a reader that has no job script makes a table of them again.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from flinkray.graph.aggregates import Aggregate
from flinkray.graph.job_graph import OperatorSpec
from flinkray.graph.windows import SessionWindow, SlidingWindow, TumblingWindow, Window

_KINDS = ("keyed_aggregate", "window_aggregate", "window_top_n")
_WINDOWS: dict[str, type[Window]] = {"tumbling": TumblingWindow, "sliding": SlidingWindow, "session": SessionWindow}


@dataclass(frozen=True)
class StateLayout:
    keys: tuple[str, ...]
    aggregates: tuple[Aggregate, ...]
    window: Window | None
    lateness_us: int
    schema: pa.Schema
    """Of the operator's results: types of keys and aggregates."""

    @classmethod
    def of(cls, spec: OperatorSpec) -> StateLayout | None:
        """None for operators without keyed state, and where only the first batch tells the types."""
        if spec.kind not in _KINDS or spec.output_schema is None:
            return None
        params = spec.params
        aggregates = tuple(params.get("aggregates", ()))
        return cls(tuple(params["keys"]), aggregates, params.get("window"), params.get("lateness_us", 0), spec.output_schema)

    def to_json(self) -> dict[str, Any]:
        """JSON-able; `from_json` gives the same again."""
        return {
            "keys": list(self.keys),
            "aggregates": [[a.output, a.function, a.column, a.by] for a in self.aggregates],
            "window": _window_to_json(self.window),
            "lateness_us": self.lateness_us,
            "schema": base64.b64encode(self.schema.remove_metadata().serialize()).decode(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> StateLayout:
        """Raises ValueError, TypeError or KeyError when it is none."""
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(values["schema"])))
        aggregates = tuple(Aggregate(*aggregate) for aggregate in values["aggregates"])
        return cls(tuple(values["keys"]), aggregates, _window_from_json(values["window"]), values["lateness_us"], schema)


def _window_to_json(window: Window | None) -> dict[str, Any] | None:
    if window is None:
        return None
    kind = next(name for name, known in _WINDOWS.items() if isinstance(window, known))
    return {"kind": kind, **{name: getattr(window, name) for name in window.__dataclass_fields__}}


def _window_from_json(values: Mapping[str, Any] | None) -> Window | None:
    if values is None:
        return None
    return _WINDOWS[values["kind"]](**{name: value for name, value in values.items() if name != "kind"})
