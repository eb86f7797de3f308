"""What a state's chunk must look like, so that it can be cut by key group and replayed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from flinkray.errors import ProtocolError
from flinkray.ids import KeyGroupRange
from flinkray.operators.base import StateCapture
from flinkray.operators.restore import KEY_GROUP


def check_chunk(capture: StateCapture, chunk: pa.Table | None, has_base: bool, key_groups: KeyGroupRange, who: str) -> None:
    """Raises ProtocolError when a chunk breaks the contract of `StateCapture`. `has_base`: the base has this state."""
    what = f"{who} captured state {capture.name!r}"
    if not capture.full and not has_base:
        raise ProtocolError(f"{what} as a delta, but there is no base for it")
    if chunk is None:
        if capture.full:
            raise ProtocolError(f"{what} in full and encoded it as None; a full chunk without rows is an empty table")
        return
    if capture.kind == "list":
        return
    if not chunk.schema.names or chunk.schema.field(0).name != KEY_GROUP or chunk.schema.field(0).type != pa.uint16():
        raise ProtocolError(f"{what} without a leading uint16 column {KEY_GROUP!r}")
    groups = chunk.column(0).to_numpy().astype(np.int64)
    if len(groups) and (groups[0] not in key_groups or groups[-1] not in key_groups):
        raise ProtocolError(f"{what} with key groups outside its own {key_groups}")
    if np.any(np.diff(groups) < 0):
        raise ProtocolError(f"{what} with rows that are not sorted by key group")
