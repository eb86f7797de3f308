"""The faults that come by themselves: who dies, stops, is slow or cut off, and when. Then the storm is over."""

from __future__ import annotations

import random

from flinkray.core.job_events import CancelRequested
from flinkray.testing.simulation.cluster import ZONES, Cluster
from flinkray.testing.simulation.faults import Injected
from flinkray.testing.simulation.network import between, isolation, zone_border
from flinkray.testing.simulation.world import Process

WANTED_CHECKPOINTS = 4
LOOK_S = 0.2

STUTTER_S = 0.4
"""Of a degraded TaskManager: late, and not silent for so long that it counts as lost."""


class Storm:
    """Schedules every fault that has times of its own. Lasts for `least_s`, and until something could be broken: `WANTED_CHECKPOINTS` are
    complete; but for `most_s` at most."""

    def __init__(self, cluster: Cluster, least_s: float, most_s: float) -> None:
        self._cluster = cluster
        self._most_s = most_s
        actions = {
            "reset": self._reset,
            "cut": self._cut,
            "partition": self._partition,
            "partition_one_way": self._partition_one_way,
            "partition_zone": self._partition_zone,
            "crash": self._crash,
            "crash_leader": self._crash_leader,
            "crash_standby": self._crash_standby,
            "pause": self._pause,
            "pause_leader": self._pause_leader,
            "degrade": self._degrade,
            "slow": self._slow,
            "clock_jump": self._clock_jump,
            "journal_back": self._journal_back,
            "resubmit": self._resubmit,
            "restore_older": self._restore_older,
            "rescale": self._rescale,
            "cancel": self._cancel,
            "save": lambda fault, rng: cluster.people.save(rng),
            "stop": lambda fault, rng: cluster.people.stop(rng),
            "drain": lambda fault, rng: cluster.people.stop(rng, drain=True),
            "rescale_live": lambda fault, rng: cluster.people.rescale(rng),
        }
        cluster.injector.storm = True
        for kind, action in actions.items():
            cluster.injector.schedule(kind, most_s, action)
        cluster.world.schedule(least_s, self._look)

    def _look(self) -> None:
        enough = self._cluster.checkers.completed >= WANTED_CHECKPOINTS
        if enough or self._cluster.world.now >= self._most_s:
            self.end()
        else:
            self._cluster.world.schedule(LOOK_S, self._look)

    def end(self) -> None:
        """All is well again: what is left must finish by itself."""
        cluster = self._cluster
        if not cluster.injector.storm:
            return
        cluster.injector.storm = False
        cluster.world.note("storm", "is over")
        cluster.network.heal()
        for process in cluster.processes():
            process.slowness = 1.0
            if process.paused:
                process.resume()

    def _processes(self) -> list[Process]:
        return [process for process in self._cluster.processes() if process.alive]

    # -- the network ----------------------------------------------------------------------------------------------

    def _reset(self, fault: Injected, rng: random.Random) -> str:
        pair = self._pair(rng)
        if pair is None:
            return ""
        self._cluster.network.reset(*pair)
        return f"{pair[0].name} and {pair[1].name}"

    def _cut(self, fault: Injected, rng: random.Random) -> str:
        pair = self._pair(rng)
        if pair is None:
            return ""
        for_s = rng.uniform(0.5, 5.0)
        what = f"{pair[0].name} and {pair[1].name}, {for_s:.2f} s"
        self._cluster.network.partition(what, between(*pair), for_s)
        return what

    def _partition(self, fault: Injected, rng: random.Random) -> str:
        return self._isolate(rng, "both")

    def _partition_one_way(self, fault: Injected, rng: random.Random) -> str:
        return self._isolate(rng, rng.choice(("in", "out")))

    def _partition_zone(self, fault: Injected, rng: random.Random) -> str:
        zone, reaches, for_s = rng.choice(ZONES), rng.random() < 0.5, _duration_s(rng)
        what = f"{zone}{'' if reaches else ', storage too'}, {for_s:.2f} s"
        self._cluster.network.partition(what, zone_border(zone, reaches), for_s)
        return what

    def _isolate(self, rng: random.Random, way: str) -> str:
        processes = self._processes()
        if not processes:
            return ""
        process, reaches, for_s = rng.choice(processes), rng.random() < 0.5, _duration_s(rng)
        what = f"{process.name} {way}{'' if reaches else ', storage too'}, {for_s:.2f} s"
        self._cluster.network.partition(what, isolation(process, way, reaches), for_s)
        return what

    # -- processes ------------------------------------------------------------------------------------------------

    def _crash(self, fault: Injected, rng: random.Random) -> str:
        active = self._cluster.active()
        if not active:
            return ""
        victim = rng.choice(active)
        self._cluster.kill_task_manager(victim)
        return victim.name

    def _crash_leader(self, fault: Injected, rng: random.Random) -> str:
        leader = self._cluster.run.leader
        if leader is None:
            return ""
        leader.end()
        return leader.name

    def _crash_standby(self, fault: Injected, rng: random.Random) -> str:
        standbys = [process for process in self._cluster.run.managers if process.alive and not process.leads]
        if not standbys:
            return ""
        victim = rng.choice(standbys)
        victim.end()
        return victim.name

    def _pause(self, fault: Injected, rng: random.Random) -> str:
        active = self._cluster.active()
        return self._stop(rng.choice(active), rng) if active else ""

    def _pause_leader(self, fault: Injected, rng: random.Random) -> str:
        leader = self._cluster.run.leader
        if leader is None or leader.paused:
            return ""
        return self._stop(leader, rng)

    def _stop(self, process: Process, rng: random.Random) -> str:
        for_s = _duration_s(rng)
        process.pause()
        self._cluster.world.schedule(for_s, process.resume)
        return f"{process.name} for {for_s:.2f} s"

    def _slow(self, fault: Injected, rng: random.Random) -> str:
        processes = self._processes()
        if not processes:
            return ""
        process, factor, for_s = rng.choice(processes), rng.choice((5.0, 30.0, 200.0)), _duration_s(rng)
        process.slowness = factor

        def recover() -> None:
            process.slowness = 1.0

        self._cluster.world.schedule(for_s, recover)
        return f"{process.name}, {factor:.0f} times, {for_s:.2f} s"

    def _degrade(self, fault: Injected, rng: random.Random) -> str:
        active = self._cluster.active()
        if not active:
            return ""
        victim, every_s = rng.choice(active), rng.uniform(0.5, 1.0)

        def stutter() -> None:
            if victim.alive and self._cluster.injector.storm:
                if not victim.paused:
                    victim.pause()
                    self._cluster.world.schedule(STUTTER_S, victim.resume)
                self._cluster.world.schedule(every_s, stutter)

        stutter()
        return f"{victim.name}, {STUTTER_S} s every {every_s:.2f} s"

    def _clock_jump(self, fault: Injected, rng: random.Random) -> str:
        processes = self._processes()
        if not processes:
            return ""
        process, jump_s = rng.choice(processes), rng.choice((-1, 1)) * rng.choice((0.5, 30.0, 7_200.0))
        process.clock_offset_s += jump_s
        return f"{process.name} by {jump_s:+.1f} s"

    # -- services and people --------------------------------------------------------------------------------------

    def _journal_back(self, fault: Injected, rng: random.Random) -> str:
        gone = self._cluster.run.ledger.forget_newest(rng.randint(1, 3))
        return f"slots {', '.join(map(str, gone))}" if gone else ""

    def _resubmit(self, fault: Injected, rng: random.Random) -> str:
        self._cluster.submit_soon(0.0)
        return "started again while it runs"

    def _rescale(self, fault: Injected, rng: random.Random) -> str:
        return self._cluster.rescale(rng) if self._cluster.plan.rescaled and not self._cluster.finished else ""

    def _cancel(self, fault: Injected, rng: random.Random) -> str:
        leader = self._cluster.run.leader
        if leader is None:
            return ""
        run, request, again_s = self._cluster.run, f"cancel-{fault.number}", rng.uniform(0.0, 1.0)
        leader.ask(CancelRequested("simulated", request))

        def again() -> None:
            if run.leader is not None:
                run.leader.ask(CancelRequested("simulated", request))

        self._cluster.world.schedule(again_s, again)
        return f"asked of {leader.name}, and again in {again_s:.2f} s"

    def _restore_older(self, fault: Injected, rng: random.Random) -> str:
        cluster = self._cluster
        numbers = set(cluster.log_numbers())
        known = cluster.checkers.complete.items()
        standing = sorted({e.header.checkpoint for number, e in known if number in numbers} - cluster.checkers.abandoned)
        if len(standing) < 2 or cluster.finished:
            return ""
        checkpoint = standing[-2]  # the sweep that is on its way leaves this one
        cluster.restore_older(checkpoint)
        return f"checkpoint {checkpoint} of {standing}"

    def _pair(self, rng: random.Random) -> tuple[Process, Process] | None:
        """Two TaskManagers with channels between them."""
        pairs = [
            (one, other) for one in self._cluster.connected() for other in self._cluster.active() if other.instance in one.exchange.peers
        ]
        return rng.choice(pairs) if pairs else None


def _duration_s(rng: random.Random) -> float:
    return rng.choice((0.2, 0.8, 2.5, 5.0)) * rng.uniform(0.5, 1.5)
