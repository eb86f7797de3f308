"""`fr.windows`: which windows a row belongs to, in event time."""

from __future__ import annotations

from flinkray.graph.windows import session as Session
from flinkray.graph.windows import sliding as Sliding
from flinkray.graph.windows import tumbling as Tumbling

__all__ = ["Session", "Sliding", "Tumbling"]
