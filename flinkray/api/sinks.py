"""`fr.sinks`: where rows go. Each is loaded when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flinkray.connectors.csv import CsvSink as Csv
    from flinkray.connectors.json import JsonSink as Json
    from flinkray.connectors.memory import BlackholeSink as Blackhole
    from flinkray.connectors.memory import MemorySink as Memory
    from flinkray.connectors.memory import PrintSink as Print
    from flinkray.connectors.parquet import ParquetSink as Parquet

__all__ = ["Blackhole", "Csv", "Json", "Memory", "Parquet", "Print"]

_MODULES = {"Blackhole": "memory", "Print": "memory"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"fr.sinks has no {name!r}; there are: {', '.join(__all__)}")
    return getattr(import_module(f"flinkray.connectors.{_MODULES.get(name, name.lower())}"), f"{name}Sink")


def __dir__() -> list[str]:
    return __all__
