"""Columns as users write them: lists for `select`, and the schemas that functions declare."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import pyarrow as pa

from flinkray.errors import PlanError
from flinkray.expressions import Expression, as_expression, col
from flinkray.expressions.tree import Alias
from flinkray.expressions.types import schema_from

OutputSchema: TypeAlias = pa.Schema | Mapping[str, Any] | type
"""A pyarrow schema, `{"name": "type"}`, a TypedDict or a dataclass."""


def listed_columns(columns: Sequence[str | Expression], named: Mapping[str, Any], what: str) -> list[tuple[str, Expression]]:
    """Names and expressions, in the order given."""
    listed = [_named(column, what) for column in columns]
    return listed + [(name, as_expression(value)) for name, value in named.items()]


def _named(column: str | Expression, what: str) -> tuple[str, Expression]:
    if isinstance(column, str):
        return column, col(column)
    if isinstance(column, list | tuple):
        raise PlanError(f"{what}: give the columns one by one, {what}('a', 'b'), not as a list")
    expression = as_expression(column)
    if expression.name is None:
        raise PlanError(f"{what}: {expression} has no name; write ({expression}).alias('name')")
    inner = expression
    while isinstance(inner, Alias):
        inner = inner.expression
    return expression.name, inner


def function_schema(function: Callable[..., Any], declared: OutputSchema | None, what: str) -> pa.Schema | None:
    """What a function gives: as declared, by its attribute `output_schema`, or by its return annotation. None: unknown."""
    if declared is None:
        declared = getattr(function, "output_schema", None)
    if declared is None:
        declared = _annotated(function)
    if declared is None:
        return None
    try:
        return schema_from(declared)
    except PlanError as error:
        raise PlanError(f"{what}: output_schema: {error}") from None


def _annotated(function: Callable[..., Any]) -> type | None:
    """The TypedDict or dataclass that the function says it returns, or yields."""
    call = function if hasattr(function, "__annotations__") and not isinstance(function, type) else getattr(function, "__call__", None)  # noqa: B004
    try:
        returned = typing.get_type_hints(call).get("return")
    except (NameError, TypeError):
        return None  # an annotation that cannot be looked up from here says nothing
    origin, arguments = typing.get_origin(returned), typing.get_args(returned)
    if arguments and isinstance(origin, type) and issubclass(origin, Iterable) and not issubclass(origin, Mapping):
        returned = arguments[0]
    if isinstance(returned, type) and (typing.is_typeddict(returned) or dataclasses.is_dataclass(returned)):
        return returned
    return None
