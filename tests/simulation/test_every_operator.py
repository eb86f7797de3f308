"""Whatever a stream offers is in a job of the simulator, in a golden job and in an example of docs/semantics.md: what is new is missed here."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import flinkray as fr
from flinkray.api import agg, windows
from flinkray.api.connected import ConnectedStreams
from flinkray.api.keyed_stream import KeyedStream, WindowedStream
from flinkray.api.stream import DataStream
from flinkray.testing.simulation.jobs import JOBS
from tests.golden.test_kills import GOLDEN
from tests.unit.test_semantics_doc import EXAMPLES

STREAMS = (DataStream, KeyedStream, WindowedStream, ConnectedStreams)
NO_OPERATORS = {"collect", "explain", "live", "print", "sink_to", "to_ray_data"}
"""Ends of a stream: what becomes of its rows there has tests of its own."""

HOW = ("inner", "left", "right", "full")
VARIANTS: dict[str, dict[str, tuple[Any, ...]]] = {
    "DataStream.async_map": {"ordered": (True, False)},
    "DataStream.broadcast_join": {"how": ("inner", "left")},
    "DataStream.filter": {"on_error": ("skip",)},
    "DataStream.flat_map": {"on_error": ("dead_letter",)},
    "DataStream.lookup_join": {"how": ("inner", "left")},
    "DataStream.map": {"on_error": ("skip", "dead_letter")},
    "DataStream.map_batches": {"concurrency": (None, any)},
    "KeyedStream.aggregate": {"emit": ("batch", "row", "final", any)},
    "KeyedStream.asof_join": {"how": ("inner", "left"), "tolerance": (None, any)},
    "KeyedStream.deduplicate": {"keep": ("first", "last"), "order_by": (None, any)},
    "KeyedStream.interval_join": {"how": HOW},
    "KeyedStream.join": {"how": (*HOW, "semi", "anti")},
    "KeyedStream.reduce": {"emit": ("batch", "final")},
    "KeyedStream.top_n": {"rank": (None, any)},
    "WindowedStream.evict": {"rows": (any,), "within": (any,)},
    "WindowedStream.join": {"how": HOW},
    "windows.Count": {"slide": (None, any)},
    "windows.Session": {"gap_column": (None, any), "time": ("event", "processing")},
    "windows.Sliding": {"time": ("event", "processing")},
    "windows.Trigger": {"rows": (any,), "every": (any,), "purge": (False, True)},
    "windows.Tumbling": {"time": ("event", "processing")},
}
"""Arguments with which an operator is another one. `any`: some value that is none of the others."""


def offered() -> set[str]:
    methods = {
        f"{owner.__name__}.{name}"
        for owner in STREAMS
        for name, value in vars(owner).items()
        if inspect.isfunction(value) and name[0] != "_"
    }
    functions = {f"agg.{name}" for name, value in vars(agg).items() if inspect.isfunction(value) and value.__module__ == agg.__name__}
    kinds = {f"windows.{name}" for name in windows.__all__}
    wanted = {name for name in methods | functions | kinds if name.partition(".")[2] not in NO_OPERATORS and "._" not in name}
    return wanted | {wrote(name, key, value) for name, keys in VARIANTS.items() for key, values in keys.items() for value in values}


def wrote(name: str, key: str, value: Any) -> str:
    return f"{name}({key}={'...' if value is any else repr(value)})"


@contextmanager
def noted(calls: set[str]) -> Iterator[None]:
    """What is called meanwhile, and with which of the arguments above."""

    def spy(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function)

        def called(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            calls.add(name)
            for key, values in VARIANTS.get(name, {}).items():
                value = given.arguments[key]
                calls.add(wrote(name, key, value if value in values else any))
            return function(*args, **kwargs)

        return called

    owners = [(f"{owner.__name__}.", owner, [name for name in vars(owner) if name[0] != "_"]) for owner in STREAMS]
    owners += [("agg.", agg, list(vars(agg))), ("windows.", windows, list(windows.__all__))]  # type: ignore[list-item]
    with pytest.MonkeyPatch.context() as patch:
        for prefix, owner, names in owners:
            for name in names:
                value = vars(owner)[name]
                if inspect.isfunction(value) or prefix == "windows.":
                    patch.setattr(owner, name, spy(prefix + name, value))
        yield


def environment() -> fr.StreamEnvironment:
    return fr.StreamEnvironment("planned", parallelism=2, runtime="local")


def test_is_in_a_job_of_the_simulator() -> None:
    calls: set[str] = set()
    with noted(calls):
        for job in JOBS.values():
            job(environment())
    missing = sorted(offered() - calls)
    assert not missing, "\n".join(missing)


def test_is_in_a_golden_job(tmp_path: Path) -> None:
    calls: set[str] = set()
    with noted(calls):
        for number, golden in enumerate(GOLDEN):
            (tmp_path / str(number)).mkdir()
            golden.build(environment(), tmp_path / str(number), None)
    missing = sorted(offered() - calls)
    assert not missing, "\n".join(missing)


def test_is_in_an_example_of_the_documentation() -> None:
    code = "\n".join(code for _, code in EXAMPLES)
    names = {name.partition("(")[0] for name in offered()} | {
        f"{owner.__name__}.{name}" for owner in STREAMS for name in ("collect", "sink_to") if hasattr(owner, name)
    }
    ways = {name: rf"\.{name.partition('.')[2]}\(" if name[0].isupper() else rf"\bfr\.{re.escape(name)}\(" for name in names}
    missing = sorted(name for name, way in ways.items() if not re.search(way, code))
    assert not missing, "\n".join(missing)
