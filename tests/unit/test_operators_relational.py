from __future__ import annotations

import pyarrow as pa
import pytest

from flinkray.columns import CHANGE, EVENT_TIME
from flinkray.errors import ProtocolError
from flinkray.expressions import col, lit
from flinkray.graph.job_graph import OperatorSpec
from flinkray.operators.base import Operator
from flinkray.operators.functions import FlatMapOperator
from flinkray.operators.registry import build
from flinkray.operators.relational import FilterOperator, PassthroughOperator, ProjectOperator
from flinkray.operators.rows import EVENT_TIME_FIELD
from flinkray.testing.harness import OperatorHarness

SCHEMA = pa.schema([("x", pa.int64()), ("s", pa.string()), EVENT_TIME_FIELD])
BATCH = pa.RecordBatch.from_pydict({"x": [1, 2, None, 4], "s": ["a", "b", "c", None], EVENT_TIME: [5, 6, 7, 8]}, schema=SCHEMA)


class Caught:
    """An output that keeps the batches themselves."""

    def __init__(self) -> None:
        self.batches: list[pa.RecordBatch] = []

    def emit(self, batch: pa.RecordBatch, tag: str | None = None) -> None:
        self.batches.append(batch)


def run(operator: Operator, output_schema: pa.Schema | None = None, batch: pa.RecordBatch = BATCH) -> list[pa.RecordBatch]:
    driven = OperatorHarness(operator, input_schemas=SCHEMA, output_schema=output_schema)
    out = Caught()
    driven.operator.process(batch, 0, out)
    return out.batches


def test_filter_keeps_rows_for_which_the_predicate_is_true_and_null_is_not() -> None:
    (kept,) = run(FilterOperator(predicate=col("x") > 1))
    assert kept.to_pydict() == {"x": [2, 4], "s": ["b", None], EVENT_TIME: [6, 8]}
    assert kept.schema == SCHEMA


def test_filter_passes_a_batch_on_untouched_when_all_rows_stay_and_nothing_when_none_does() -> None:
    assert run(FilterOperator(predicate=col(EVENT_TIME) > 0))[0] is BATCH
    assert run(FilterOperator(predicate=col("x") > 100)) == []


def test_project_computes_renames_and_keeps_hidden_columns() -> None:
    columns = (("y", col("x") + 1), ("s", col("s")))
    declared = pa.schema([("y", pa.int64()), ("s", pa.string()), EVENT_TIME_FIELD])
    for schema in (declared, None):
        (made,) = run(ProjectOperator(columns=columns), schema)
        assert made.schema == declared
        assert made.to_pydict() == {"y": [2, 3, None, 5], "s": ["a", "b", "c", None], EVENT_TIME: [5, 6, 7, 8]}


def test_project_copies_no_plain_column() -> None:
    (made,) = run(ProjectOperator(columns=(("renamed", col("x")),)))
    assert made.column("renamed").buffers()[1].address == BATCH.column("x").buffers()[1].address
    assert made.column(EVENT_TIME).buffers()[1].address == BATCH.column(EVENT_TIME).buffers()[1].address


def test_project_leaves_out_a_hidden_column_that_is_not_declared() -> None:
    (made,) = run(ProjectOperator(columns=(("x", col("x")),)), pa.schema([("x", pa.int64())]))
    assert made.schema.names == ["x"]


def test_a_literal_is_a_column_of_its_own() -> None:
    (made,) = run(ProjectOperator(columns=(("one", lit(1)),)))
    assert made.column("one").to_pylist() == [1, 1, 1, 1]


def test_integer_divisions_by_zero_are_counted() -> None:
    driven = OperatorHarness(ProjectOperator(columns=(("q", col("x") // (col("x") - 2)),)), input_schemas=SCHEMA)
    driven.rows(BATCH)
    assert driven.metrics.null_divisions == 1


def test_passthrough_hands_on_the_batch_itself_or_puts_columns_into_the_declared_order() -> None:
    assert run(PassthroughOperator())[0] is BATCH
    assert run(PassthroughOperator(), SCHEMA)[0] is BATCH
    turned = pa.schema([SCHEMA.field("s"), SCHEMA.field("x")])
    (made,) = run(PassthroughOperator(), turned)
    assert made.schema == turned
    assert made.column("x").to_pylist() == [1, 2, None, 4]


def test_changes_are_kept_by_filter_and_project() -> None:
    schema = pa.schema([*SCHEMA, pa.field(CHANGE, pa.int8(), nullable=False)])
    batch = BATCH.append_column(schema.field(CHANGE), pa.array([1, 1, 1, -1], pa.int8()))
    (kept,) = run(FilterOperator(predicate=col("x") > 1), batch=batch)
    (made,) = run(ProjectOperator(columns=(("x", col("x")),)), batch=kept)
    assert made.schema == pa.schema([("x", pa.int64()), EVENT_TIME_FIELD, schema.field(CHANGE)])
    assert made.column(CHANGE).to_pylist() == [1, -1]


def spec(kind: str, **params: object) -> OperatorSpec:
    return OperatorSpec("u", "n", kind, params, (), None)


def test_the_registry_builds_operators_with_their_parameters() -> None:
    assert isinstance(build(spec("filter", predicate=col("x") > 1)), FilterOperator)
    assert isinstance(build(spec("passthrough")), PassthroughOperator)
    assert isinstance(build(spec("flat_map", function=print, output_schema=None)), FlatMapOperator)


def test_an_unknown_kind_is_a_defect_that_names_the_operator() -> None:
    with pytest.raises(ProtocolError, match="operator 'u': there is no operator of kind 'teleport'"):
        build(spec("teleport"))
