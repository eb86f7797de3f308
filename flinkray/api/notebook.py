"""In a notebook: tables as HTML, and something that is drawn again in its place. Elsewhere nothing happens."""

from __future__ import annotations

import html
import sys
from typing import Any

import pyarrow as pa

SHOWN_ROWS = 20


def shell() -> Any | None:
    """The notebook's shell; None where this is no notebook. Never loads IPython: a notebook has it."""
    ipython = sys.modules.get("IPython")
    found = ipython.get_ipython() if ipython is not None else None
    return found if getattr(found, "kernel", None) is not None else None


def show_tables() -> None:
    """Arrow tables at the end of a cell are drawn as tables from now on."""
    found = shell()
    if found is not None:
        found.display_formatter.formatters["text/html"].for_type(pa.Table, table_html)


def table_html(table: pa.Table, rows: int = SHOWN_ROWS) -> str:
    """The first rows, and how many there are."""
    head = "".join(f"<th>{html.escape(field.name)}<br><small>{html.escape(str(field.type))}</small></th>" for field in table.schema)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape('' if value is None else str(value))}</td>" for value in row.values()) + "</tr>"
        for row in table.slice(0, rows).to_pylist()
    )
    more = f", the first {rows} are shown" if table.num_rows > rows else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><small>{table.num_rows:,} rows{more}</small>"


def progress_html(text: str, ended: bool) -> str:
    """A bar that moves until the end, since nobody knows how much there is to come, and figures."""
    bar = "<progress value='1'></progress>" if ended else "<progress></progress>"
    return f"<div>{bar} <code>{html.escape(text)}</code></div>"


class Drawing:
    """HTML at one place of the cell's output, drawn again with each call of `draw`."""

    def __init__(self) -> None:
        self._handle: Any = None

    def draw(self, text: str) -> None:
        from IPython.display import HTML, display  # type: ignore[import-not-found, unused-ignore]

        if self._handle is None:
            self._handle = display(HTML(text), display_id=True)
        else:
            self._handle.update(HTML(text))
