"""`fr.tables`: tables that lookup joins ask for the rows of keys. Each is loaded when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flinkray.connectors.postgres import PostgresTable as Postgres

__all__ = ["Postgres"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"fr.tables has no {name!r}; there are: {', '.join(__all__)}")
    from flinkray.connectors.postgres import PostgresTable

    return PostgresTable


def __dir__() -> list[str]:
    return __all__
