"""Types by name, schemas from declarations, casts, times and strings in expressions."""

from __future__ import annotations

import dataclasses
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, NotRequired, TypedDict

import numpy as np
import pyarrow as pa
import pytest

from flinkray.columns import TIMESTAMP
from flinkray.errors import ExpressionError, PlanError
from flinkray.expressions import col, engine_type, lit, parse_type, schema_from, to_datetime, type_name

DAY_US = 86_400_000_000
STAMPS = [pa.timestamp(unit, tz) for unit in ("s", "ms", "us", "ns") for tz in (None, "UTC", "Europe/Berlin")]


def evaluate(expression, column: pa.Array) -> list:
    batch = pa.record_batch({"x": column})
    result = expression.evaluate(batch)
    assert result.type == expression.result_type(batch.schema)
    result.validate(full=True)
    return result.to_pylist()


# -- types ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("int64", pa.int64()),
        ("int", pa.int64()),
        ("float", pa.float64()),
        ("double", pa.float64()),
        ("float32", pa.float32()),
        ("str", pa.string()),
        ("string", pa.string()),
        ("bool", pa.bool_()),
        ("timestamp", TIMESTAMP),
        ("timestamp[us, UTC]", TIMESTAMP),
        ("timestamp[us, tz=UTC]", TIMESTAMP),
        ("timestamp[ms]", pa.timestamp("ms")),
        ("date", pa.date32()),
        ("decimal(10,2)", pa.decimal128(10, 2)),
        ("decimal128(10, 2)", pa.decimal128(10, 2)),
        ("list[int]", pa.list_(pa.int64())),
        ("list[list[decimal(5,1)]]", pa.list_(pa.list_(pa.decimal128(5, 1)))),
        ("list<item: string>", pa.list_(pa.string())),
        ("map[string, list[int]]", pa.map_(pa.string(), pa.list_(pa.int64()))),
        (int, pa.int64()),
        (float, pa.float64()),
        (str, pa.string()),
        (bool, pa.bool_()),
        (bytes, pa.binary()),
        (datetime, TIMESTAMP),
        (Decimal, pa.decimal128(38, 18)),
        (list[str], pa.list_(pa.string())),
        (dict[str, int], pa.map_(pa.string(), pa.int64())),
        (int | None, pa.int64()),
        (pa.int8(), pa.int8()),
    ],
)
def test_types_are_known_by_name_and_as_python_types(name, kind):
    assert parse_type(name) == kind
    assert parse_type(type_name(kind)) == kind


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("intt", "did you mean 'int'"),
        ("timestmp", "did you mean 'timestamp'"),
        ("", "no type name"),
        ("decimal(50,2)", "at most 38"),
        ("decimal256(10,2)", "at most 38"),
        ("decimal(2,5)", "digits"),
        (pa.decimal256(50, 2), "not supported"),
        (object, "no type"),
        (int | str, "no type"),
        (5, "no type"),
    ],
)
def test_what_is_no_type_is_refused_with_a_hint(name, words):
    with pytest.raises(PlanError, match=words):
        parse_type(name)


class Bid(TypedDict):
    auction: int
    price: Annotated[float, "euro"]
    note: NotRequired[str | None]


@dataclasses.dataclass
class Visit:
    url: str
    at: datetime
    tags: list[str]


def test_schemas_come_from_dicts_typed_dicts_dataclasses_and_arrow_in_the_engines_types():
    assert schema_from({"a": "int", "t": datetime}) == pa.schema([("a", pa.int64()), ("t", TIMESTAMP)])
    assert schema_from(Bid) == pa.schema([("auction", pa.int64()), ("price", pa.float64()), ("note", pa.string())])
    assert schema_from(Visit) == pa.schema([("url", pa.string()), ("at", TIMESTAMP), ("tags", pa.list_(pa.string()))])
    arrow = pa.schema([("s", pa.large_string()), ("t", pa.timestamp("ns")), ("d", pa.dictionary(pa.int8(), pa.string()))])
    assert schema_from(arrow) == pa.schema([("s", pa.string()), ("t", TIMESTAMP), ("d", pa.string())])


def test_a_bad_schema_names_the_column():
    with pytest.raises(PlanError, match="column 'a': 'intt'"):
        schema_from({"a": "intt"})
    with pytest.raises(PlanError, match=r"column 'a'.*not supported"):
        schema_from(pa.schema([("a", pa.decimal256(50, 2))]))
    for bad in (["a"], 5, Bid(auction=1, price=1.0), int):
        with pytest.raises(PlanError):
            schema_from(bad)


def test_engine_types_are_one_per_family():
    assert engine_type(pa.large_list(pa.large_string())) == pa.list_(pa.string())
    assert engine_type(pa.struct([("a", pa.timestamp("s"))])) == pa.struct([("a", TIMESTAMP)])
    assert engine_type(pa.date64()) == pa.date32()
    assert engine_type(pa.int16()) == pa.int16()


# -- times ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STAMPS, ids=str)
def test_a_time_literal_takes_the_columns_unit_and_naive_is_utc(kind):
    moment = datetime(2015, 7, 15, 0, 0, 10, tzinfo=UTC)
    ticks = int(moment.timestamp()) * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[kind.unit]
    column = pa.array([ticks - 1, ticks, ticks + 1, None], pa.int64()).view(kind)
    literals = [
        moment,
        moment.replace(tzinfo=None),
        moment.astimezone(timezone(timedelta(hours=5, minutes=30))),
        "2015-07-15T00:00:10",
        "2015-07-15 00:00:10Z",
        "2015-07-15T02:00:10+02:00",
        np.datetime64("2015-07-15T00:00:10"),
    ]
    for literal in literals:
        assert evaluate(col("x") < literal, column) == [True, False, False, None], literal
        assert evaluate(literal == col("x") if isinstance(literal, str) else col("x") == literal, column) == [False, True, False, None]
        assert evaluate(col("x").is_in([literal]), column) == [False, True, False, None]
        assert evaluate(col("x").between(literal, literal), column) == [False, True, False, None]
        assert evaluate(col("x").fill_null(literal) == moment, column) == [False, True, False, True]


@pytest.mark.parametrize("kind", [pa.timestamp("s"), pa.timestamp("ms", "UTC")], ids=str)
def test_a_time_literal_finer_than_the_column_compares_exactly(kind):
    column = pa.array([0, 1], pa.int64()).view(kind)
    between = datetime(1970, 1, 1, 0, 0, 0, 500)
    assert evaluate(col("x") > between, column) == [False, True]
    assert evaluate(col("x") >= between, column) == [False, True]
    assert evaluate(col("x") < between, column) == [True, False]
    assert evaluate(col("x") <= between, column) == [True, False]
    assert evaluate(col("x") == between, column) == [False, False]
    assert evaluate(col("x") != between, column) == [True, True]


def test_a_literal_beyond_what_a_nanosecond_column_holds_compares_by_its_value():
    column = pa.array([0, None], pa.timestamp("ns"))
    assert evaluate(col("x") < datetime(3000, 1, 1), column) == [True, None]
    assert evaluate(col("x") > "0001-01-01", column) == [True, None]


def test_a_string_that_is_no_time_is_a_plan_error():
    schema = pa.schema([("x", TIMESTAMP)])
    with pytest.raises(PlanError, match="ISO time"):
        (col("x") > "yesterday").result_type(schema)
    with pytest.raises(PlanError, match="microseconds"):
        (col("x") > "2020-01-01T00:00:00.123456789").result_type(schema)


def test_columns_of_different_units_and_zones_compare_as_instants():
    a, b = pa.array([1000, -1, None], pa.timestamp("ms")), pa.array([1, 0, 0], pa.timestamp("s", "Europe/Berlin"))
    batch = pa.record_batch({"a": a, "b": b})
    assert (col("a") == col("b")).evaluate(batch).to_pylist() == [True, False, None]
    assert (col("a") < col("b")).evaluate(batch).to_pylist() == [False, True, None]


def test_dates_compare_with_dates_strings_and_times():
    column = pa.array([0, 1, None], pa.date32())
    assert evaluate(col("x") > date(1970, 1, 1), column) == [False, True, None]
    assert evaluate(col("x") == "1970-01-02", column) == [False, True, None]
    assert evaluate(col("x") > datetime(1970, 1, 1, 12), column) == [False, True, None]
    times = pa.array([0, DAY_US, None], TIMESTAMP)
    assert evaluate(col("x") >= date(1970, 1, 2), times) == [False, True, None]


def test_arithmetic_of_times_is_in_microseconds():
    for kind in STAMPS:
        column = pa.array([-1, None], pa.int64()).view(kind)
        micros = {"s": -1_000_000, "ms": -1000, "us": -1, "ns": -1}[kind.unit]  # a nanosecond before the epoch floors to -1 us
        assert evaluate((col("x") + timedelta(seconds=1)).dt.epoch_us(), column) == [micros + 1_000_000, None]
        assert evaluate(col("x") - "1970-01-01", column) == [timedelta(microseconds=micros), None]
        assert evaluate((col("x") - datetime(1970, 1, 1)) // timedelta(seconds=1), column) == [-1, None]
        assert evaluate((col("x") - datetime(1970, 1, 1)) / timedelta(microseconds=1), column) == [float(micros), None]
    gap = pa.array([10_000_000, None], pa.duration("us"))
    assert evaluate(col("x") * 2 - timedelta(seconds=1), gap) == [timedelta(seconds=19), None]
    assert evaluate(col("x") > timedelta(seconds=9), gap) == [True, None]
    assert evaluate(-col("x"), gap) == [timedelta(seconds=-10), None]


def test_fields_and_truncation_are_in_utc_for_every_unit_and_zone():
    moments = [datetime(1969, 12, 31, 23, 59, 58, tzinfo=UTC), datetime(2024, 2, 29, 13, 14, 15, tzinfo=UTC)]
    for kind in STAMPS:
        scale = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[kind.unit]
        column = pa.array([int(moment.timestamp()) * scale for moment in moments] + [None], pa.int64()).view(kind)
        for field in ("year", "month", "day", "hour", "minute", "second"):
            assert evaluate(getattr(col("x").dt, field)(), column) == [getattr(moment, field) for moment in moments] + [None]
        assert evaluate(col("x").dt.day_of_week(), column) == [moment.weekday() for moment in moments] + [None]
        hours = [moment.replace(minute=0, second=0) for moment in moments]
        assert evaluate(col("x").dt.truncate("1h"), column) == [*hours, None]
        assert evaluate(col("x").dt.truncate(timedelta(days=1)), column) == [*(hour.replace(hour=0) for hour in hours), None]
        assert evaluate(col("x").dt.truncate("month"), column) == [*(hour.replace(day=1, hour=0) for hour in hours), None]
        assert evaluate(col("x").dt.epoch_s(), column) == [int(moment.timestamp()) for moment in moments] + [None]
        for format in ("%Y-%m-%d", "%H:%M:%S", "%d.%m.%y %H"):
            assert evaluate(col("x").dt.strftime(format), column) == [moment.strftime(format) for moment in moments] + [None]
    micros = pa.array([-1, 1_500_000], TIMESTAMP)
    assert evaluate(col("x").dt.microsecond(), micros) == [999_999, 500_000]
    assert evaluate(col("x").dt.epoch_ms(), micros) == [-1, 1500]
    assert evaluate(col("x").dt.day(), pa.array([1], pa.date32())) == [2]
    for bad in ("fortnight", 0, -1):
        with pytest.raises(PlanError, match="truncate"):
            col("x").dt.truncate(bad)


def test_to_datetime_tells_the_microseconds_of_a_row():
    assert to_datetime(1_000_001) == datetime(1970, 1, 1, 0, 0, 1, 1, tzinfo=UTC)
    assert to_datetime(None) is None


# -- casts ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "kind", "wanted"),
    [
        (pa.array([1, None]), "float", [1.0, None]),
        (pa.array([2**53 + 1]), "float", [float(2**53)]),
        (pa.array([1, None]), "string", ["1", None]),
        (pa.array(["7", None]), int, [7, None]),
        (pa.array(["7", "8", "7"]).dictionary_encode(), "int", [7, 8, 7]),
        (pa.array([2.0, None]), "int", [2, None]),
        (pa.array([1, None]), "decimal(10,2)", [Decimal("1.00"), None]),
        (pa.array([2**63 - 1]), "decimal(38,2)", [Decimal(2**63 - 1)]),
        (pa.array(["1.50"]), "decimal(5,2)", [Decimal("1.50")]),
        (pa.array([True, None]), "int", [1, None]),
        (pa.array([-1, None]), "timestamp", [datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), None]),
        (pa.array([-1, None], pa.timestamp("ns")), "timestamp", [datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), None]),
        (pa.array([2, None], pa.timestamp("ms")), "int", [2000, None]),
        (pa.array([-1, None], TIMESTAMP), "date", [date(1969, 12, 31), None]),
        (pa.array([-1, None], TIMESTAMP), "time", [time(23, 59, 59, 999999), None]),
        (pa.array([1, None], pa.date32()), "timestamp", [datetime(1970, 1, 2, tzinfo=UTC), None]),
        (pa.array(["2020-05-06", None]), "date", [date(2020, 5, 6), None]),
        (pa.array(["10:30:00", None]), "time", [time(10, 30), None]),
        (
            pa.array(["2020-01-01", "2020-01-01T10:00:00+02:00", None, "2020-01-01 10:00:00.5", "2020-01-01T00:00:00Z"]),
            "timestamp",
            [
                datetime(2020, 1, 1, tzinfo=UTC),
                datetime(2020, 1, 1, 8, tzinfo=UTC),
                None,
                datetime(2020, 1, 1, 10, 0, 0, 500000, tzinfo=UTC),
                datetime(2020, 1, 1, tzinfo=UTC),
            ],
        ),
        (pa.nulls(2), "int", [None, None]),
    ],
)
def test_casts_give_the_same_values_in_another_type(column, kind, wanted):
    assert evaluate(col("x").cast(kind), column) == wanted


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array([2**31]), "int32"),
        (pa.array([-1]), "uint8"),
        (pa.array([2.5]), "int"),
        (pa.array([float("nan")]), "int"),
        (pa.array([1e30]), "int"),
        (pa.array(["x"]), "int"),
        (pa.array(["yesterday"]), "timestamp"),
        (pa.array([Decimal("1.55")]), "decimal(5,1)"),
        (pa.array([2**62], pa.timestamp("s")), "timestamp"),
    ],
)
def test_a_value_that_does_not_fit_fails_with_the_expressions_text(column, kind):
    with pytest.raises(ExpressionError, match=r'col\("x"\)\.cast\(".*does not fit'):
        evaluate(col("x").cast(kind), column)


def test_an_unsafe_cast_cuts_fractions_off_and_still_refuses_what_is_out_of_range():
    assert evaluate(col("x").cast("int", safe=False), pa.array([2.7, -2.7, None])) == [2, -2, None]
    assert evaluate(col("x").cast("int", safe=False), pa.array([Decimal("2.70")])) == [2]
    for column in (pa.array([1e30]), pa.array([float("nan")])):
        with pytest.raises(ExpressionError, match="does not fit"):
            evaluate(col("x").cast("int", safe=False), column)
    with pytest.raises(ExpressionError, match="does not fit"):
        evaluate(col("x").cast("int8", safe=False), pa.array([1000]))


# -- strings ----------------------------------------------------------------------------------------------------------------------

TEXTS = ["https://a.de/x/Y?channel_id=12&b", "", "  pad  ", None, "çé", "a/b"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int16(), pa.string())], ids=str)
@pytest.mark.parametrize(
    ("method", "python"),
    [
        (lambda s: s.len(), len),
        (lambda s: s.length(), len),
        (lambda s: s.byte_len(), lambda t: len(t.encode())),
        (lambda s: s.upper(), str.upper),
        (lambda s: s.lower(), str.lower),
        (lambda s: s.strip(), str.strip),
        (lambda s: s.strip("h "), lambda t: t.strip("h ")),
        (lambda s: s.contains("/"), lambda t: "/" in t),
        (lambda s: s.contains("^a.b$", regex=True), lambda t: t == "a/b"),
        (lambda s: s.starts_with("https"), lambda t: t.startswith("https")),
        (lambda s: s.ends_with("b"), lambda t: t.endswith("b")),
        (lambda s: s.like("a%b"), lambda t: t.startswith("a") and t.endswith("b")),
        (lambda s: s.replace("/", "-"), lambda t: t.replace("/", "-")),
        (lambda s: s.replace("(a)(/)", r"\2\1", regex=True), lambda t: t.replace("a/", "/a")),
        (lambda s: s.slice(1, 4), lambda t: t[1:4]),
        (lambda s: s.slice(-2), lambda t: t[-2:]),
        (lambda s: s.count("/"), lambda t: t.count("/")),
        (lambda s: s.reverse(), lambda t: t[::-1]),
        (lambda s: s.rpad(4, "."), lambda t: t.ljust(4, ".")),
        (lambda s: s.split("/"), lambda t: t.split("/")),
        (lambda s: s.split_part("/", 1), lambda t: dict(enumerate(t.split("/"))).get(1)),
        (lambda s: s.split_part("/", -2), lambda t: t.split("/")[-2] if "/" in t else None),
        (lambda s: s.extract("(&|\\?)channel_id=([^&]*)", 2), lambda t: "12" if "channel" in t else None),
        (lambda s: s.extract("a[/(]b", 0), lambda t: "a/b" if t == "a/b" else None),
    ],
)
def test_string_functions_do_what_pythons_do_on_every_kind_of_string_column(kind, method, python):
    column = pa.array(TEXTS, pa.string()).cast(kind)
    batch = pa.record_batch({"x": pa.concat_arrays([column, column])}).slice(2, 7)
    got = method(col("x").str).evaluate(batch)
    assert got.type == method(col("x").str).result_type(batch.schema)
    assert got.to_pylist() == [None if text is None else python(text) for text in (TEXTS * 2)[2:9]]


def test_a_large_dictionary_with_few_rows_gives_the_same():
    dictionary = pa.DictionaryArray.from_arrays(pa.array([999, None, 3], pa.int32()), pa.array([f"v{i}" for i in range(1000)]))
    assert evaluate(col("x").str.upper(), dictionary) == ["V999", None, "V3"]
    assert evaluate(col("x") == "v3", dictionary) == [False, None, True]
    assert evaluate(col("x").is_in(["v3", "v999"]), dictionary) == [True, None, True]


def test_a_malformed_pattern_or_group_is_a_plan_error():
    schema = pa.schema([("x", pa.string())])
    for expression in (col("x").str.contains("[", regex=True), col("x").str.extract("(a)", 2), col("x").str.extract("(", 0)):
        with pytest.raises(PlanError):
            expression.result_type(schema)
    with pytest.raises(PlanError, match="give a string"):
        col("x").str.contains(5)
    assert lit("a/b").str.split_part("/", 0).evaluate(pa.record_batch({"x": ["p", "q"]})).to_pylist() == ["a", "a"]


def test_fields_of_structs_are_taken_out_and_null_where_the_struct_is() -> None:
    place = pa.array([{"city": "Ulm", "at": {"x": 1}}, None, {"city": None, "at": None}])
    batch = pa.record_batch([place], names=["place"])
    field = col("place").struct.field
    assert field("city").evaluate(batch).to_pylist() == ["Ulm", None, None]
    assert field("at").struct.field("x").evaluate(batch).to_pylist() == [1, None, None]
    assert field("at").result_type(batch.schema) == pa.struct({"x": "int64"})
    assert str(field("city").str.upper()) == 'col("place").struct.field("city").str.upper()'
    with pytest.raises(PlanError, match=r"no field 'cty'; did you mean 'city'\?"):
        field("cty").result_type(batch.schema)
    with pytest.raises(PlanError, match=r"is string, and \.struct takes a struct"):
        field("city").struct.field("x").result_type(batch.schema)
