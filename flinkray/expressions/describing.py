"""Expressions as text, in the form a user would type them. `explain()` and error messages show it."""

from __future__ import annotations

import json
import math
from datetime import date, datetime, time
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from flinkray.expressions.types import type_name

if TYPE_CHECKING:
    from flinkray.expressions.tree import Expression

_INFIX = {
    "or": ("|", 1),
    "and": ("&", 2),
    "eq": ("==", 0),
    "ne": ("!=", 0),
    "lt": ("<", 0),
    "le": ("<=", 0),
    "gt": (">", 0),
    "ge": (">=", 0),
    "add": ("+", 3),
    "sub": ("-", 3),
    "mul": ("*", 4),
    "truediv": ("/", 4),
    "floordiv": ("//", 4),
    "mod": ("%", 4),
    "pow": ("**", 6),
}
_PREFIX = {"neg": "-", "not": "~"}
_PREFIX_LEVEL = 5
_ATOM = 7


def describe(expression: Expression) -> str:
    """The whole expression; a literal by itself is written `lit(...)`."""
    from flinkray.expressions.tree import Literal

    if isinstance(expression, Literal):
        return f"lit({literal_text(expression.value)})"
    return _text(expression)[0]


def literal_text(value: Any) -> str:
    """A literal: strings and ISO times in double quotes."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, datetime | date | time):
        return f'"{value.isoformat()}"'
    if isinstance(value, pa.DataType):
        return f'"{type_name(value)}"'
    if isinstance(value, tuple):
        return f"[{', '.join(literal_text(item) for item in value)}]"
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value).removeprefix("datetime.")


def _text(expression: Expression) -> tuple[str, int]:
    """The text and how strongly its outermost operator binds."""
    from flinkray.expressions.tree import Alias, Call, Column, Literal

    match expression:
        case Column():
            return f"col({literal_text(expression.column)})", _ATOM
        case Literal():
            text = literal_text(expression.value)
            return text, _PREFIX_LEVEL if text.startswith("-") else _ATOM
        case Alias():
            return f"{_operand(expression.expression)}.alias({literal_text(expression.alias_name)})", _ATOM
        case Call():
            return _call_text(expression)
    raise TypeError(f"{type(expression).__name__} is no expression")


def _call_text(node: Any) -> tuple[str, int]:
    function, operands = node.function, node.operands
    if function in _INFIX:
        sign, level = _INFIX[function]
        left, right = (_nested(operand, level, index) for index, operand in enumerate(_with_a_column(operands)))
        return f"{left} {sign} {right}", level
    if function in _PREFIX:
        text, level = _text(operands[0])
        return _PREFIX[function] + (text if level >= _PREFIX_LEVEL else f"({text})"), _PREFIX_LEVEL
    if function == "case":
        return _case_text(operands), _ATOM
    if function == "coalesce":
        return f"coalesce({', '.join(_text(operand)[0] for operand in operands)})", _ATOM
    arguments = [_text(operand)[0] for operand in operands[1:]]
    arguments += [literal_text(option) for option in node.options]
    arguments += [f"{name}={literal_text(value)}" for name, value in node.keywords]
    return f"{_operand(operands[0])}.{function}({', '.join(arguments)})", _ATOM


def _case_text(operands: tuple[Expression, ...]) -> str:
    text = ""
    for condition, value in zip(operands[:-1:2], operands[1::2], strict=True):
        text += f"{'.' if text else ''}when({_text(condition)[0]}).then({_text(value)[0]})"
    other = _text(operands[-1])[0]
    return text if other == "None" else f"{text}.otherwise({other})"


def _with_a_column(operands: tuple[Expression, ...]) -> tuple[Any, ...]:
    """Python would compute an operator between two literals by itself: the first is then written `lit(...)`."""
    from flinkray.expressions.tree import Literal

    both = all(isinstance(operand, Literal) for operand in operands)
    return (describe(operands[0]), *operands[1:]) if both else operands


def _nested(operand: Expression | str, level: int, index: int) -> str:
    """An operand of an infix operator, in parentheses where Python's precedence would read it otherwise."""
    if isinstance(operand, str):
        return operand
    text, own = _text(operand)
    if level == _INFIX["pow"][1]:
        return text if own == _ATOM else f"({text})"
    # comparisons do not chain, and all other operators group to the left
    needs = own < level or (own == level and (index == 1 or level == 0))
    return f"({text})" if needs else text


def _operand(expression: Expression) -> str:
    """What a method is called on."""
    from flinkray.expressions.tree import Literal

    if isinstance(expression, Literal):
        return describe(expression)
    text, level = _text(expression)
    return text if level == _ATOM else f"({text})"
