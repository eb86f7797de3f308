"""Notebooks: the quickstart runs cell by cell, tables and progress are drawn where there is something to draw on."""

from __future__ import annotations

import ast
import json
import sys
import types
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import flinkray as fr
from flinkray.api.notebook import progress_html, table_html
from flinkray.connectors.nexmark import nexmark_table
from tests.golden import oracle

FORMATTERS: dict[type, Any] = {}
"""What the notebook of these tests was told of how to draw."""

QUICKSTART = Path(__file__).parents[2] / "jobs" / "notebooks" / "quickstart.ipynb"


DEAR = "SELECT f.* FROM found f SEMI JOIN rows r USING (auction, bidder, price, date_time) WHERE price > 1000000"
WINDOWS = """SELECT auction, date_time // 100000 * 100000 AS window_start, window_start + 100000 AS window_end, count(*) AS bids, max(price) AS highest
    FROM rows GROUP BY ALL"""
TOO_MUCH = """FROM state s LEFT JOIN (SELECT bidder, count(*) AS n, sum(price) AS all_prices, max(price) AS most FROM rows GROUP BY bidder) USING (bidder)
    WHERE coalesce(bids > n OR bids < 1 OR total > all_prices OR total > bids * most, true)"""


def run_cells(notebook: Path) -> tuple[dict[str, Any], list[Any]]:
    """The names that are there at the end, and what each code cell shows: the value of its last expression."""
    names: dict[str, Any] = {"__name__": "notebook"}
    shown = []
    for number, cell in enumerate(json.loads(notebook.read_text())["cells"]):
        if cell["cell_type"] != "code":
            continue
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"cell {number}", "exec"), names)
        value = None if last is None else eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
        shown.append(value)
    return names, shown


def test_the_quickstart_runs_from_top_to_bottom() -> None:
    names, shown = run_cells(QUICKSTART)
    tables = [value for value in shown if isinstance(value, pa.Table)]
    assert [table.num_rows > 0 for table in tables] == [True, True, True]
    rows = {"rows": nexmark_table("bid", 20_000, 0)}
    assert tables[0].num_rows == 10
    assert oracle.select_from({"found": tables[0]} | rows, DEAR).num_rows == 10, "of the bids above a million"
    assert oracle.same(names["counts"], oracle.select(rows["rows"], WINDOWS)), "the live table is whole in the end"
    assert names["svg"].count("<rect") == names["per_window"].num_rows > 1
    assert names["savepoint"]["name"] == "first"
    assert names["state"].column_names == ["bidder", "bids", "total"]
    so_far = {"state": names["state"], "rows": nexmark_table("bid", 200_000, 0)}
    assert oracle.select_from(so_far, TOO_MUCH).num_rows == 0, "what the job holds is of rows that there are"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A notebook that keeps what is drawn in it."""
    texts: list[str] = []

    class Handle:
        def update(self, drawn: str) -> None:
            texts.append(drawn)

    def display(drawn: str, display_id: bool) -> Handle:
        texts.append(drawn)
        return Handle()

    FORMATTERS.clear()
    html = types.SimpleNamespace(for_type=FORMATTERS.__setitem__)
    found = types.SimpleNamespace(kernel=object(), display_formatter=types.SimpleNamespace(formatters={"text/html": html}))
    ipython, shown = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.get_ipython = lambda: found  # type: ignore[attr-defined]
    shown.HTML, shown.display = str, display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    return texts


def test_collect_shows_progress_and_tables_are_drawn(drawn: list[str]) -> None:
    env = fr.StreamEnvironment("drawn", runtime="local")
    table = env.from_batches(pa.table({"n": range(30)})).collect()
    assert "<progress value='1'></progress>" in drawn[-1]
    assert "FINISHED | in 30" in drawn[-1]
    assert FORMATTERS[pa.Table](table).endswith("30 rows, the first 20 are shown</small>")


def test_a_live_table_is_drawn_as_rows_come(drawn: list[str]) -> None:
    env = fr.StreamEnvironment("live", runtime="local")
    rows = env.from_source(fr.sources.Nexmark("bid", rows=1_000, rate=1_000)).select("auction")
    assert rows.live(refresh="50ms", rows=3).num_rows == 1_000
    assert all("rows" in text for text in drawn)
    assert drawn


def test_a_live_table_ends_when_it_is_time() -> None:
    env = fr.StreamEnvironment("live", runtime="local")
    rows = env.from_source(fr.sources.Nexmark("bid", rows=10_000_000, rate=1_000)).select("auction")
    assert rows.live(0.2, refresh="50ms").num_rows < 10_000_000


def test_what_is_drawn_is_escaped() -> None:
    text = table_html(pa.table({"<b>": ["<script>", None]}))
    assert "<script>" not in text
    assert "&lt;b&gt;<br><small>string</small>" in text
    assert "<td></td>" in text
    assert "&lt;" in progress_html("<", ended=False)
