"""Arrays within a budget of memory: which pages give way, that nothing is lost, and that nothing stays on disk."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flinkray.config import Resources
from flinkray.errors import ConfigError, ResourceError, SpillError
from flinkray.state import extents
from flinkray.state import memory as state_memory
from flinkray.state.extents import extent_of
from flinkray.state.growth import grown
from flinkray.state.memory import StateMemory, zeros
from flinkray.state.paging import PAGE, coldest, pages_between, pages_of, pages_of_pieces, runs, to_give_up, widened

MB = 1 << 20


@pytest.fixture
def budget(tmp_path: Path) -> Iterator[StateMemory]:
    """64 pages."""
    memory = StateMemory(64 * PAGE, str(tmp_path))
    state_memory.use(memory)
    yield memory
    state_memory.use(None)


# --- which pages


@given(st.lists(st.integers(0, 300), max_size=60), st.sampled_from([8, 24, 216, 4096]))
def test_the_pages_of_rows_hold_their_first_and_last_bytes(rows: list[int], row_bytes: int) -> None:
    given_rows = np.array(rows, np.int32)
    expected = {at // PAGE for row in rows for at in (row * row_bytes, row * row_bytes + row_bytes - 1)}
    assert pages_of(given_rows, row_bytes, 301 * row_bytes // PAGE + 1).tolist() == sorted(expected)


@given(st.sets(st.integers(0, 40)))
def test_runs_are_the_neighbours_among_pages(pages: set[int]) -> None:
    found = runs(np.array(sorted(pages), np.int64))
    assert [page for first, count in found for page in range(first, first + count)] == sorted(pages)
    assert all(first + count < after for (first, count), (after, _) in pairwise(found))


@given(st.sets(st.integers(0, 60)), st.integers(0, 4))
def test_pages_between_near_neighbours_are_read_with_them_and_others_are_not(pages: set[int], gap: int) -> None:
    ordered = sorted(pages)
    between = {page for first, after in pairwise(ordered) if after - first <= gap + 1 for page in range(first, after)}
    assert widened(np.array(ordered, np.int64), gap).tolist() == sorted(pages | between)


@given(st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 13_000)), max_size=20))
def test_the_pages_of_pieces_hold_all_of_their_bytes(pieces: list[tuple[int, int]]) -> None:
    starts, lengths = (np.array([piece[i] for piece in pieces], np.int64) for i in range(2))
    expected = {page for start, length in pieces if length for page in range(start // PAGE, (start + length - 1) // PAGE + 1)}
    assert pages_of_pieces(starts, lengths, 14).tolist() == sorted(expected)


def test_a_range_of_bytes_takes_every_page_it_touches() -> None:
    assert pages_between(0, 1).tolist() == [0]
    assert pages_between(PAGE - 1, PAGE + 1).tolist() == [0, 1]
    assert pages_between(PAGE, PAGE).tolist() == []


@given(st.lists(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=20), min_size=1, max_size=4), st.integers(0, 90))
def test_the_least_recently_used_give_way_whatever_file_they_are_of(files: list[list[tuple[int, bool]]], count: int) -> None:
    stamps = [np.array([stamp for stamp, _ in pages], np.int64) for pages in files]
    candidates = [np.array([resident for _, resident in pages], np.bool_) for pages in files]
    gone = coldest(stamps, candidates, count)
    assert sum(map(len, gone)) == min(count, sum(int(mask.sum()) for mask in candidates))
    left = [stamp[np.setdiff1d(np.flatnonzero(mask), pages)] for stamp, mask, pages in zip(stamps, candidates, gone, strict=True)]
    oldest_left = min((int(ages.min()) for ages in left if len(ages)), default=10)
    assert all(
        mask[pages].all() and (stamp[pages] <= oldest_left).all() for stamp, mask, pages in zip(stamps, candidates, gone, strict=True)
    )


def test_nothing_gives_way_while_everything_fits() -> None:
    assert to_give_up(resident=90, wanted=10, limit=100) == 0
    assert to_give_up(resident=90, wanted=11, limit=100) == 7  # 1 too many, and 6 for the next steps
    assert to_give_up(resident=5, wanted=200, limit=100) == 5


# --- arrays


def test_small_arrays_are_ordinary_memory_and_large_ones_files_without_names(budget: StateMemory, tmp_path: Path) -> None:
    assert extent_of(zeros(10, np.int64)) is None
    large = zeros((1000, 3), np.int64)
    assert extent_of(large) is not None
    assert extent_of(large[5:].T) is extent_of(large)
    assert large.shape == (1000, 3)
    assert not large.any()
    assert os.listdir(tmp_path) == []


def test_without_a_budget_arrays_are_what_they_were() -> None:
    array = zeros((MB, 2), np.int64)
    assert array.flags.owndata
    assert extent_of(grown(array, 2 * MB, 1)) is None


def test_an_array_grows_into_a_file_and_in_it_without_being_copied(budget: StateMemory) -> None:
    array = zeros(100, np.int64)
    array[:] = np.arange(100)
    array = grown(array, 10_000, 10_000)
    extent = extent_of(array)
    assert extent is not None
    array[:] = np.arange(10_000)
    before = array
    array = grown(array, 100_000, 100_000)
    assert extent_of(array) is extent
    assert array[:10_000].tolist() == list(range(10_000))
    assert not array[10_000:].any()
    array[7] = -7
    assert before[7] == -7, "one file, whatever its length is"


def test_the_budget_is_kept_and_nothing_is_lost(budget: StateMemory) -> None:
    array = zeros((64 * PAGE // 4, 2), np.int64)  # four times the budget
    numbers = np.arange(len(array))
    for seed in range(100):
        rows = np.random.default_rng(seed).integers(0, len(array), budget.rows_at_once)
        budget.touch(array, rows)
        array[rows, 0] = rows
        assert budget.resident_bytes() <= budget.budget_bytes
    for start in range(0, len(array), 4096):
        rows = numbers[start : start + 4096]
        budget.touch(array, rows)
        array[rows, 1] = rows
        assert budget.resident_bytes() <= budget.budget_bytes
    assert budget.given_up_bytes > budget.budget_bytes
    assert budget.spilled_bytes >= array.nbytes - budget.budget_bytes
    assert (array[:, 1] == numbers).all()
    assert ((array[:, 0] == 0) | (array[:, 0] == numbers)).all()
    budget.keep()
    assert budget.resident_bytes() <= budget.budget_bytes


def test_what_is_used_again_and_again_stays_in_memory(budget: StateMemory) -> None:
    hot, cold = zeros(8 * PAGE // 8, np.int64), zeros(640 * PAGE // 8, np.int64)
    for page in range(0, 640, 8):
        budget.touch(hot, np.arange(len(hot)))
        hot += 1
        rows = np.arange(page * PAGE // 8, (page + 8) * PAGE // 8)
        budget.touch(cold, rows)
        cold[rows] = 1
        extent = extent_of(hot)
        assert extent is not None
        assert extent.resident().all()
    assert (hot == 80).all()


def test_a_copy_drives_out_nothing_that_is_in_use(budget: StateMemory) -> None:
    hot, large = zeros(8 * PAGE // 8, np.int64), zeros((128 * PAGE // 16, 2), np.int64)
    for start in range(0, len(large), 512):
        budget.pass_over(large, start, start + 512)
        large[start : start + 512] = np.arange(start, start + 512)[:, None]
    budget.touch(hot, np.arange(len(hot)))
    hot[:] = 3
    copy = budget.copy(large)
    assert budget.resident_bytes() <= budget.budget_bytes
    extent = extent_of(hot)
    assert extent is not None
    assert extent.resident().all()
    assert np.array_equal(copy, large)
    some = np.arange(len(large) - 1, -1, -3)
    assert np.array_equal(budget.copy(large, some), large[some])


def test_disk_is_free_again_when_an_array_is_gone(budget: StateMemory) -> None:
    array = zeros(100_000, np.int64)
    view = array[50:]
    del array
    gc.collect()
    assert budget.disk_used_bytes >= view.nbytes
    del view
    gc.collect()
    assert budget.disk_used_bytes == 0


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6000)), min_size=1, max_size=12), st.integers(0, 1000))
def test_arrays_of_any_sizes_hold_what_was_written(steps: list[tuple[int, int]], seed: int) -> None:
    memory = StateMemory(16 * PAGE)
    state_memory.use(memory)
    try:
        random, arrays = np.random.default_rng(seed), [zeros(1, np.int64) for _ in range(4)]
        expected = [array.copy() for array in arrays]
        for which, more in steps:
            size = len(expected[which]) + more
            arrays[which] = memory.copy(grown(arrays[which], size, 1)) if more % 3 == 0 else grown(arrays[which].copy(), size, 1)
            expected[which] = np.concatenate([expected[which], np.zeros(len(arrays[which]) - len(expected[which]), np.int64)])
            rows = random.integers(0, size, memory.rows_at_once)
            memory.touch(arrays[which], rows)
            arrays[which][rows] = expected[which][rows] = random.integers(0, 1 << 60, len(rows))
            memory.keep()
            assert memory.resident_bytes() <= memory.budget_bytes
        for array, wanted in zip(arrays, expected, strict=True):
            assert np.array_equal(array, wanted)
    finally:
        state_memory.use(None)


# --- what goes wrong


def test_more_disk_than_allowed_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    memory = StateMemory(MB, str(tmp_path), disk_bytes=2 * MB)
    array = memory.zeros(MB // 8, np.int64)
    with pytest.raises(ResourceError, match="3 MiB of local disk, and 2 MiB are allowed; raise Resources"):
        memory.resized(array, 3 * MB // 8)
    assert len(memory.resized(array, 2 * MB // 8)) == 2 * MB // 8


def test_a_full_disk_is_an_error_and_not_a_signal(tmp_path: Path) -> None:
    memory = StateMemory(MB, str(tmp_path))
    with pytest.raises(ResourceError, match="spill_folder"):
        memory.zeros(shutil.disk_usage(tmp_path).total // 8, np.int64)


def test_what_the_disk_lost_is_an_error_from_then_on_and_never_a_wrong_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails is told once by the kernel, which forgets the page: what is read then is what was there before."""
    memory = StateMemory(64 * PAGE, str(tmp_path))
    array = memory.zeros((128 * PAGE // 8, 1), np.int64)
    with monkeypatch.context() as patch:
        patch.setattr(extents, "_sync_file_range", lambda *_: errno.EIO)
        array[:] = 1
        with pytest.raises(SpillError, match=f"{tmp_path}, was lost by the disk .*Input/output error.*newest checkpoint"):
            memory.keep()
    with pytest.raises(SpillError, match="was lost"):
        memory.keep()
    del array
    gc.collect()
    memory.keep()  # nobody has what was lost


def test_a_file_that_is_being_closed_is_not_looked_at_by_other_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that is finalized is still found in weak sets: `keep` of another thread then said of a closed file that it was lost."""
    memory = StateMemory(64 * PAGE, str(tmp_path))
    array = memory.zeros(128 * PAGE // 8, np.int64)
    close, during = os.close, []

    def slow_close(fd: int) -> None:
        close(fd)
        memory.keep()
        during.append(memory.disk_used_bytes)

    monkeypatch.setattr(os, "close", slow_close)
    del array
    gc.collect()
    assert during == [0]


def test_a_file_that_has_become_shorter_is_an_error(tmp_path: Path) -> None:
    memory = StateMemory(64 * PAGE, str(tmp_path))
    extent = extent_of(memory.zeros(128 * PAGE // 8, np.int64))
    assert extent is not None
    os.ftruncate(extent.fd, 100 * PAGE)
    assert len(extent.read(np.arange(90, 100))) == 10 * PAGE
    with pytest.raises(SpillError, match="a file ends at byte 409,600 of 524,288"):
        extent.read(np.arange(90, 101))


def test_a_limit_of_the_process_on_files_is_an_error_like_a_full_disk(tmp_path: Path) -> None:
    script = f"""
        import resource
        from flinkray.errors import SpillError
        from flinkray.state.memory import StateMemory
        memory = StateMemory(1 << 20, {str(tmp_path)!r})
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))
        array = memory.zeros(4 << 17, "i8")
        try:
            memory.resized(array, 8 << 17)
        except SpillError as error:
            array[-1] = 7
            print(error)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=True)
    assert f"cannot be kept in {tmp_path}: File too large; free disk there" in ended.stdout


def filled(memory: StateMemory, size: int) -> None:
    array, step = memory.zeros(size // 8, np.int64), 1 << 16
    for start in range(0, len(array), step):
        memory.pass_over(array, start, start + step)
        array[start : start + step] = start


@pytest.mark.slow
def test_a_disk_that_breaks_loses_no_value_without_a_word(tmp_path: Path) -> None:
    """A real one: a file system of 200 MB in a file for which there are only 24 MB. Needs root."""
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    inner.mkdir()
    outer.mkdir()
    commands = (
        f"mount -t tmpfs -o size=24m tmpfs {outer}",
        f"truncate -s 200M {outer}/image",
        f"mkfs.ext4 -q {outer}/image",
        f"mount -o loop {outer}/image {inner}",
    )
    try:
        for command in commands:
            if subprocess.run(command.split(), capture_output=True, check=False).returncode:
                pytest.skip(f"not allowed here: {command}")
        with pytest.raises(SpillError, match="was lost by the disk"):
            filled(StateMemory(4 * MB, str(inner)), 96 * MB)
        gc.collect()
    finally:
        for folder in (inner, outer):
            subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def test_a_folder_in_memory_or_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no folder on this node"):
        StateMemory(MB, str(tmp_path / "nowhere"))
    if os.path.isdir("/dev/shm"):
        with pytest.raises(ConfigError, match="is a tmpfs, which is memory"):
            StateMemory(MB, "/dev/shm")


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="state_memory_mb: 0 is under 1"):
        Resources(state_memory_mb=0)
    with pytest.raises(ConfigError, match="give that, too"):
        Resources(spill_folder="/x")


def test_nothing_stays_on_disk_after_a_kill(tmp_path: Path) -> None:
    script = f"""
        import os, signal
        import numpy as np
        from flinkray.state.memory import StateMemory
        array = StateMemory(1 << 20, {str(tmp_path)!r}).zeros(64 << 17, np.int64)
        array[::512] = 1
        print(os.statvfs({str(tmp_path)!r}).f_bfree, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == -9, ended.stderr
    assert os.listdir(tmp_path) == []
