"""Operators of one vertex, chained in one thread: rows, watermarks and the end of input travel down the chain by plain calls."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from flinkray.columns import MAX_WATERMARK, MIN_WATERMARK
from flinkray.errors import FlinkrayError, OperatorError
from flinkray.exchange.base import Barrier
from flinkray.graph.job_graph import JobVertex, ToEdge
from flinkray.operators.base import (
    Operator,
    OperatorContext,
    OperatorMetrics,
    RestoredState,
    SourceOperator,
    SourceStatus,
    StateCapture,
    SteppingOperator,
)
from flinkray.operators.registry import build
from flinkray.runtime.edge_writer import EdgeWriter

_LOG = logging.getLogger("flinkray")

Sender = Callable[[pa.RecordBatch], None]


@dataclass
class _Link:
    """One operator with its place in the chain."""

    uid: str
    operator: Operator
    output: ChainOutput
    metrics: OperatorMetrics
    children: list[int]
    edges: list[EdgeWriter]
    watermark_us: int = MIN_WATERMARK
    given_us: int = MIN_WATERMARK
    """The watermark that was passed on last."""


@dataclass(frozen=True)
class Offence:
    """What an operator was given when it raised: rows, or else a watermark, the clock's time, or the end of its inputs."""

    index: int
    """Of the operator."""
    batch: pa.RecordBatch | None = None
    input_index: int = 0
    watermark_us: int | None = None
    clock_s: float | None = None
    ended: bool = False


class ChainOutput:
    """What an operator emits into: the next operators of the chain, and the edges that leave it."""

    __slots__ = ("_metrics", "_senders")

    def __init__(self, senders: Mapping[str | None, Sequence[Sender]], metrics: OperatorMetrics) -> None:
        self._senders = senders
        self._metrics = metrics

    def emit(self, batch: pa.RecordBatch, tag: str | None = None) -> None:
        rows = batch.num_rows
        if rows == 0:
            return
        if tag is None:
            self._metrics.rows_out += rows
        for send in self._senders.get(tag, ()):
            send(batch)


class Chain:
    """The running form of a JobVertex's subtask."""

    def __init__(self, vertex: JobVertex, subtask: int, writers: Mapping[int, EdgeWriter]) -> None:
        self.vertex = vertex
        self.subtask = subtask
        self.writers = list(writers.values())
        self._current = vertex.operators[0].uid
        self.offence: Offence | None = None
        """Of the innermost operator that raised."""
        self._links: list[_Link] = []
        for spec in vertex.operators:
            metrics = OperatorMetrics()
            senders: dict[str | None, list[Sender]] = {}
            link = _Link(spec.uid, build(spec), ChainOutput(senders, metrics), metrics, [], [])
            for route in spec.routes:
                if isinstance(route.target, ToEdge):
                    writer = writers[route.target.edge]
                    link.edges.append(writer)
                    senders.setdefault(route.tag, []).append(writer.write)
                else:
                    link.children.append(route.target.index)
                    senders.setdefault(route.tag, []).append(self._sender_to(route.target.index))
            self._links.append(link)

    @property
    def head(self) -> Operator:
        return self._links[0].operator

    @property
    def source(self) -> SourceOperator | None:
        return self.head if isinstance(self.head, SourceOperator) else None

    @property
    def stepping(self) -> SteppingOperator | None:
        """A head that goes on with what it was given: rows are answered beside the mailbox, timers fire in slices."""
        return self.head if isinstance(self.head, SteppingOperator) else None

    @property
    def ready(self) -> bool:
        """Every edge has credit."""
        return all(writer.ready for writer in self.writers)

    @property
    def metrics(self) -> dict[str, OperatorMetrics]:
        return {link.uid: link.metrics for link in self._links}

    def operators(self) -> list[tuple[str, Operator]]:
        return [(link.uid, link.operator) for link in self._links]

    # -- life -----------------------------------------------------------------------------------------------------

    def open(
        self,
        make_context: Callable[[int, OperatorMetrics], OperatorContext],
        restored: Mapping[str, Sequence[RestoredState]],
        restored_checkpoint: int | None,
    ) -> None:
        with _blame(self):
            for index, link in enumerate(self._links):
                self._current = link.uid
                link.operator.open(make_context(index, link.metrics), restored.get(link.uid, ()), restored_checkpoint)

    def close(self) -> None:
        """Every operator, whatever another one raises: what they did is over, and no attempt is left that could fail of it."""
        for link in self._links:
            try:
                link.operator.close()
            except Exception:  # noqa: BLE001 - the user's function may raise whatever it likes
                _LOG.exception("operator %r could not be closed", link.uid)

    # -- rows and time --------------------------------------------------------------------------------------------

    def process(self, batch: pa.RecordBatch, input_index: int) -> None:
        with _blame(self):
            self._process(0, batch, input_index)

    def poll_source(self) -> SourceStatus:
        link = self._links[0]
        assert isinstance(link.operator, SourceOperator)
        with _blame(self):
            self._current = link.uid
            before = link.metrics.rows_out
            status = link.operator.poll(link.output)
            link.metrics.rows_in += link.metrics.rows_out - before
            return status

    def watermark(self, us: int) -> None:
        """Event time reached `us` at the head; every operator sees it and passes on its own."""
        with _blame(self):
            self._watermark(0, us)

    def advance(self) -> bool:
        """Give on what was answered since, and the watermark that may pass now; True when anything was done."""
        link = self._links[0]
        assert isinstance(link.operator, SteppingOperator)
        with _blame(self):
            self._current = link.uid
            try:
                worked = link.operator.advance(link.output)
            except Exception:
                self.offence = self.offence or Offence(0, batch=link.operator.offending, watermark_us=link.watermark_us)
                raise
            us = link.operator.output_watermark_us(link.watermark_us)
            if us > link.given_us:
                self._pass_on(link, us)
            return worked

    def input_watermark(self, us: int) -> None:
        """For a source with an input: the input's event time is the head's own business and goes no further."""
        with _blame(self):
            self._links[0].operator.on_watermark(us, self._links[0].output)

    def input_ended(self) -> None:
        """For a source with an input: no split will come any more. For a head with rows in flight: no row will."""
        with _blame(self):
            self._end_of(0)

    def idle(self) -> None:
        for writer in self.writers:
            writer.watermark(MIN_WATERMARK, idle=True)

    def active(self) -> None:
        """No longer idle: downstream waits for this task again, from the watermark it gave last."""
        for writer in self.writers:
            writer.watermark(MIN_WATERMARK)

    def end(self) -> None:
        """All inputs ended: a last watermark, then each operator's end, top to bottom, then the end on every edge."""
        with _blame(self):
            self._watermark(0, MAX_WATERMARK)
            for index in range(int(self.source is not None), len(self._links)):
                self._end_of(index)
        for writer in self.writers:
            writer.end()

    def processing_time(self, now_s: float) -> None:
        with _blame(self):
            for index, link in enumerate(self._links):
                self._current = link.uid
                try:
                    link.operator.on_processing_time(now_s, link.output)
                except Exception:
                    self.offence = self.offence or Offence(index, clock_s=now_s)
                    raise
                if link.operator.generates_watermarks:
                    self._pass_on(link, link.operator.output_watermark_us(link.watermark_us))

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def snapshot(self, barrier: Barrier) -> dict[str, list[StateCapture]]:
        """Capture every operator's state (the synchronous part), then forward the barrier."""
        with _blame(self):
            captures: dict[str, list[StateCapture]] = {}
            for link in self._links:
                self._current = link.uid
                captures[link.uid] = link.operator.snapshot(barrier.checkpoint, barrier.base)
        for writer in self.writers:
            writer.barrier(barrier)
        return captures

    def commit(self, checkpoint: int) -> bool:
        with _blame(self):
            done = True
            for link in self._links:
                self._current = link.uid
                done = link.operator.on_notify(checkpoint) and done
            return done

    # -- inside ---------------------------------------------------------------------------------------------------

    def _sender_to(self, index: int) -> Sender:
        def send(batch: pa.RecordBatch) -> None:
            self._process(index, batch, 0)

        return send

    def _process(self, index: int, batch: pa.RecordBatch, input_index: int) -> None:
        link = self._links[index]
        caller, self._current = self._current, link.uid
        link.metrics.rows_in += batch.num_rows
        try:
            link.operator.process(batch, input_index, link.output)
        except Exception:
            self.offence = self.offence or Offence(index, batch=batch, input_index=input_index)
            raise
        if link.operator.generates_watermarks:
            self._pass_on(link, link.operator.output_watermark_us(link.watermark_us))
        self._current = caller

    def _end_of(self, index: int) -> None:
        link = self._links[index]
        self._current = link.uid
        try:
            link.operator.on_end(link.output)
        except Exception:
            self.offence = self.offence or Offence(index, ended=True)
            raise

    def _watermark(self, index: int, us: int) -> None:
        link = self._links[index]
        self._current = link.uid
        link.watermark_us = us
        try:
            link.operator.on_watermark(us, link.output)
        except Exception:
            self.offence = self.offence or Offence(index, watermark_us=us)
            raise
        self._pass_on(link, link.operator.output_watermark_us(us))

    def _pass_on(self, link: _Link, us: int) -> None:
        if link.operator.idle:
            for writer in link.edges:
                writer.watermark(us, idle=True)
            return
        if us == MIN_WATERMARK:
            return
        link.given_us = us
        for child in link.children:
            if us > self._links[child].watermark_us:
                self._watermark(child, us)
        for writer in link.edges:
            writer.watermark(us)


class _blame:
    """Turns what user code or an operator raised into an OperatorError that names the operator and the subtask."""

    __slots__ = ("_chain",)

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or not isinstance(error, Exception):
            return
        uid, subtask = self._chain._current, self._chain.subtask
        if isinstance(error, FlinkrayError):
            if not getattr(error, "where", None):
                error.where = (uid, subtask)  # type: ignore[attr-defined]
            return
        text = "".join(traceback.format_exception(error))
        raised = OperatorError(f"{type(error).__name__}: {error}", uid, subtask, text)
        raised.where = (uid, subtask)  # type: ignore[attr-defined]
        raise raised from error
