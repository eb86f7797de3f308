"""A channel between two TaskManagers that is lost (docs/protocol.md, rule 23). Pure.

The end of a channel may mean that one of the two is gone: who has not been heard by the leader either gets a moment to be heard again or to be
given up, before the next attempt is deployed on it in vain. Two that are both heard, and lose each other a second time, are parted: a spare on
another node takes the place of one of them.
"""

from __future__ import annotations

from flinkray.core.job_attempts import attempt_failed
from flinkray.core.job_events import JobCommand, Say
from flinkray.core.job_state import JobState
from flinkray.core.messages import PeerLost
from flinkray.core.workers import Worker, WorkerState

SILENT_S = 1.0
"""TaskManagers say something ten times a second; one that has not for so long may be gone."""
PATIENCE_S = 1.5
"""By then the leader's own heartbeat has told whether it is."""
FORGET_S = 300.0
"""Two that lost each other before that begin anew."""


def on_peer_lost(job: JobState, worker: Worker, body: PeerLost, now: float, out: list[JobCommand]) -> None:
    peer = job.workers.get(body.peer_instance)
    name = peer.name if peer is not None else body.peer_instance
    attempt_failed(job, "channel", f"{worker.name} lost its channel to {name}: {body.reason}", None, now, out)
    if peer is None:
        return
    silent = [one.instance for one in (worker, peer) if now - job.channels.heard.get(one.instance, now) > SILENT_S]
    if silent:
        job.channels.suspects |= dict.fromkeys(silent, now + PATIENCE_S)
        return
    pair = frozenset((worker.instance, peer.instance))
    before = job.channels.quarrels.get(pair)
    job.channels.quarrels[pair] = now
    if before is not None and now - before <= FORGET_S:
        _part(job, worker, peer, out)


def _part(job: JobState, worker: Worker, peer: Worker, out: list[JobCommand]) -> None:
    """Without a spare on another node than theirs both stay: a new process would come to where the old one was."""
    spares = [one for one in job.workers if one.state is WorkerState.IDLE]
    for leaves, stays in ((peer, worker), (worker, peer)):
        if any(spare.node_id not in (leaves.node_id, stays.node_id) for spare in spares):
            out.append(Say(f"{worker.name} and {peer.name} have lost each other again: {leaves.name} is replaced"))
            job.lose(leaves.instance, out)
            return
