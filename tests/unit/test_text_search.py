"""What is found in text by our own kernels is what Python finds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flinkray import col
from flinkray.expressions import text_search

TEXTS = st.lists(st.none() | st.text(alphabet="a/b/é\x80\xaf/\x00", max_size=40), max_size=30)


def python_part(text: str, separator: str, index: int) -> str | None:
    parts = text.split(separator)
    return parts[index] if index < len(parts) else None


@settings(max_examples=300, deadline=None)
@given(texts=TEXTS, separator=st.sampled_from("/a\x00"), index=st.integers(0, 5), first=st.integers(0, 5))
def test_a_part_of_each_is_the_one_that_python_finds(texts: list[str | None], separator: str, index: int, first: int) -> None:
    found = text_search.part_of_each(pa.array(texts, pa.string()).slice(first), separator, index)
    found.validate(full=True)
    assert found.to_pylist() == [None if text is None else python_part(text, separator, index) for text in texts[first:]]


@settings(max_examples=300, deadline=None)
@given(texts=TEXTS, byte=st.sampled_from("/a\x00"), first=st.integers(0, 5))
def test_a_byte_is_counted_as_python_counts_it(texts: list[str | None], byte: str, first: int) -> None:
    found = text_search.count_byte(pa.array(texts, pa.string()).slice(first), byte)
    assert found.type == pa.int64()
    assert found.to_pylist() == [None if text is None else text.count(byte) for text in texts[first:]]


EXPRESSIONS: dict[str, tuple[Any, Callable[[str], Any]]] = {
    "part": (col("text").str.split_part("/", 1), lambda text: python_part(text, "/", 1)),
    "last part": (col("text").str.split_part("/", -1), lambda text: text.split("/")[-1]),
    "part between words": (col("text").str.split_part("ab", 1), lambda text: python_part(text, "ab", 1)),
    "part between letters of two bytes": (col("text").str.split_part("é", 1), lambda text: python_part(text, "é", 1)),
    "count": (col("text").str.count("a"), lambda text: text.count("a")),
    "count of a word": (col("text").str.count("ab"), lambda text: text.count("ab")),
    "count of a letter of two bytes": (col("text").str.count("é"), lambda text: text.count("é")),
}


@pytest.mark.parametrize("rows", [3, 5_000])
@pytest.mark.parametrize("name", EXPRESSIONS)
def test_few_and_many_rows_give_the_same(name: str, rows: int) -> None:
    expression, model = EXPRESSIONS[name]
    some = ["a/b/c", "", "no part", "éa/éab/", None, "ab" * 40 + "/x"]
    texts = [some[i % len(some)] for i in range(rows)]
    table = pa.record_batch({"text": pa.array(texts)})
    assert expression.evaluate(table).to_pylist() == [None if text is None else model(text) for text in texts]


def test_planning_a_query_loads_no_compiler() -> None:
    code = (
        "import sys, pyarrow as pa, flinkray as fr\n"
        "schema = pa.schema([('text', pa.string())])\n"
        "fr.col('text').str.split_part('/', 1).bind(schema), fr.col('text').str.count('a').bind(schema)\n"
        "assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
