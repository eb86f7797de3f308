"""Functions of two streams, against dictionaries: rows of both in any order, checkpoints on the way, restores at other parallelisms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from flinkray.graph.key_groups import subtask_of
from flinkray.operators.co_process import CoProcessOperator
from flinkray.state.key_hash import hash_keys, key_groups
from flinkray.testing.harness import OperatorHarness, restore
from tests.unit.test_co_process import GIVEN, LEFT, RIGHT, RULES, Limits, broadcast

Row = dict[str, Any]
USERS = st.one_of(st.none(), st.integers(0, 4))
FIRST = st.tuples(st.just(0), st.lists(st.tuples(USERS, st.integers(0, 9)), min_size=1, max_size=5))
RESTORE = st.tuples(st.just(2), st.integers(1, 3))
NAMES = st.sampled_from(["a", "b", "c"])


class Untimed(Limits):
    def process2(self, row: Row, ctx: Any) -> None:
        self.limit.value = row["limit"]


def untimed() -> CoProcessOperator:
    return CoProcessOperator(keys=["user"], right_keys=["who"], function=Untimed(), output_schema=GIVEN, side_schemas={})


class Subtasks:
    """Of one operator; rows go where a shuffle would send them."""

    def __init__(self, make: Callable[[], CoProcessOperator], right: pa.Schema) -> None:
        self._make, self._taken = make, 0
        self.all = [OperatorHarness(make(), input_schemas=[LEFT, right], output_schema=GIVEN)]

    def keyed(self, rows: Sequence[Row], key: str, schema: pa.Schema, side: int) -> None:
        groups = key_groups(hash_keys(pa.RecordBatch.from_pylist(list(rows), schema=schema), (key,), 7), 128).tolist()
        at = [subtask_of(group, 128, len(self.all)) for group in groups]
        for number, each in enumerate(self.all):
            each.rows([row for row, mine in zip(rows, at, strict=True) if mine == number], input=side)

    def broadcast(self, rows: Sequence[Row]) -> None:
        for each in self.all:
            each.rows(rows, input=1)

    def restore(self, parallelism: int) -> None:
        self._taken += 1
        self.all = restore(self._make, [each.snapshot(self._taken) for each in self.all], parallelism)

    def told(self) -> list[tuple[Any, str]]:
        return sorted(((each["user"], each["text"]) for one in self.all for each in one.output_rows()), key=str)


@settings(max_examples=80, deadline=None)
@given(
    story=st.lists(
        st.one_of(FIRST, st.tuples(st.just(1), st.lists(st.tuples(USERS, st.integers(0, 9)), min_size=1, max_size=4)), RESTORE), max_size=12
    )
)
def test_rows_of_one_stream_see_what_the_other_has_left(story: list[Any]) -> None:
    driven, limits = Subtasks(untimed, RIGHT), dict[Any, int]()
    for what, value in story:
        expected = []
        if what == 2:
            driven.restore(value)
        elif what == 1:
            limits |= dict(value)
            driven.keyed([{"who": who, "limit": limit} for who, limit in value], "who", RIGHT, 1)
        else:
            expected = [(user, f"{n} > {limits[user]}") for user, n in value if user in limits and n > limits[user]]
            driven.keyed([{"user": user, "n": n} for user, n in value], "user", LEFT, 0)
        assert driven.told() == sorted(expected, key=str)


@settings(max_examples=80, deadline=None)
@given(
    story=st.lists(
        st.one_of(
            FIRST,
            st.tuples(st.just(1), st.lists(st.tuples(NAMES, st.one_of(st.none(), st.integers(0, 9))), min_size=1, max_size=3)),
            RESTORE,
        ),
        max_size=12,
    )
)
def test_every_row_sees_the_rules_that_were_broadcast_before_it(story: list[Any]) -> None:
    driven, rules, seen = Subtasks(broadcast, RULES), dict[str, int](), dict[Any, int]()
    for what, value in story:
        expected = []
        if what == 2:
            driven.restore(value)
        elif what == 1:
            given = [(name, limit) for name, limit in dict(value).items() if limit is not None or name in rules]
            for name, limit in given:
                rules.pop(name, None) if limit is None else rules.update({name: limit})
            driven.broadcast([{"name": name, "limit": limit} for name, limit in given])
        else:
            for user, n in value:
                seen[user] = seen.get(user, 0) + 1
                expected.append((user, f"{seen[user]}: {','.join(sorted(name for name, limit in rules.items() if n > limit))}"))
            driven.keyed([{"user": user, "n": n} for user, n in value], "user", LEFT, 0)
        assert driven.told() == sorted(expected, key=str)
