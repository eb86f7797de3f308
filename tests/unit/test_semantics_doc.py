"""The examples of docs/semantics.md, each run as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[2] / "docs" / "semantics.md").read_text()
EXAMPLES = [
    (section.splitlines()[0].strip(), code)
    for section in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
    for code in re.findall(r"^```python\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)
]


@pytest.mark.parametrize(("section", "code"), EXAMPLES, ids=[section for section, _ in EXAMPLES])
def test_an_example_runs_as_it_stands(section: str, code: str) -> None:
    assert "assert " in code, f"the example of {section!r} shows nothing"
    exec(compile(code, f"docs/semantics.md, {section}", "exec"), {"__name__": "semantics"})
