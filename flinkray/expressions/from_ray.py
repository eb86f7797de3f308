"""Ray Data's expressions (`ray.data.expressions.Expr`) translated node by node. Nothing of Ray is imported: nodes are known by class name.

Only what an expression says is taken over; it is evaluated as flinkray evaluates (exact `//` and `%`, `/` as float64, null for null).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from flinkray.errors import PlanError
from flinkray.expressions.tree import Alias, Call, Column, Expression, Literal, call

_MODULE = "ray.data.expressions"

_SAME_OPERATION = ("add", "sub", "mul", "mod", "floordiv", "gt", "lt", "ge", "le", "eq", "ne", "and", "or")

_SAME_FUNCTION = {
    **{name: name for name in ("ceil", "floor", "round", "trunc", "ln", "log10", "log2", "exp", "sign")},
    **{name: name for name in ("sin", "cos", "tan", "asin", "acos", "atan")},
    "abs_checked": "abs",
    "negate_checked": "neg",
    "utf8_length": "str.len",
    "binary_length": "str.byte_len",
    "utf8_upper": "str.upper",
    "utf8_lower": "str.lower",
    "utf8_capitalize": "str.capitalize",
    "utf8_title": "str.title",
    "utf8_reverse": "str.reverse",
    "utf8_trim_whitespace": "str.strip",
    "utf8_ltrim_whitespace": "str.lstrip",
    "utf8_rtrim_whitespace": "str.rstrip",
    **{name: f"dt.{name}" for name in ("year", "month", "day", "hour", "minute", "second")},
}
"""Functions without arguments."""

_WITH_ARGUMENTS: dict[str, tuple[str, Callable[[Expression, dict[str, Any]], Expression]]] = {
    "power": ("exponent", lambda x, given: x ** given["exponent"]),
    "starts_with": ("pattern", lambda x, given: x.str.starts_with(given["pattern"])),
    "ends_with": ("pattern", lambda x, given: x.str.ends_with(given["pattern"])),
    "match_substring": ("pattern", lambda x, given: x.str.contains(given["pattern"])),
    "match_substring_regex": ("pattern", lambda x, given: x.str.contains(given["pattern"], regex=True)),
    "match_like": ("pattern", lambda x, given: x.str.like(given["pattern"])),
    "find_substring": ("pattern", lambda x, given: x.str.find(given["pattern"])),
    "count_substring": ("pattern", lambda x, given: x.str.count(given["pattern"])),
    "replace_substring": ("pattern replacement", lambda x, given: x.str.replace(given["pattern"], given["replacement"])),
    "replace_substring_regex": (
        "pattern replacement",
        lambda x, given: x.str.replace(given["pattern"], given["replacement"], regex=True),
    ),
    "utf8_slice_codeunits": ("start stop?", lambda x, given: x.str.slice(given["start"], given.get("stop"))),
    "split_pattern": ("pattern", lambda x, given: x.str.split(given["pattern"])),
    "utf8_trim": ("characters", lambda x, given: x.str.strip(given["characters"])),
    "utf8_ltrim": ("characters", lambda x, given: x.str.lstrip(given["characters"])),
    "utf8_rtrim": ("characters", lambda x, given: x.str.rstrip(given["characters"])),
    "utf8_lpad": ("width padding?", lambda x, given: x.str.lpad(given["width"], given.get("padding", " "))),
    "utf8_rpad": ("width padding?", lambda x, given: x.str.rpad(given["width"], given.get("padding", " "))),
    "strftime": ("format", lambda x, given: x.dt.strftime(given["format"])),
    "floor_temporal": ("multiple unit", lambda x, given: x.dt.truncate(_unit(given["unit"], given["multiple"]))),
}
"""Functions with arguments: their names (`?`: may be left out), and what they become."""

_DURATIONS = {"day": "1d", "hour": "1h", "minute": "1min", "second": "1s", "millisecond": "1ms", "microsecond": "1us"}


def is_ray_expression(value: Any) -> bool:
    """Whether the value is a node of Ray Data's expression tree."""
    return any(kind.__module__ == _MODULE and kind.__name__ == "Expr" for kind in type(value).__mro__)


def translate(node: Any) -> Expression:
    """The expression that says the same. Raises PlanError naming the first node without a translation."""
    match type(node).__name__:
        case "ColumnExpr":
            return Column(node.name)
        case "LiteralExpr":
            return node.value if isinstance(node.value, Expression) else Literal(node.value)
        case "AliasExpr":
            return Alias(translate(node.expr), node.name)
        case "UnaryExpr" if (function := _operation(node)) in ("not", "is_null", "is_not_null"):
            return call(function, translate(node.operand))
        case "BinaryExpr":
            return _translate_binary(node)
        case "PyArrowComputeUDFExpr":
            return _translate_function(node)
        case "UDFExpr" if getattr(node.fn, "__qualname__", "") == "Expr.cast.<locals>.cast_udf":
            return _translate_cast(node)
    raise _no_translation(node)


def _operation(node: Any) -> str:
    return str(node.op.value)


def _no_translation(node: Any, what: str = "") -> PlanError:
    name = what or type(node).__name__
    return PlanError(f"the Ray Data expression {name} has no translation; write it with flinkray's col(), or use map_batches()")


def _translate_binary(node: Any) -> Expression:
    function = _operation(node)
    left = translate(node.left)
    if function in _SAME_OPERATION:
        return call(function, left, translate(node.right))
    if function == "div":
        return call("truediv", left, translate(node.right))
    if function in ("in", "not_in"):
        values = getattr(node.right, "value", None)
        if not isinstance(values, list | tuple | set | frozenset | range):
            raise _no_translation(node, f"{function} with something else than a list of values")
        return left.is_in(values) if function == "in" else ~left.is_in(values)
    raise _no_translation(node, f"BinaryExpr {function!r}")


def _translate_function(node: Any) -> Expression:
    name = node.pc_func.__name__
    operand = translate(node.args[0])
    if name in _SAME_FUNCTION and not node.pc_positional and not node.pc_kwargs:
        return Call(_SAME_FUNCTION[name], (operand,))
    if name not in _WITH_ARGUMENTS:
        raise _no_translation(node, f"function {name!r}")
    names, build = _WITH_ARGUMENTS[name]
    known = names.replace("?", "").split()
    given = {**dict(zip(known, node.pc_positional, strict=False)), **node.pc_kwargs}
    required = [argument for argument in names.split() if not argument.endswith("?")]
    if len(node.pc_positional) > len(known) or set(given) - set(known) or any(argument not in given for argument in required):
        raise _no_translation(node, f"function {name!r} with arguments {node.pc_positional!r} {node.pc_kwargs!r}")
    return build(operand, {key: translate(value) if is_ray_expression(value) else value for key, value in given.items()})


def _translate_cast(node: Any) -> Expression:
    options = inspect.getclosurevars(inspect.unwrap(node.fn)).nonlocals
    return translate(node.args[0]).cast(node.data_type.to_arrow_dtype(), safe=options.get("safe", True))


def _unit(unit: str, multiple: int) -> str:
    if multiple != 1 or unit == "nanosecond":
        raise PlanError(f"the Ray Data expression dt.floor({multiple} {unit}) has no translation; use .dt.truncate(duration)")
    return _DURATIONS.get(unit, unit)
