"""What a restore keeps, drops, re-types and starts empty, operator by operator, and why one would be refused. Pure.

kept            the same operator with the same state
re-typed        keys or aggregates of wider types (int32 to int64, float32 to float64), or aggregates added behind the others: those of keys
                that were there begin as null (counts as 0)
dropped         state whose operator the job does not have; only where that is allowed
starts empty    an operator that the checkpoint does not know
refused         any other change
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import pyarrow as pa

from flinkray.core.messages import StateRef
from flinkray.errors import RestoreError
from flinkray.graph.job_graph import JobGraph, OperatorSpec
from flinkray.graph.state_layout import StateLayout
from flinkray.graph.windows import SessionWindow

Verdict = Literal["kept", "re-typed", "dropped", "starts empty", "refused"]


@dataclass(frozen=True)
class OperatorPlan:
    uid: str
    kind: str
    verdict: Verdict
    detail: str = ""


class Saved(Protocol):
    """What must be known of a checkpoint; a manifest is one."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def operators(self) -> Mapping[str, str]: ...
    @property
    def max_parallelism(self) -> int: ...
    @property
    def states(self) -> tuple[StateRef, ...]: ...
    @property
    def layouts(self) -> Mapping[str, StateLayout]: ...
    @property
    def state_digests(self) -> Mapping[str, str]: ...


def restore_plan(graph: JobGraph, saved: Saved, allow_dropped: bool) -> tuple[OperatorPlan, ...]:
    """Every operator that has state on either side, those of the checkpoint first. `allow_dropped`: state without an operator is given up."""
    specs = {operator.uid: operator for vertex in graph.vertices for operator in vertex.operators}
    stateful = sorted({state.uid for state in saved.states} | set(saved.state_digests))
    plans = [_of_saved(uid, specs.get(uid), graph, saved, allow_dropped) for uid in stateful]
    new = sorted(uid for uid in graph.state_digests if uid not in saved.state_digests and uid not in stateful)
    return (*plans, *(OperatorPlan(uid, specs[uid].kind, "starts empty") for uid in new if uid in specs))


def check_restore(graph: JobGraph, saved: Saved, what: str, allow_dropped: bool) -> None:
    """Raises RestoreError, which names every operator that does not fit. `what`: the checkpoint or savepoint, for people."""
    if saved.max_parallelism != graph.max_parallelism:
        raise RestoreError(
            f"{what} was taken with max_parallelism {saved.max_parallelism}, the job has {graph.max_parallelism}: "
            "key groups cannot be regrouped; set max_parallelism back, or start afresh with --restore none"
        )
    plans = restore_plan(graph, saved, allow_dropped)
    wrong = [plan for plan in plans if plan.verdict == "refused"]
    if not wrong:
        return
    gone = [plan.uid for plan in wrong if plan.uid not in set(graph.uids())]
    remedy = "give --allow-non-restored-state to drop it, or start afresh with --restore none" if len(gone) == len(wrong) else ""
    if gone and remedy:
        raise RestoreError(f"{what} holds state of operators that the job does not have: {', '.join(gone)}; {remedy}")
    reasons = "; ".join(f"operator {plan.uid!r}: {plan.detail}" for plan in wrong)
    raise RestoreError(f"{what} does not fit the graph: {reasons}; change the job back, or start afresh with --restore none")


def _of_saved(uid: str, spec: OperatorSpec | None, graph: JobGraph, saved: Saved, allow_dropped: bool) -> OperatorPlan:
    kind = saved.operators.get(uid, "")
    if spec is None:
        rows = sum(chunk.rows for state in saved.states if state.uid == uid for chunk in state.chunks)
        detail = f"the job has no such operator ({rows:,} stored rows)"
        return OperatorPlan(uid, kind, "dropped" if allow_dropped else "refused", detail)
    if saved.fingerprint == graph.fingerprint:
        return OperatorPlan(uid, kind, "kept")
    before, now = saved.state_digests.get(uid), graph.state_digests.get(uid)
    if before == now and saved.state_digests:
        return OperatorPlan(uid, kind, "kept")
    if spec.kind != kind:
        return OperatorPlan(uid, kind, "refused", f"it was a {kind} and is a {spec.kind} now; give it another uid")
    old, new = saved.layouts.get(uid), StateLayout.of(spec)
    if old is None or new is None:
        return OperatorPlan(uid, kind, "refused", "its state has changed, and is of a sort that is not converted; give it another uid")
    changes, why_not = layout_changes(kind, old, new)
    return (
        OperatorPlan(uid, kind, "refused", why_not)
        if why_not
        else OperatorPlan(uid, kind, "re-typed" if changes else "kept", "; ".join(changes))
    )


def layout_changes(kind: str, old: StateLayout, new: StateLayout) -> tuple[list[str], str]:
    """What changes, in words, or why it cannot be: of running and windowed aggregates."""
    if kind not in ("keyed_aggregate", "window_aggregate") or isinstance(old.window, SessionWindow):
        return [], f"the state of {'session windows' if kind == 'window_aggregate' else kind} is not converted; give it another uid"
    if old.window != new.window or old.lateness_us != new.lateness_us:
        return [], "its window or lateness has changed; give it another uid"
    if old.keys != new.keys:
        return [], f"it was keyed by {', '.join(old.keys)}, and is by {', '.join(new.keys)} now; give it another uid"
    kept = new.aggregates[: len(old.aggregates)]
    if old.aggregates != kept:
        gone = next((one for one, other in zip(old.aggregates, (*kept, None), strict=False) if one != other), old.aggregates[-1])
        return [], f"its aggregate {gone.output!r} has changed or moved; aggregates may be added behind the others only"
    changes, why_not = _types(old.schema, new.schema, (*old.keys, *(aggregate.output for aggregate in old.aggregates)))
    added = [aggregate.output for aggregate in new.aggregates[len(old.aggregates) :]]
    return [*changes, *([f"aggregates {', '.join(added)} begin as null"] if added else [])], why_not


def _types(old: pa.Schema, new: pa.Schema, names: Iterable[str]) -> tuple[list[str], str]:
    changes = []
    for name in names:
        before, after = old.field(name).type, new.field(name).type
        if before == after:
            continue
        if not widens(before, after):
            return [], f"{name!r} was {before} and is {after} now: integers and floats may only become wider"
        changes.append(f"{name} from {before} to {after}")
    return changes, ""


def widens(before: pa.DataType, after: pa.DataType) -> bool:
    """Every value stays what it is, and lies in the same key group."""
    for of in (pa.types.is_signed_integer, pa.types.is_unsigned_integer, pa.types.is_floating):
        if of(before) and of(after):
            return bool(before.bit_width < after.bit_width)
    return False
