"""Running aggregates that take more than one operator: over changelogs, and with counts of distinct values."""

from __future__ import annotations

from dataclasses import dataclass

from flinkray.graph.logical import AggregateNode


@dataclass(frozen=True, eq=False, kw_only=True)
class ChangelogAggregateNode(AggregateNode):
    """Of the rows that are there now: what is taken back is subtracted."""

    def columns_used(self) -> frozenset[str]:
        """With the key of an upsert stream: a row that replaces another takes it back."""
        return super().columns_used().union(self.inputs[0].rows.change_key or ())


@dataclass(frozen=True, eq=False, kw_only=True)
class DistinctAggregateNode(AggregateNode):
    """Some of its aggregates count distinct values."""
