"""Several owners write one storage log at once, over storage that loses answers, applies puts late, and frees old numbers.

Whatever the order, there is one truth: what a writer was told is complete is found by every later owner, what it was told is void is found
by none, and nothing counts that an owner wrote after it was deposed. Two broken writers show that the checks bite.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import pytest

from flinkray.core.log_records import Draft, RecordHeader, RecordKind, digest, encode_header, place
from flinkray.core.log_writer import (
    Confirmed,
    CreateAt,
    Created,
    Deposed,
    Doubtful,
    ListAbove,
    Listed,
    ListFailed,
    LogCommand,
    LogEvent,
    LogWriter,
    Taken,
    Voided,
    Want,
)
from flinkray.core.storage_log import LogEntry, LogView, fold

RETAINED = 2
SEEDS = 200
STEPS = 300


class ForgetsToList(LogWriter):
    """Believes in what it created without looking above it (breaks rule 3)."""

    def step(self, event: LogEvent) -> list[LogCommand]:
        commands = super().step(event)
        return super().step(Listed(self.number, ())) if isinstance(commands[0], ListAbove) else commands


class ForgetsToVoid(LogWriter):
    """Takes a put without an answer for one that did not happen (breaks rule 2)."""

    def step(self, event: LogEvent) -> list[LogCommand]:
        if isinstance(event, Doubtful) and self._draft is not None and self._draft.kind is RecordKind.MANIFEST:
            super().step(event)
            super().step(Created(self.number, "never"))
            number = self.number
            self.state, self.last = type(self.state).IDLE, self.last
            return [Voided(number)]
        return super().step(event)


class TruthError(AssertionError):
    """Two parties believe different things."""


@dataclass
class Storage:
    """Creates if absent; some puts are answered with silence and happen now, later, or never."""

    rng: random.Random
    records: dict[int, RecordHeader] = field(default_factory=dict)
    late: list[RecordHeader] = field(default_factory=list)

    def create(self, header: RecordHeader) -> LogEvent:
        fate = self.rng.random()
        if fate < 0.15:
            self.late.append(header)
            return Doubtful(header.number)
        if fate < 0.2:
            return Doubtful(header.number)
        standing = self.records.setdefault(header.number, header)
        if fate < 0.3:
            return Doubtful(header.number)
        if standing is header:
            return Created(header.number, digest_of(header))
        return Taken(header.number, standing.token, digest_of(standing))

    def something_late_happens(self) -> None:
        if self.late:
            header = self.late.pop(self.rng.randrange(len(self.late)))
            self.records.setdefault(header.number, header)

    def read(self) -> LogView:
        return fold([LogEntry(number, digest_of(header), header) for number, header in self.records.items()])


@dataclass
class World:
    rng: random.Random
    writer_class: type[LogWriter]

    def __post_init__(self) -> None:
        self.storage = Storage(self.rng)
        self.confirmed: dict[str, int] = {}
        self.voided: set[str] = set()
        self.ids = 0

    def owner(self) -> Iterator[None]:
        """Claims, then writes manifests and frees old numbers, until deposed. Each `yield` may be a long freeze."""
        while True:
            view = self.storage.read()
            yield
            writer = self.writer_class(view.newest)
            outcome = yield from self.append(writer, Draft(RecordKind.CLAIM, self.token()))
            if isinstance(outcome, Confirmed):
                break
        self.check_restore(outcome.number, view)
        claim = outcome.number
        while True:
            draft = Draft(RecordKind.MANIFEST, self.token(), claim, self.ids)
            outcome = yield from self.append(writer, draft)
            if isinstance(outcome, Deposed):
                return
            if isinstance(outcome, Voided):
                self.voided.add(draft.token)
            else:
                self.confirmed[draft.token] = outcome.number
                yield from self.retain(claim)

    def append(self, writer: LogWriter, draft: Draft) -> Iterator[None]:
        commands = writer.step(Want(draft))
        while True:
            yield
            (command,) = commands
            if isinstance(command, CreateAt):
                event = self.storage.create(place(command.draft, command.number, command.parent, "app", "key", 0))
            elif isinstance(command, ListAbove):
                above = tuple(number for number in self.storage.records if number > command.number)
                event = ListFailed(command.number) if self.rng.random() < 0.1 else Listed(command.number, above)
            else:
                return command
            commands = writer.step(event)

    def retain(self, claim: int) -> Iterator[None]:
        view = self.storage.read()
        if view.claim != claim:
            return
        kept = view.manifests[:RETAINED]
        doomed = [number for number in self.storage.records if kept and number < kept[-1].number]
        for number in doomed:
            yield
            self.storage.records.pop(number, None)

    def check_restore(self, claim: int, view: LogView) -> None:
        """The view an owner restores from must hold every checkpoint that anybody was told is complete below the claim."""
        found = {entry.header.token for entry in view.manifests if entry.header}
        complete = {token: number for token, number in self.confirmed.items() if number < claim}
        newest = max(complete, key=complete.__getitem__, default=None)
        if newest is not None and newest not in found and all(entry.number < complete[newest] for entry in view.manifests):
            raise TruthError(f"claim {claim} does not find {newest}, complete at {complete[newest]}")
        if found & self.voided:
            raise TruthError(f"claim {claim} restores {found & self.voided}, which were said to be void")

    def check_end(self) -> None:
        view = self.storage.read()
        found = {entry.header.token: entry for entry in view.manifests if entry.header}
        if found.keys() & self.voided:
            raise TruthError(f"{found.keys() & self.voided} are complete and void")
        numbers = list(self.confirmed.values())
        if len(numbers) != len(set(numbers)):
            raise TruthError("two complete manifests at one number")
        floor = min((entry.number for entry in view.manifests), default=0)
        lost = [token for token, number in self.confirmed.items() if number >= floor and token not in found]
        if floor and lost:
            raise TruthError(f"{lost} were said to be complete, and do not count")

    def token(self) -> str:
        self.ids += 1
        return f"t{self.ids}"


@lru_cache(maxsize=10_000)
def digest_of(header: RecordHeader) -> str:
    return digest(encode_header(header))


def run(seed: int, writer_class: type[LogWriter]) -> World:
    rng = random.Random(seed)
    world = World(rng, writer_class)
    owners = [world.owner()]
    for _ in range(STEPS):
        if rng.random() < 0.02:
            owners.append(world.owner())  # a fresh run, the old ones may still live
        if rng.random() < 0.05:
            world.storage.something_late_happens()
        # one owner after another runs for a while: freezes are long
        active = owners[-1] if rng.random() < 0.7 else rng.choice(owners)
        for _ in range(rng.randrange(1, 6)):
            if next(active, "over") == "over":
                if active in owners and len(owners) > 1:
                    owners.remove(active)
                break
        if not owners:
            owners.append(world.owner())
    while world.storage.late:
        world.storage.something_late_happens()
    world.check_end()
    return world


def run_all(writer_class: type[LogWriter]) -> list[World]:
    return [run(seed, writer_class) for seed in range(SEEDS)]


def test_there_is_one_truth_whatever_is_late_lost_or_freed() -> None:
    worlds = run_all(LogWriter)
    complete = sum(len(world.confirmed) for world in worlds)
    void = sum(len(world.voided) for world in worlds)
    owners = sum(len({header.claim for header in world.storage.records.values()}) for world in worlds)
    assert complete > 10 * SEEDS
    assert void > SEEDS
    assert owners > SEEDS


@pytest.mark.parametrize("broken", [ForgetsToList, ForgetsToVoid])
def test_a_writer_that_breaks_a_rule_is_caught(broken: type[LogWriter]) -> None:
    with pytest.raises(TruthError):
        run_all(broken)
