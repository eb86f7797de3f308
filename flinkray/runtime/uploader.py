"""The asynchronous part of a checkpoint in one slot: encode what was captured, seal it, store it, and remember the chains of chunks."""

from __future__ import annotations

from collections.abc import Mapping

from flinkray.checkpoint.base import ChunkRef, ObjectStore
from flinkray.checkpoint.chunk_writer import ObjectBuilder
from flinkray.checkpoint.keys import DataKey
from flinkray.checkpoint.local_copies import LocalCopies
from flinkray.checkpoint.names import data_object_name
from flinkray.core.messages import Acknowledged, StateRef
from flinkray.errors import SpillError
from flinkray.graph.job_graph import JobGraph
from flinkray.ids import KeyGroupRange, TaskId
from flinkray.operators.base import StateCapture
from flinkray.runtime.slot import SlotCheckpoint, SlotPlace
from flinkray.state.memory import StateMemory

StateKey = tuple[str, str]
"""Operator uid and state name."""


class Uploader:
    """One per attempt. `upload` runs on a background thread, one checkpoint at a time; the rest on the mailbox thread."""

    def __init__(
        self,
        graph: JobGraph,
        place: SlotPlace,
        store: ObjectStore | None,
        data_key: DataKey | None,
        origin: str,
        copies: LocalCopies,
        memory: StateMemory | None = None,
    ) -> None:
        """`copies`: of what it stores, for a restart in this process. `memory`: the budget of state, in which also lies what is about to be stored."""
        self._copies = copies
        self._memory = memory
        self._graph = graph
        self._place = place
        self._store = store
        self._data_key = data_key
        self._origin = origin
        self._chains: dict[int, dict[StateKey, StateRef]] = {}
        """By checkpoint: the chunks that make up each state of this slot."""

    def restored(self, checkpoint: int, states: tuple[StateRef, ...]) -> None:
        """This slot's own chains of the restored checkpoint: deltas may go on top of them."""
        own = {(s.uid, s.name): s for s in states if s.subtask == self._place.slot}
        self._chains[checkpoint] = own

    def settled(self, checkpoint: int) -> None:
        """No later delta refers to anything before `checkpoint`."""
        for old in [known for known in list(self._chains) if known < checkpoint]:
            del self._chains[old]
        chains = list(self._chains.values())  # at once: the upload thread may add one
        self._copies.settle(checkpoint, [chunk for chain in chains for state in chain.values() for chunk in state.chunks])

    def upload(self, part: SlotCheckpoint) -> Acknowledged:
        """Raises StorageError when the store refuses; the checkpoint then fails, the job goes on."""
        barrier = part.barrier
        transactions: dict[str, tuple[object, ...]] = {}
        for snapshot in part.parts.values():
            transactions.update(snapshot.transactions)
        states: dict[StateKey, StateRef] = {}
        written = 0
        if barrier.store and self._store is not None:
            states, written = self._store_parts(part)
            self._chains[barrier.checkpoint] = states
        return Acknowledged(
            checkpoint=barrier.checkpoint,
            slot=self._place.slot,
            states=tuple(states.values()),
            transactions=transactions,
            counters=part.counters,
            first_row_at_us=part.first_row_at_us,
            written_bytes=written,
            sync_ms=max(snapshot.sync_ms for snapshot in part.parts.values()),
            align_ms=max(snapshot.align_ms for snapshot in part.parts.values()),
        )

    def _store_parts(self, part: SlotCheckpoint) -> tuple[dict[StateKey, StateRef], int]:
        assert self._store is not None
        assert self._data_key is not None
        place, checkpoint = self._place, part.barrier.checkpoint
        name = data_object_name(place.claim, checkpoint, place.attempt, place.instance, f"slot-{place.slot}")
        builder = ObjectBuilder(name, self._origin, self._data_key, keep=None if self._memory is None else self._memory.keep_bytes)
        base = self._chains.get(part.barrier.base, {}) if part.barrier.base is not None else {}
        states: dict[StateKey, StateRef] = {}
        for task, snapshot in part.parts.items():
            groups = self._graph.key_groups(task)
            for uid, captures in snapshot.captures.items():
                try:
                    for capture in captures:
                        states[(uid, capture.name)] = self._store_one(builder, base, task, groups, uid, capture, checkpoint)
                except SpillError as error:
                    error.where = (uid, task.subtask)
                    raise
        if not builder.empty:
            self._store.put_parts(name, builder.parts() if self._memory is None else self._memory.kept(builder.parts()))
            self._copies.keep(builder.chunks)
        return states, builder.size_bytes

    def _store_one(
        self,
        builder: ObjectBuilder,
        base: Mapping[StateKey, StateRef],
        task: TaskId,
        groups: KeyGroupRange,
        uid: str,
        capture: StateCapture,
        checkpoint: int,
    ) -> StateRef:
        chunks: tuple[ChunkRef, ...] = ()
        if not capture.full:
            chunks = base[(uid, capture.name)].chunks
        full = capture.full
        for table in capture.encode_parts():
            chunks = (*chunks, builder.add(uid, capture.name, capture.kind, full, checkpoint, groups, table))
            full = False
            if self._memory is not None:
                self._memory.keep()
        return StateRef(uid, task.subtask, capture.name, capture.kind, groups.start, groups.stop, chunks)
