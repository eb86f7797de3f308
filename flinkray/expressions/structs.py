"""`.struct`: the fields of a struct column."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from flinkray.errors import PlanError
from flinkray.expressions.binding import Bound, apply, bind_all, binds
from flinkray.expressions.tree import Call, Expression, call
from flinkray.expressions.types import type_name


@dataclass(frozen=True)
class StructMethods:
    """`col("place").struct`: what a struct is made of."""

    expression: Expression

    def field(self, name: str) -> Expression:
        """The field of that name; null where the struct is."""
        if not isinstance(name, str):
            raise PlanError(f".struct.field({name!r}): give the name of a field")
        return call("struct.field", self.expression, options=(name,))


@binds("struct.field")
def _bind_field(node: Call, schema: pa.Schema) -> Bound:
    (operand,) = bind_all(node.operands, schema)
    if not pa.types.is_struct(operand.type):
        raise PlanError(f"{node}: {operand.text} is {type_name(operand.type)}, and .struct takes a struct")
    (name,) = node.options
    names = [field.name for field in operand.type]
    if names.count(name) != 1:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise PlanError(f"{node}: no field {name!r}; {hint}the fields are: {', '.join(names) or 'none'}")
    index = names.index(name)
    return apply(node, operand.type.field(index).type, lambda value: pc.struct_field(value, index), operand)
