"""Reads every import of the package and holds the directions that docs/architecture.md draws."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "flinkray"

BASE = {"errors", "ids", "config", "columns", "regions"}
ALLOWED = {
    "expressions": BASE | {"state.bits", "state.jit"},
    "graph": BASE | {"expressions", "connectors.base"},
    "core": BASE | {"graph"},
    "state": BASE | {"graph"},
    "checkpoint": BASE | {"graph", "core"},
    "exchange": BASE | {"graph"},
    "connectors": BASE | {"expressions", "graph", "state.bits", "state.jit"},
    "operators": BASE | {"expressions", "graph", "state", "connectors"},
    "api": BASE
    | {
        "expressions",
        "graph",
        "connectors",
        "runtime.submit",
        "runtime.progress",
        "runtime.inspection",
        "runtime.state_writing",
        "runtime.ray",
        "checkpoint.state_reader",
    },
}
"""For each package, what it may import besides itself. `api` reaches the runtime inside functions only."""

IMPURE = {
    "ray",
    "asyncio",
    "threading",
    "time",
    "random",
    "socket",
    "multiprocessing",
    "os",
    "subprocess",
    "pathlib",
    "concurrent",
    "secrets",
}
RAY_HOMES = ("runtime/ray/", "cli.py", "commands.py")


def imports(path: Path, top_level_only: bool = False) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(package: str) -> list[Path]:
    return sorted((PACKAGE / package).rglob("*.py"))


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_point_one_way(package: str) -> None:
    wrong = []
    for path in files(package):
        for name in imports(path):
            if not name.startswith("flinkray."):
                continue
            target = name.removeprefix("flinkray.")
            allowed = ALLOWED[package] | {package}
            if not any(target == home or target.startswith(home + ".") for home in allowed):
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert wrong == []


def table() -> dict[str, str]:
    """Package or module to what it may import, as docs/architecture.md has it."""
    rows = [line.split(" | ") for line in (PACKAGE.parent / "docs/architecture.md").read_text().splitlines() if line.startswith("| `")]
    return {name.rstrip("/"): row[-1].rstrip(" |") for row in rows for name in row[0].split("`")[1].split()}


def test_every_package_and_module_is_in_the_table_of_the_document() -> None:
    there = {path.stem for path in PACKAGE.iterdir() if (path / "__init__.py").exists() or path.suffix == ".py"}
    assert set(table()) == there - {"__init__"}


@pytest.mark.parametrize("package", sorted(ALLOWED.keys() - {"api"}))
def test_the_document_says_what_is_allowed(package: str) -> None:
    said = {name.strip("` ") for name in table()[package].split(",")}
    assert (said - {"base"} | BASE if "base" in said else said) == ALLOWED[package]


def test_the_cores_import_nothing_that_touches_the_world() -> None:
    wrong = [f"{path.name} imports {name}" for path in files("core") for name in imports(path) if name.split(".")[0] in IMPURE]
    assert wrong == []


def test_ray_is_imported_in_its_shell_and_the_command_line_only() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for name in imports(path)
        if name.split(".")[0] == "ray" and not str(path.relative_to(PACKAGE)).startswith(RAY_HOMES)
    ]
    assert wrong == []


def test_the_api_reaches_the_runtime_inside_functions_only() -> None:
    wrong = [
        f"{path.name}: {name}"
        for path in files("api")
        for name in imports(path, top_level_only=True)
        if name.startswith("flinkray.runtime")
    ]
    assert wrong == []


def test_importing_flinkray_loads_neither_ray_nor_numba() -> None:
    code = (
        "import sys, flinkray as fr; fr.StreamEnvironment, fr.col, fr.windows, fr.agg, fr.sources.Parquet, fr.sinks.Parquet;"
        "print([m for m in ('ray', 'numba', 'zmq', 's3fs') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.strip() == "[]"
