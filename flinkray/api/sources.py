"""`fr.sources`: where rows come from. Each is loaded when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flinkray.connectors.csv import CsvSource as Csv
    from flinkray.connectors.datagen import DatagenSource as Datagen
    from flinkray.connectors.json import JsonSource as Json
    from flinkray.connectors.memory import MemorySource as Memory
    from flinkray.connectors.nexmark import NexmarkSource as Nexmark
    from flinkray.connectors.parquet import ParquetSource as Parquet
    from flinkray.connectors.socket import SocketSource as Socket

__all__ = ["Csv", "Datagen", "Json", "Memory", "Nexmark", "Parquet", "Socket"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"fr.sources has no {name!r}; there are: {', '.join(__all__)}")
    return getattr(import_module(f"flinkray.connectors.{name.lower()}"), f"{name}Source")


def __dir__() -> list[str]:
    return __all__
