"""Ray Data's expressions are accepted wherever an expression is, and mean what flinkray's mean."""

from __future__ import annotations

import warnings

import pyarrow as pa
import pytest

from flinkray.columns import TIMESTAMP
from flinkray.errors import PlanError
from flinkray.expressions import Expression, as_expression, coalesce, col, lit, when
from flinkray.expressions.from_ray import is_ray_expression

pytest.importorskip("pandas", reason="ray.data imports pandas, which flinkray does not need")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ray.data import expressions as ray
    from ray.data.datatype import DataType

r = ray.col


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (r("a"), col("a")),
        (ray.lit(5), lit(5)),
        (r("a") + 1, col("a") + 1),
        (1 - r("a"), 1 - col("a")),
        (r("a") * r("b"), col("a") * col("b")),
        (r("a") / 2, col("a") / 2),
        (r("a") // 2, col("a") // 2),
        (r("a") % 123 == 0, col("a") % 123 == 0),
        ((r("a") > 1) & (r("b") <= 2) | ~(r("a") != 3), (col("a") > 1) & (col("b") <= 2) | ~(col("a") != 3)),
        ((r("a") >= 1) & (r("b") < 2), (col("a") >= 1) & (col("b") < 2)),
        (r("a").is_null(), col("a").is_null()),
        (r("a").is_not_null(), col("a").is_not_null()),
        (r("a").is_in([1, 2]), col("a").is_in([1, 2])),
        (r("a").not_in([1, 2]), ~col("a").is_in([1, 2])),
        ((r("a") + 1).alias("x"), (col("a") + 1).alias("x")),
        (r("f").ceil(), col("f").ceil()),
        (r("f").floor(), col("f").floor()),
        (r("f").round(), col("f").round()),
        (r("f").trunc(), col("f").trunc()),
        (r("f").ln(), col("f").ln()),
        (r("f").exp(), col("f").exp()),
        (r("a").abs(), col("a").abs()),
        (r("a").negate(), -col("a")),
        (r("a").sign(), col("a").sign()),
        (r("a").power(2), col("a") ** 2),
        (r("a").cast(DataType.float64()), col("a").cast("float64")),
        (r("f").cast(DataType.int64(), safe=False), col("f").cast("int64", safe=False)),
        (r("s").str.len(), col("s").str.len()),
        (r("s").str.upper(), col("s").str.upper()),
        (r("s").str.strip(), col("s").str.strip()),
        (r("s").str.strip("x"), col("s").str.strip("x")),
        (r("s").str.starts_with("a"), col("s").str.starts_with("a")),
        (r("s").str.contains("b"), col("s").str.contains("b")),
        (r("s").str.match_regex("^a"), col("s").str.contains("^a", regex=True)),
        (r("s").str.replace("a", "b"), col("s").str.replace("a", "b")),
        (r("s").str.slice(0, 2), col("s").str.slice(0, 2)),
        (r("s").str.split("/"), col("s").str.split("/")),
        (r("s").str.pad(5, "*", "left"), col("s").str.lpad(5, "*")),
        (r("t").dt.year(), col("t").dt.year()),
        (r("t").dt.strftime("%Y"), col("t").dt.strftime("%Y")),
        (r("t").dt.floor("hour"), col("t").dt.truncate("1h")),
        (r("t").dt.floor("month"), col("t").dt.truncate("month")),
    ],
    ids=lambda value: repr(value) if isinstance(value, Expression) else "ray",
)
def test_each_node_is_translated_and_evaluates(theirs, ours):
    batch = pa.record_batch(
        {
            "a": pa.array([1, -7, None]),
            "b": pa.array([2, 2, 2]),
            "f": pa.array([1.5, 2.5, None]),
            "s": pa.array(["a/b", "xbx", None]),
            "t": pa.array([0, 10**15, None], TIMESTAMP),
        }
    )
    translated = as_expression(theirs)
    assert translated.same_as(ours), translated
    assert translated.evaluate(batch).equals(ours.evaluate(batch))


def test_a_translated_expression_computes_exactly_where_ray_does_not():
    batch = pa.record_batch({"a": pa.array([2**53 + 1, -7])})
    assert as_expression(r("a") // 2).evaluate(batch).to_pylist() == [2**52, -4]
    assert as_expression(r("a") % 2).evaluate(batch).to_pylist() == [1, 1]
    assert as_expression(r("a") / 2).evaluate(batch)[1].as_py() == -3.5


def test_ray_expressions_mix_with_flinkrays_wherever_a_value_goes():
    assert (col("a") + r("b")).same_as(col("a") + col("b"))
    assert (col("a") > r("b") * 2).same_as(col("a") > col("b") * 2)
    assert when(r("a") > 1).then(r("b")).otherwise(r("a")).same_as(when(col("a") > 1).then(col("b")).otherwise(col("a")))
    assert coalesce(r("a"), 0).same_as(coalesce(col("a"), 0))
    assert col("a").fill_null(r("b")).same_as(col("a").fill_null(col("b")))
    assert is_ray_expression(r("a"))
    assert not any(is_ray_expression(value) for value in (col("a"), 5, "a", ray))


@ray.udf(return_dtype=DataType.int64())
def doubled(values):
    return values


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        (lambda: doubled(r("a")), "UDFExpr"),
        (lambda: ray.monotonically_increasing_id(), "MonotonicallyIncreasingIdExpr"),
        (lambda: ray.random(), "RandomExpr"),
        (lambda: r("s").str.swapcase(), "utf8_swapcase"),
        (lambda: r("s").str.contains("a", ignore_case=True), "ignore_case"),
        (lambda: r("a").is_in(r("b")), "list of values"),
        (lambda: r("t").dt.ceil("hour"), "ceil_temporal"),
        (lambda: (r("a") + doubled(r("b"))).alias("x"), "UDFExpr"),
    ],
)
def test_a_node_without_a_translation_is_a_plan_error_that_names_it(theirs, words):
    with pytest.raises(PlanError, match="no translation") as caught:
        as_expression(theirs())
    assert words in str(caught.value)
