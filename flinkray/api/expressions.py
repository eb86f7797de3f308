"""What a user writes in expressions: `from flinkray import col, lit, when, coalesce`."""

from __future__ import annotations

from flinkray.expressions import Expression, coalesce, col, lit, to_datetime, when

__all__ = ["Expression", "coalesce", "col", "lit", "to_datetime", "when"]
