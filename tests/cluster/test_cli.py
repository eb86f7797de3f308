"""`flinkray run` and the commands that look at a job from another terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import pytest

from tests.cluster.command_line import (
    ENDLESS,
    READ_ONLY_LIMIT_S,
    command,
    environment,
    flinkray,
    in_background,
    nothing_is_left_in_the_cluster,
    nothing_is_left_running,
    status,
    until,
    until_in_cluster,
    until_running,
    write_script,
)

pytestmark = pytest.mark.cluster

FIGURES = re.compile(r"^(\w+) \| in [\d,]+ \| out [\d,]+ \| [\d,]+ rows/s \| watermark \S+ \| checkpoint .+ \| restarts \d+", re.MULTILINE)

SHORT = ENDLESS.replace("100_000_000, rate=5_000", "10_000")


@pytest.fixture
def endless(tmp_path: Path) -> str:
    return write_script(tmp_path, "endless", ENDLESS)


# -- run --------------------------------------------------------------------------------------------------------------


def test_run_prints_plain_lines_and_ends_with_exit_code_0(tmp_path: Path) -> None:
    answer = flinkray("run", write_script(tmp_path, "short", SHORT), "--runtime", "local", "--name", "short")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == "FINISHED\n", "only what the script prints"
    assert FIGURES.findall(answer.stderr)[-1] == "FINISHED"
    assert "in 10,000" in answer.stderr
    assert "\x1b" not in answer.stderr, "no terminal, no control characters"
    document = status("short")
    assert (document["status"], document["records_in"], document["stale_ms"]) == ("FINISHED", 10_000, 0)


def test_the_scripts_own_arguments_and_exit_code_are_its_own(tmp_path: Path) -> None:
    script = write_script(tmp_path, "arguments", "import sys\nprint(sys.argv[1:])\nsys.exit(int(sys.argv[2]))\n")
    answer = flinkray("run", script, "--parallelism", "2", "--", "--parallelism", "7")
    assert (answer.stdout, answer.returncode) == ("['--parallelism', '7']\n", 7)


def test_a_script_that_is_not_there_is_wrong_usage() -> None:
    answer = flinkray("run", "nowhere.py")
    assert answer.returncode == 2
    assert "nowhere.py: no such file" in answer.stderr


# -- from another terminal --------------------------------------------------------------------------------------------


def test_list_status_and_cancel_from_another_terminal(tmp_path: Path, endless: str) -> None:
    with in_background(tmp_path, "run", endless, "--runtime", "local") as run:
        until_running("endless")
        check_running("endless")
        assert "endless: RUNNING (attempt 1, restarts 0)" in timely("status", "endless").stdout
        assert re.search(r"^endless +RUNNING ", timely("list").stdout, re.MULTILINE)
        assert [job["name"] for job in json.loads(timely("list", "--json").stdout)] == ["endless"]
        cancelled = flinkray("cancel", "endless")
        assert (cancelled.stdout, cancelled.returncode) == ("job endless: CANCELLED\n", 0)
        assert run.wait(20) == 1
    assert "flinkray: job endless was cancelled" in (tmp_path / "stderr").read_text()
    assert status("endless")["status"] == "CANCELLED"
    again = flinkray("cancel", "endless")
    assert (again.stdout, again.returncode) == ("job endless has ended already: CANCELLED\n", 0)
    nothing_is_left_running()


def test_the_same_while_run_itself_has_started_the_local_ray(tmp_path: Path, endless: str) -> None:
    with in_background(tmp_path, "run", endless) as run:
        until_running("endless")
        check_running("endless")
        frozen_leader_is_told_by_age()
        cancelled = flinkray("cancel", "endless")
        assert (cancelled.stdout, cancelled.returncode) == ("job endless: CANCELLED\n", 0), cancelled.stderr
        assert run.wait(30) == 1
    assert status("endless")["status"] == "CANCELLED"
    nothing_is_left_running()


def frozen_leader_is_told_by_age() -> None:
    """A JobManager that does not answer: its last words, and how old they are, within the limit of every read-only command."""
    pid = status("endless")["leader"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(2.2)
        document = status("endless")
        assert (document["status"], document["stale_ms"] >= 2_000) == ("RUNNING", True)
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: status("endless")["stale_ms"] < 2_000, "the leader to go on")


def check_running(name: str, **more: str) -> None:
    """The first windows are out, and the document holds what the contract says it holds at least."""
    document = until(lambda: (known := status(name, **more))["records_out"] and known, "the first windows")
    assert {"name", "status", "attempt", "restarts", "stale_ms", "leader", "standbys", "task_managers", "checkpoints"} <= document.keys()
    assert {"records_in", "records_out", "late_rows", "skipped_rows", "dead_letter_rows", "watermark", "timing"} <= document.keys()
    assert {"epoch", "pid", "node_id", "zone"} <= document["leader"].keys()
    active = [tm for tm in document["task_managers"] if tm["role"] == "active"]
    assert active
    assert {"id", "pid", "node_id", "zone", "role", "tasks"} <= active[0].keys()
    assert active[0]["tasks"]
    checkpoints = document["checkpoints"]
    assert {
        "completed",
        "failed",
        "latest_id",
        "latest_duration_ms",
        "latest_sync_ms",
        "latest_bytes",
        "latest_age_ms",
    } <= checkpoints.keys()
    assert checkpoints["completed"] >= 1
    assert (document["status"], document["attempt"], document["restarts"]) == ("RUNNING", 1, 0)
    assert document["records_in"] > document["records_out"] > 0
    assert document["watermark"].endswith("Z")
    timing = document["timing"]
    moments = [datetime.fromisoformat(timing[name]) for name in ("submitted_at", "running_at", "first_row_at")]
    assert moments == sorted(moments)
    assert timing["finished_at"] is None


def timely(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    asked_at = time.monotonic()
    answer = flinkray(*arguments, **more)
    assert answer.returncode == 0, answer.stderr
    assert time.monotonic() - asked_at < READ_ONLY_LIMIT_S
    return answer


def test_a_run_that_was_killed_is_told_as_gone(tmp_path: Path, endless: str) -> None:
    with in_background(tmp_path, "run", endless, "--runtime", "local") as run:
        until_running("endless")
        run.kill()
        run.wait()
    assert "is gone; start the job again to go on" in status("endless")["waiting_for"]
    assert "(gone)" in timely("list").stdout
    answer = flinkray("cancel", "endless")
    assert answer.returncode == 2
    assert "is not running" in answer.stderr


@pytest.mark.parametrize("arguments", [("status", "nobody"), ("cancel", "nobody"), ("status", "../etc")])
def test_a_job_that_nobody_knows_is_wrong_input(arguments: tuple[str, ...]) -> None:
    answer = flinkray(*arguments)
    assert answer.returncode == 2
    assert "flinkray list" in answer.stderr


# -- interrupts -------------------------------------------------------------------------------------------------------


def test_sigterm_cancels_cleanly(tmp_path: Path, endless: str) -> None:
    with in_background(tmp_path, "run", endless, "--runtime", "local") as run:
        until_running("endless")
        run.send_signal(signal.SIGTERM)
        assert run.wait(20) == 143
    cancelled_cleanly((tmp_path / "stderr").read_text())


def test_an_interrupt_away_from_a_terminal_cancels_at_once(tmp_path: Path, endless: str) -> None:
    with in_background(tmp_path, "run", endless, "--runtime", "local") as run:
        until_running("endless")
        run.send_signal(signal.SIGINT)
        assert run.wait(20) == 130
    cancelled_cleanly((tmp_path / "stderr").read_text())


def cancelled_cleanly(said: str) -> None:
    assert "job endless is cancelled; its checkpoints are kept" in said
    assert "Traceback" not in said
    assert status("endless")["status"] == "CANCELLED"
    nothing_is_left_running()


class Terminal:
    """What a command shows on a terminal, and the keys that a person presses."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process = process
        self.shown = ""
        self._descriptor = descriptor

    def press(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())

    def see(self, text: str, times: int = 1) -> None:
        def seen() -> bool:
            with suppress(OSError):  # nothing new, or the process has closed it
                self.shown += os.read(self._descriptor, 65536).decode(errors="replace")
            return self.shown.count(text) >= times

        until(seen, f"{text!r} on the terminal", timeout_s=30)


@contextmanager
def terminal(*arguments: str) -> Iterator[Terminal]:
    controller, terminal_side = pty.openpty()
    os.set_blocking(controller, False)
    process = subprocess.Popen(
        command(*arguments), stdin=terminal_side, stdout=terminal_side, stderr=terminal_side, env=environment(), start_new_session=True,
        preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(terminal_side)
    try:
        yield Terminal(process, controller)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(controller)


def test_ctrl_c_on_a_terminal_asks_and_then_cancels_cleanly(endless: str) -> None:
    with terminal("run", endless, "--runtime", "local") as screen:
        screen.see("RUNNING | in ", times=2)
        assert "\r\x1b[2KRUNNING" in screen.shown, "the line is rewritten"
        screen.press("\x03")
        screen.see("cancel job endless? [y/N]")
        screen.press("n\n")
        lines = screen.shown.count("RUNNING | in ")
        screen.see("RUNNING | in ", times=lines + 2)
        screen.press("\x03")
        screen.see("cancel job endless? [y/N]", times=2)
        screen.press("y\n")
        screen.see("job endless is cancelled; its checkpoints are kept")
        assert screen.process.wait(20) == 130
    assert status("endless")["status"] == "CANCELLED"
    nothing_is_left_running()


def test_a_second_ctrl_c_means_it(endless: str) -> None:
    with terminal("run", endless, "--runtime", "local") as screen:
        screen.see("RUNNING | in ")
        screen.press("\x03")
        screen.see("cancel job endless? [y/N]")
        screen.press("\x03")
        screen.see("job endless is cancelled; its checkpoints are kept")
        assert screen.process.wait(20) == 130
        assert "Traceback" not in screen.shown
    nothing_is_left_running()


# -- on a cluster that is there ---------------------------------------------------------------------------------------


def test_a_detached_job_goes_on_without_its_driver_and_is_found_through_the_cluster(
    tmp_path: Path, endless: str, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    cluster = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    answer = flinkray("run", endless, "--name", "detached", "--storage", f"file://{tmp_path}/storage", "--detach", **cluster)
    assert answer.returncode == 0, answer.stderr
    assert "job detached is submitted and goes on by itself; see: flinkray status detached" in answer.stderr
    until_in_cluster(cluster["RAY_ADDRESS"], "detached", "RUNNING", checkpoints=1)
    assert status("detached")["checkpoints"]["completed"] >= 1, "RAY_ADDRESS is not needed where it was started"
    monkeypatch.setenv("FLINKRAY_HOME", str(tmp_path / "elsewhere"))
    check_running("detached", **cluster)
    assert re.search(r"^detached +RUNNING ", timely("list", **cluster).stdout, re.MULTILINE)
    second = flinkray("run", endless, "--name", "detached", "--storage", f"file://{tmp_path}/storage", **cluster)
    assert second.returncode == 2
    assert "a job named 'detached' is running" in second.stderr
    cancelled = flinkray("cancel", "detached", **cluster)
    assert (cancelled.stdout, cancelled.returncode) == ("job detached: CANCELLED\n", 0), cancelled.stderr
    assert status("detached", **cluster)["status"] == "CANCELLED"


def test_a_driver_that_is_killed_takes_its_job_with_it(tmp_path: Path, endless: str, ray_cluster: None) -> None:
    import ray

    cluster = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    with in_background(tmp_path, "run", endless, "--name", "orphan", "--storage", f"file://{tmp_path}/storage", **cluster) as run:
        until(lambda: "RUNNING | in " in (tmp_path / "stderr").read_text(), "the job to run")
        run.kill()
        run.wait()
    until_in_cluster(cluster["RAY_ADDRESS"], "orphan", "CANCELLED")
    nothing_is_left_in_the_cluster("orphan")


@pytest.mark.parametrize("arguments", [("--runtime", "local"), ("--runtime", "ray")])
def test_detach_without_a_cluster_that_stays_is_wrong_usage(endless: str, arguments: tuple[str, ...]) -> None:
    answer = flinkray("run", endless, "--detach", *arguments)
    assert answer.returncode == 2
    assert "--detach" in answer.stderr
    assert "RAY_ADDRESS" in answer.stderr


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_doctor_says_what_works_and_what_would_not_be_survived() -> None:
    answer = flinkray("doctor")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    for name in ("python", "ray", "kernels", "storage", "exchange"):
        assert re.search(rf"^ok +{name} ", answer.stdout, re.MULTILINE), answer.stdout
    assert re.search(r"^note +this host's death ", answer.stdout, re.MULTILINE)
    assert "\n0 broken, " in answer.stdout


def test_doctor_names_what_is_broken(tmp_path: Path) -> None:
    home = tmp_path / "file"
    home.write_text("no folder")
    answer = flinkray("doctor", FLINKRAY_HOME=str(home))
    assert answer.returncode == 1
    assert re.search(r"^broken +home .*set FLINKRAY_HOME", answer.stdout, re.MULTILINE)


def test_a_generated_key_is_private_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "app.key"
    assert flinkray("keys", "generate", str(path)).returncode == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    again = flinkray("keys", "generate", str(path))
    assert again.returncode == 2
    assert str(path) in again.stderr
    assert path.read_bytes() == before
