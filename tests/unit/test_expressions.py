"""Expressions as a user writes them: operators, literals, nulls, errors at plan time and while rows are processed."""

from __future__ import annotations

import copy
import itertools
import math
import operator
import pickle
import random
import subprocess
import sys
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from flinkray.errors import ExpressionError, PlanError
from flinkray.expressions import Expression, as_expression, coalesce, col, lit, when
from flinkray.operators.base import OperatorMetrics

LEAST, MOST = -(2**63), 2**63 - 1


def evaluate(expression: Expression, **columns: pa.Array) -> list:
    batch = pa.record_batch(columns)
    result = expression.evaluate(batch)
    assert isinstance(result, pa.Array)
    assert result.type == expression.result_type(batch.schema)
    assert len(result) == batch.num_rows
    result.validate(full=True)
    return result.to_pylist()


def ints(*values: int | None) -> pa.Array:
    return pa.array(values, pa.int64())


def same(got: object, wanted: object) -> bool:
    both_nan = isinstance(got, float) and isinstance(wanted, float) and math.isnan(got) and math.isnan(wanted)
    return both_nan or (type(got) is type(wanted) and got == wanted)


# -- division -------------------------------------------------------------------------------------------------------------------


def extremes() -> list[int]:
    near = [0, 2**31, 2**32, 2**52, 2**53, 2**53 + 1, 10**18, MOST]
    values = {sign * (base + step) for base in near for step in (-2, -1, 0, 1, 2) for sign in (1, -1)} | {LEAST, LEAST + 1, 123, 1000}
    return sorted(value for value in values if LEAST <= value <= MOST)


@pytest.mark.parametrize("function", [operator.floordiv, operator.mod])
def test_integer_division_of_two_columns_is_exact_and_floors_as_in_python(function):
    pairs = [(a, b) for a, b in itertools.product(extremes(), repeat=2) if (a, b) != (LEAST, -1) or function is operator.mod]
    got = evaluate(function(col("a"), col("b")), a=ints(*(a for a, _ in pairs)), b=ints(*(b for _, b in pairs)))
    assert got == [None if b == 0 else function(a, b) for a, b in pairs]


@pytest.mark.parametrize("function", [operator.floordiv, operator.mod])
def test_integer_division_by_and_of_a_literal_is_exact_and_floors_as_in_python(function):
    values = [value for value in extremes() if value != LEAST]
    for literal in [*extremes(), 2, 3, 7, -3]:
        column = ints(*values)
        assert evaluate(function(col("a"), literal), a=column) == [None if literal == 0 else function(a, literal) for a in values]
        if literal != LEAST:
            assert evaluate(function(literal, col("a")), a=column) == [None if a == 0 else function(literal, a) for a in values]


def test_random_integers_divide_as_in_python_with_nulls_and_in_slices():
    rng = random.Random(7)
    a = [rng.choice([None, rng.randint(LEAST + 1, MOST), rng.randint(-9, 9)]) for _ in range(3000)]
    b = [rng.choice([None, rng.randint(LEAST, MOST), rng.randint(-9, 9)]) for _ in range(3000)]
    batch = pa.record_batch({"a": ints(*a), "b": ints(*b)}).slice(13, 2900)
    pairs = list(zip(a, b, strict=True))[13:2913]
    for function in (operator.floordiv, operator.mod, operator.truediv):
        got = function(col("a"), col("b")).evaluate(batch)
        got.validate(full=True)
        wanted = [None if x is None or not y else function(x, y) for x, y in pairs]
        if function is operator.truediv:
            close = [g is w if None in (g, w) else math.isclose(g, w) for g, w in zip(got.to_pylist(), wanted, strict=True)]
            assert all(close)
        else:
            assert got.to_pylist() == wanted
    assert (col("a") % 7).evaluate(batch).to_pylist() == [None if x is None else x % 7 for x, _ in pairs]


def test_division_of_uint64_above_the_int64_range_is_exact():
    top = pa.array([2**64 - 1, 2**63, 5, None], pa.uint64())
    assert evaluate(col("u") % 10, u=top) == [5, 8, 5, None]
    assert evaluate(col("u") // col("u"), u=top) == [1, 1, 1, None]


def test_narrow_integers_divide_like_wide_ones():
    for kind in (pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16(), pa.uint32()):
        column = pa.array([7, 0, None, 100], kind)
        assert evaluate(col("a") // -3, a=column) == [-3, 0, None, -34]
        assert (col("a") * 1000).result_type(pa.schema([("a", kind)])) == pa.int64()


def test_the_least_integer_divided_by_minus_one_is_an_error_and_its_remainder_is_zero():
    for divisor in (lit(-1), col("b")):
        with pytest.raises(ExpressionError, match="overflow"):
            evaluate(col("a") // divisor, a=ints(LEAST), b=ints(-1))
        assert evaluate(col("a") % divisor, a=ints(LEAST, 5), b=ints(-1, -1)) == [0, 0]
    # a null on either side hides whatever bits lie under it
    hidden = pa.Array.from_buffers(pa.int64(), 1, [pa.py_buffer(b"\x00"), pa.py_buffer(np.array([LEAST]))], 1)
    assert evaluate(col("a") // col("b"), a=hidden, b=ints(-1)) == [None]


def test_integer_division_by_zero_is_null_and_counted_once_per_row_that_has_both_sides():
    batch = pa.record_batch({"a": ints(1, 2, None, 4, 5), "b": ints(0, 1, 0, None, 0)})
    for expression, count in (
        (col("a") // col("b"), 2),
        (col("a") % col("b"), 2),
        (col("a") / col("b"), 2),
        (col("a") // 0, 4),
        (1 % col("b"), 3),
        (lit(1) // lit(0), 1),
    ):
        metrics = OperatorMetrics()
        result = expression.evaluate(batch, metrics)
        assert metrics.null_divisions == count, expression
        assert result[0].as_py() is None
        expression.evaluate(batch)


def test_true_division_is_float64_also_of_integers():
    assert evaluate(col("a") / 2, a=ints(1, None, -3)) == [0.5, None, -1.5]
    assert evaluate(7 / col("a"), a=ints(2, 0)) == [3.5, None]


def test_floats_divide_by_ieee_and_floor_as_in_python():
    f = pa.array([1.5, -7.25, float("inf"), None])
    assert evaluate(col("f") // 2, f=f)[:2] == [0.0, -4.0]
    assert evaluate(col("f") % 2, f=f)[:2] == [1.5, 0.75]
    assert evaluate(col("f") / 0, f=f) == [math.inf, -math.inf, math.inf, None]
    assert same(evaluate(col("f") % 0, f=f)[0], math.nan)


# -- arithmetic -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (col("a") + 1, 'col("a") + 1'),
        (-1 + (0 - col("b")), '0 - col("b")'),
        (col("a") * col("a"), 'col("a") * col("a")'),
        (-col("b"), '-col("b")'),
        (col("b").abs(), 'col("b").abs()'),
        (col("a") ** 2, 'col("a") ** 2'),
        (col("u") + 0, None),
        (col("u") - 2**63, 'col("u") - 9223372036854775808'),
    ],
)
def test_integer_overflow_is_an_error_with_the_expressions_text(expression, text):
    batch = pa.record_batch({"a": ints(MOST), "b": ints(LEAST), "u": pa.array([5], pa.uint64())})
    if text is None:
        assert expression.evaluate(batch).to_pylist() == [5]
        return
    with pytest.raises(ExpressionError, match="overflow") as caught:
        expression.evaluate(batch)
    assert caught.value.expression == text
    assert pickle.loads(pickle.dumps(caught.value)).expression == text


def test_overflow_under_a_null_is_no_error():
    assert evaluate(col("a") * col("b"), a=ints(None, 2), b=ints(MOST, 3)) == [None, 6]


def test_an_integer_with_a_float_computes_in_float64():
    assert evaluate(col("a") * 0.5, a=ints(3, None)) == [1.5, None]
    assert evaluate(col("a") + col("f"), a=ints(2**53 + 1), f=pa.array([0.5], pa.float32())) == [float(2**53) + 0.5]
    assert (col("f") * 2).result_type(pa.schema([("f", pa.float32())])) == pa.float64()


def test_decimals_stay_exact_and_too_many_digits_are_an_error():
    d = pa.array([Decimal("1.10"), None, Decimal("-2.25")])
    assert evaluate(col("d") + 1, d=d) == [Decimal("2.10"), None, Decimal("-1.25")]
    assert evaluate(col("d") * col("d"), d=d) == [Decimal("1.2100"), None, Decimal("5.0625")]
    assert evaluate(col("d") / 2, d=d) == [0.55, None, -1.125]
    wide = pa.array([Decimal(10) ** 35], pa.decimal128(38, 2))
    assert evaluate(col("d") + col("d"), d=wide) == [2 * Decimal(10) ** 35]
    with pytest.raises(ExpressionError, match="does not fit"):
        evaluate(col("d") * 1000, d=wide)
    with pytest.raises(PlanError, match="no // and %"):
        (col("d") // 2).result_type(pa.schema([("d", pa.decimal128(5, 2))]))


def test_strings_of_every_arrow_kind_are_joined_by_plus():
    for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        column = pa.array(["a", None, "é"], pa.string()).cast(kind)
        assert evaluate("<" + col("s") + col("s"), s=column) == ["<aa", None, "<éé"]
        assert (col("s") + "x").result_type(pa.schema([("s", kind)])) == pa.string()


def test_rounding_and_the_other_functions_of_numbers():
    f = pa.array([2.5, -2.5, 3.5, None])
    assert evaluate(col("f").round(), f=f) == [2.0, -2.0, 4.0, None]
    assert evaluate(col("f").floor(), f=f) == [2.0, -3.0, 3.0, None]
    assert evaluate(col("f").ceil(), f=f) == [3.0, -2.0, 4.0, None]
    assert evaluate(abs(col("f")), f=f) == [2.5, 2.5, 3.5, None]
    assert evaluate(col("a").sqrt(), a=ints(9, None)) == [3.0, None]
    assert evaluate(col("a").round(-1), a=ints(25, 35)) == [20, 40]
    assert evaluate(col("a").floor(), a=ints(MOST)) == [MOST]
    assert evaluate(col("a") ** 2, a=ints(-3, None)) == [9, None]
    assert evaluate(2 ** col("a"), a=ints(-1)) == [0.5]
    assert evaluate(col("a").sign(), a=ints(-3, 0, None)) == [-1, 0, None]


# -- comparisons and logic --------------------------------------------------------------------------------------------------------


COMPARISONS = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]


@pytest.mark.parametrize("function", COMPARISONS)
def test_integers_compare_exactly_with_literals_of_any_kind_and_size(function):
    values = [LEAST, -3, 0, 2, 3, 2**53 + 1, MOST]
    literals = [2, 2.5, -2.5, 2.0**53, 1e300, -math.inf, math.inf, math.nan, 2**63, LEAST - 1, float(MOST), Decimal("2.5"), True + 1]
    for literal in literals:
        wanted = [function(value, literal) for value in values]
        assert evaluate(function(col("a"), literal), a=ints(*values, None)) == [*wanted, None], literal
        assert evaluate(function(lit(literal) if isinstance(literal, bool) else literal, col("a")), a=ints(*values)) == [
            function(literal, value) for value in values
        ]
    small = pa.array([-128, 127, None], pa.int8())
    assert evaluate(function(col("a"), 1000), a=small) == [function(-128, 1000), function(127, 1000), None]


def test_signed_and_unsigned_columns_compare_exactly():
    u = pa.array([0, 2**64 - 1, 2**63 - 1], pa.uint64())
    assert evaluate(col("u") > col("a"), u=u, a=ints(-1, -1, MOST)) == [True, True, False]


def test_nan_compares_as_ieee_says_and_is_found_by_is_nan_and_is_in():
    f = pa.array([math.nan, 1.0, None])
    assert evaluate(col("f") == col("f"), f=f) == [False, True, None]
    assert evaluate(col("f") != math.nan, f=f) == [True, True, None]
    assert evaluate(col("f").is_nan(), f=f) == [True, False, None]
    assert evaluate(col("f").is_in([math.nan]), f=f) == [True, False, None]
    assert evaluate(col("f").is_null(), f=f) == [False, False, True]


def test_logic_with_nulls_is_that_of_sql():
    values = [True, False, None]
    pairs = list(itertools.product(values, repeat=2))
    p, q = pa.array([a for a, _ in pairs]), pa.array([b for _, b in pairs])
    both = [False if False in pair else None if None in pair else True for pair in pairs]
    either = [True if True in pair else None if None in pair else False for pair in pairs]
    assert evaluate(col("p") & col("q"), p=p, q=q) == both
    assert evaluate(col("p") | col("q"), p=p, q=q) == either
    assert evaluate(~col("p"), p=p) == [None if a is None else not a for a, _ in pairs]


def test_the_right_side_of_and_is_not_evaluated_where_the_left_is_false():
    batch = pa.record_batch({"a": ints(7, MOST, 9, 1), "b": ints(0, 2, 3, None)})
    metrics = OperatorMetrics()
    assert ((col("b") != 0) & (col("a") // col("b") > 2)).evaluate(batch, metrics).to_pylist() == [False, True, True, None]
    assert ((col("a") > 100) | (col("a") * 2 > 15)).evaluate(batch, metrics).to_pylist() == [False, True, True, False]
    assert metrics.null_divisions == 0


def test_python_words_that_would_go_wrong_silently_raise_and_say_what_to_write():
    condition = col("a") > 1
    for attempt in (
        lambda: bool(condition),
        lambda: condition and col("b") == 2,
        lambda: not condition,
        lambda: 1 < col("a") < 3,
        lambda: col("a") in [1, 2],
        lambda: 1 in col("a"),
    ):
        with pytest.raises(TypeError, match=r"& \| ~.*is_in"):
            attempt()
    with pytest.raises(TypeError):
        list(col("a"))


def test_a_condition_of_something_else_than_booleans_is_refused_with_the_missing_parentheses():
    with pytest.raises(PlanError, match="parentheses"):
        (col("a") > 1 & col("a")).result_type(pa.schema([("a", pa.int64())]))


def test_is_in_keeps_null_unless_it_is_listed():
    a = ints(1, 2, None)
    assert evaluate(col("a").is_in([1, 5]), a=a) == [True, False, None]
    assert evaluate(~col("a").is_in([1, 5]), a=a) == [False, True, None]
    assert evaluate(col("a").is_in([1, None]), a=a) == [True, False, True]
    assert evaluate(col("a").is_in([]), a=a) == [False, False, None]
    assert evaluate(col("a").is_in({1.0, 2.5, 2**70}), a=a) == [True, False, None]
    assert evaluate(col("s").is_in(("x",)), s=pa.array(["x", "y", "x", None]).dictionary_encode()) == [True, False, True, None]
    with pytest.raises(PlanError, match="'x' is string"):
        col("a").is_in(["x"]).result_type(pa.schema([("a", pa.int64())]))
    with pytest.raises(PlanError, match="list of values"):
        col("a").is_in("abc")


def test_between_includes_both_ends():
    assert evaluate(col("a").between(1, 3), a=ints(0, 1, 3, 4, None)) == [False, True, True, False, None]
    assert evaluate(col("a").between(col("b"), 3), a=ints(1, 2), b=ints(2, 2)) == [False, True]


# -- nulls, branches --------------------------------------------------------------------------------------------------------------


def test_nulls_are_filled_and_coalesced_into_a_type_that_holds_all():
    assert evaluate(col("a").fill_null(0), a=ints(1, None)) == [1, 0]
    assert evaluate(col("a").fill_null(0.5), a=ints(1, None)) == [1.0, 0.5]
    assert evaluate(coalesce(col("a"), col("f"), 7), a=ints(1, None, None), f=pa.array([None, 2.5, None])) == [1.0, 2.5, 7.0]
    assert (col("i").fill_null(1)).result_type(pa.schema([("i", pa.int8())])) == pa.int8()
    assert (col("i").fill_null(300)).result_type(pa.schema([("i", pa.int8())])) == pa.int64()
    with pytest.raises(PlanError, match="cast"):
        col("a").fill_null("x").result_type(pa.schema([("a", pa.int64())]))


def test_null_tests_also_see_nulls_inside_a_dictionary():
    inside = pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int32()), pa.array(["x", None]))
    assert evaluate(col("d").is_null(), d=inside) == [False, True, True]
    assert evaluate(col("d").is_not_null(), d=inside) == [True, False, False]
    assert evaluate(col("d") == "x", d=inside) == [True, None, None]


def test_when_takes_the_first_true_condition_and_counts_null_as_false():
    grade = when(col("a") > 10).then("high").when(col("a") > 5).then("mid").otherwise("low")
    assert evaluate(grade, a=ints(11, 6, 1, None)) == ["high", "mid", "low", "low"]
    assert evaluate(when(col("a") > 5).then(col("a")), a=ints(6, 1)) == [6, None]
    assert evaluate(when(col("a") > 5).then(1).otherwise(0.5), a=ints(6, 1)) == [1.0, 0.5]
    assert evaluate(when(True).then(1).otherwise(2), a=ints(6)) == [1]


def test_a_branch_is_evaluated_only_for_the_rows_that_take_it():
    batch = pa.record_batch({"a": ints(6, MOST, 8, None), "b": ints(0, 0, 2, 1)})
    metrics = OperatorMetrics()
    guarded = when(col("b") != 0).then(col("a") // col("b")).otherwise(-1)
    assert guarded.evaluate(batch, metrics).to_pylist() == [-1, -1, 4, None]
    doubled = when(col("a") < 100).then(col("a") * 2).when(col("a").is_null()).then(0).otherwise(col("a"))
    assert doubled.evaluate(batch, metrics).to_pylist() == [12, MOST, 16, 0]
    assert metrics.null_divisions == 0
    unguarded = when(col("b") != 1).then(col("a") // col("b"))
    assert unguarded.evaluate(batch, metrics).to_pylist() == [None, None, 4, None]
    assert metrics.null_divisions == 2


# -- the tree ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        'col("a") > 100',
        '(col("a") > 1) & (col("b") == "x") | ~col("c")',
        'col("a") - (col("b") - 1)',
        'col("a") - col("b") - 1',
        '(col("a") + 1) * 2 % 123 == 0',
        '-(col("a") + 1)',
        '(-col("a")) ** 2',
        '2 ** col("a")',
        'col("t") >= "2015-07-15T00:00:10+00:00"',
        'col("a").is_in([1, 2, None])',
        'when(col("a") > 1).then("x").when(col("b")).then("y").otherwise("z")',
        'coalesce(col("a"), col("b"), 0)',
        'col("s").str.contains("a.b", regex=True)',
        'col("a").cast("decimal(10,2)").alias("price")',
        '(col("a") / 2).cast("int64", safe=False)',
        'col("t").dt.truncate("10s")',
        "lit(5)",
        'lit("x") + "y"',
        'col("a") * float("nan")',
        "col(\"d\") * Decimal('1.50')",
    ],
)
def test_an_expression_prints_as_it_is_typed(text):
    names = {"col": col, "lit": lit, "when": when, "coalesce": coalesce, "Decimal": Decimal}
    expression = eval(text, names)
    assert repr(expression) == expression.describe() == text
    assert eval(repr(expression), names).same_as(expression)


def test_trees_are_compared_by_same_as_and_know_their_columns_and_names():
    assert (col("a") + 1).same_as(col("a") + 1)
    assert not (col("a") + 1).same_as(col("a") + 1.0)
    assert not (col("a") + 1).same_as(col("a") + True)
    assert not col("a").same_as(col("a").alias("a"))
    assert (col("a") + col("b") * col("a")).columns() == {"a", "b"}
    assert lit(1).columns() == frozenset()
    assert (col("a").name, (col("a") + 1).name, (col("a") + 1).alias("x").name) == ("a", None, "x")
    assert (col("a").alias("x").plain_column, (col("a") + 1).plain_column) == ("a", None)


def test_expressions_pickle_and_copy_also_after_they_were_evaluated():
    expression = when(col("a") % 2 == 0).then(col("a").cast("float")).otherwise(-1)
    batch = pa.record_batch({"a": ints(1, 2)})
    wanted = expression.evaluate(batch)
    for twin in (pickle.loads(pickle.dumps(expression)), copy.deepcopy(expression)):
        assert twin.same_as(expression)
        assert twin.evaluate(batch).equals(wanted)


def test_an_expression_is_bound_anew_to_each_schema():
    expression = col("a") + 1
    assert expression.evaluate(pa.record_batch({"a": ints(1)})).to_pylist() == [2]
    assert expression.evaluate(pa.record_batch({"b": ints(5), "a": pa.array([1.5])})).to_pylist() == [2.5]
    assert expression.evaluate(pa.record_batch({"a": ints(1)})).to_pylist() == [2]


def test_an_unknown_column_is_a_plan_error_with_the_expression_the_nearest_name_and_all_names():
    schema = pa.schema([("auction", pa.int64()), ("price", pa.int64()), ("_event_time", pa.int64())])
    with pytest.raises(PlanError) as caught:
        (col("prise") * 2 > 5).result_type(schema)
    assert str(caught.value) == "col(\"prise\") * 2 > 5: no column 'prise'; did you mean 'price'? The columns are: auction, price"
    with pytest.raises(PlanError, match="no column"):
        when(col("auction") > 0).then(col("x") // col("auction")).result_type(schema)


def test_operands_that_do_not_go_together_are_plan_errors_that_name_both():
    schema = pa.schema([("a", pa.int64()), ("s", pa.string()), ("c", pa.bool_()), ("t", pa.timestamp("us", "UTC")), ("d", pa.date32())])
    for expression, words in (
        (col("a") + "x", 'col("a") is int64 and lit("x") is string'),
        (col("s") > 5, 'col("s") is string and lit(5) is int64'),
        (col("c") + 1, 'col("c") is bool'),
        (col("t") > 5, "epoch_us"),
        (col("d") + col("t"), "cast"),
        (col("a") == None, "is_null"),  # noqa: E711
        (~col("a"), "parentheses"),
        (-col("s"), "no negative"),
        (col("a").str.len(), "takes a string"),
        (col("s").dt.year(), "takes a timestamp"),
        (col("s").abs(), "takes a number"),
        (col("a").cast("list[int]"), "cannot be cast"),
        (when(col("a")).then(1), "takes a condition"),
        (col("s").str.contains("[", regex=True), "regular expression"),
    ):
        with pytest.raises(PlanError) as caught:
            expression.result_type(schema)
        assert words in str(caught.value)
        assert str(caught.value).startswith(repr(expression))


def test_types_that_the_engine_does_not_have_are_plan_errors():
    for kind in (pa.decimal256(50, 2), pa.dense_union([pa.field("a", pa.int64())])):
        with pytest.raises(PlanError, match=r"'x'.*not supported"):
            col("x").result_type(pa.schema([("x", kind)]))


def test_what_is_no_literal_is_refused_at_once():
    for value in ([1], {}, object(), lambda: 1):
        with pytest.raises(PlanError, match="no literal"):
            lit(value)
        with pytest.raises(PlanError, match="no literal"):
            col("a") + value
    assert as_expression(np.int64(5)).same_as(lit(5))
    assert as_expression(pa.scalar("x")).same_as(lit("x"))


def test_literals_alone_are_spread_over_the_rows_and_empty_batches_give_empty_arrays():
    assert evaluate(lit("x"), a=ints(1, 2)) == ["x", "x"]
    assert evaluate(lit(1) + lit(2) // lit(2), a=ints(1, 2)) == [2, 2]
    empty = {"a": ints(), "f": pa.array([], pa.float64()), "s": pa.array([], pa.string()), "t": pa.array([], pa.timestamp("us"))}
    for expression in (
        lit(1),
        col("a") // col("a"),
        col("a") % 3 == 0,
        col("f") * col("a"),
        col("s").str.split_part("/", 1),
        col("t").dt.truncate("1h"),
        col("t").dt.strftime("%H:%M"),
        when(col("a") > 1).then(col("a") // col("a")).otherwise(0),
    ):
        assert evaluate(expression, **empty) == []


def test_importing_expressions_loads_neither_ray_nor_numba():
    program = "import sys, flinkray.expressions; assert not {'ray', 'numba'} & set(sys.modules), 'heavy import'"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
