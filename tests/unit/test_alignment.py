"""Barrier alignment: each rule as a sentence."""

from __future__ import annotations

import pytest

from flinkray.columns import MAX_WATERMARK
from flinkray.core.alignment import AdvanceWatermark, Alignment, AllEnded, BecomeActive, BecomeIdle, TakeSnapshot
from flinkray.errors import ProtocolError


def test_a_snapshot_is_taken_when_the_barrier_came_through_every_channel() -> None:
    alignment = Alignment("ab")
    assert alignment.on_barrier("a", 1) == []
    assert alignment.blocked("a")
    assert not alignment.blocked("b")
    assert alignment.on_barrier("b", 1) == [TakeSnapshot(1)]
    assert not alignment.blocked("a")
    alignment.check_invariants()


def test_a_single_channel_never_blocks() -> None:
    alignment = Alignment("a")
    assert alignment.on_barrier("a", 1) == [TakeSnapshot(1)]
    assert not alignment.blocked("a")


def test_a_newer_barrier_ends_the_alignment_of_an_older_one() -> None:
    alignment = Alignment("ab")
    alignment.on_barrier("a", 1)
    assert alignment.on_barrier("b", 2) == []
    assert not alignment.blocked("a"), "a's barrier of 1 no longer holds it"
    assert alignment.blocked("b")
    assert alignment.on_barrier("a", 2) == [TakeSnapshot(2)]


def test_a_barrier_of_a_settled_checkpoint_is_passed_over() -> None:
    alignment = Alignment("ab")
    alignment.on_barrier("a", 2)
    alignment.on_barrier("b", 2)
    assert alignment.on_barrier("a", 1) == []
    assert not alignment.blocked("a")


def test_an_abort_releases_the_channels_and_its_late_barriers_are_passed_over() -> None:
    alignment = Alignment("ab")
    alignment.on_barrier("a", 1)
    alignment.abort(1)
    assert not alignment.blocked("a")
    assert alignment.on_barrier("b", 1) == []
    assert not alignment.blocked("b")
    alignment.check_invariants()


def test_an_abort_of_an_older_checkpoint_does_not_touch_the_one_being_aligned() -> None:
    alignment = Alignment("ab")
    alignment.on_barrier("a", 3)
    alignment.abort(2)
    assert alignment.blocked("a")
    assert alignment.on_barrier("b", 3) == [TakeSnapshot(3)]


def test_reading_a_blocked_channel_is_a_defect() -> None:
    alignment = Alignment("ab")
    alignment.on_barrier("a", 1)
    with pytest.raises(ProtocolError, match="blocked"):
        alignment.on_barrier("a", 1)


def test_the_watermark_is_the_smallest_of_all_channels_and_never_goes_back() -> None:
    alignment = Alignment("ab")
    assert alignment.on_watermark("a", 10, idle=False) == []
    assert alignment.on_watermark("b", 5, idle=False) == [AdvanceWatermark(5)]
    assert alignment.on_watermark("b", 4, idle=False) == []
    assert alignment.on_watermark("b", 20, idle=False) == [AdvanceWatermark(10)]


def test_an_idle_channel_does_not_hold_event_time_and_a_row_makes_it_count_again() -> None:
    alignment = Alignment("ab")
    alignment.on_watermark("a", 10, idle=False)
    assert alignment.on_watermark("b", 0, idle=True) == [AdvanceWatermark(10)]
    assert alignment.on_rows("b") == []
    assert alignment.on_watermark("a", 30, idle=False) == []
    assert alignment.on_watermark("b", 15, idle=False) == [AdvanceWatermark(15)]


def test_a_task_whose_inputs_are_all_idle_says_so_once() -> None:
    alignment = Alignment("ab")
    assert alignment.on_watermark("a", 0, idle=True) == []
    assert alignment.on_watermark("b", 0, idle=True) == [BecomeIdle()]
    assert alignment.on_watermark("b", 0, idle=True) == []


def test_a_task_that_becomes_idle_first_goes_as_far_as_any_of_its_siblings_may() -> None:
    """Found on two busy processes (1 of 1,651 runs of a window join that was aggregated again): readers without splits were idle for a moment,
    those with rows ended in another order here than at the task beside. This one became idle and still held a window, which the other's
    watermark (30, of an input that had ended) passed downstream: the window's row was late there, and lost."""
    alignment = Alignment("abcd")
    alignment.on_watermark("b", 0, idle=True)
    alignment.on_watermark("d", 0, idle=True)
    assert alignment.on_watermark("c", 30, idle=False) == []
    assert alignment.on_watermark("c", MAX_WATERMARK, idle=False) == []
    assert alignment.on_end("c") == []
    assert alignment.on_watermark("a", 9, idle=False) == [AdvanceWatermark(9)]
    assert alignment.on_watermark("a", MAX_WATERMARK, idle=False) == []
    assert alignment.on_end("a") == [AdvanceWatermark(30), BecomeIdle()]


def test_a_task_whose_last_active_channel_becomes_idle_goes_as_far_as_any_channel_had() -> None:
    alignment = Alignment("ab")
    alignment.on_watermark("a", 10, idle=False)
    assert alignment.on_watermark("b", 5, idle=False) == [AdvanceWatermark(5)]
    assert alignment.on_watermark("a", 0, idle=True) == []
    assert alignment.on_watermark("b", 0, idle=True) == [AdvanceWatermark(10), BecomeIdle()]


def test_an_idle_task_says_that_it_is_active_before_its_first_row() -> None:
    alignment = Alignment("ab")
    alignment.on_watermark("a", 10, idle=False)
    alignment.on_watermark("a", 0, idle=True)
    assert alignment.on_watermark("b", 0, idle=True) == [AdvanceWatermark(10), BecomeIdle()]
    assert alignment.on_rows("a") == [BecomeActive()]
    assert alignment.on_rows("a") == []
    assert alignment.on_watermark("a", 0, idle=True) == [BecomeIdle()]
    assert alignment.on_watermark("b", 4, idle=False) == [BecomeActive()], "no progress, but it counts again"


def test_an_ended_channel_holds_no_event_time_and_still_carries_barriers() -> None:
    alignment = Alignment("ab")
    alignment.on_watermark("a", 10, idle=False)
    assert alignment.on_end("b") == [AdvanceWatermark(10)]
    assert alignment.on_barrier("b", 1) == []
    assert alignment.on_barrier("a", 1) == [TakeSnapshot(1)]
    assert alignment.on_end("a") == [AllEnded()]
    assert alignment.on_end("a") == []


def test_the_end_of_one_input_is_not_the_end_of_time_while_another_is_idle() -> None:
    """Found in simulation (hot-items, swarm seed 107): after a restore a reader without splits was idle for a moment, a task that still held
    windows became idle with it, and the next task took the other's end for the end of time: those windows were late, and lost."""
    alignment = Alignment("ab")
    alignment.on_watermark("a", 10, idle=False)
    assert alignment.on_watermark("b", 0, idle=True) == [AdvanceWatermark(10)]
    assert alignment.on_watermark("a", MAX_WATERMARK, idle=False) == []
    assert alignment.on_end("a") == [BecomeIdle()]
    assert alignment.on_watermark("b", 50, idle=False) == [BecomeActive(), AdvanceWatermark(50)], "b had more to say"
    assert alignment.on_watermark("b", MAX_WATERMARK, idle=False) == [AdvanceWatermark(MAX_WATERMARK)]
    assert alignment.on_end("b") == [AllEnded()]
