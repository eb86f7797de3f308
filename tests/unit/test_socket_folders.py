"""Folders of sockets: what a killed process leaves is deleted, what a living one uses is not."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flinkray.exchange.socket_folders import SocketFolder, sweep

HOLD = """
import os, sys
from flinkray.exchange.socket_folders import SocketFolder
folder = SocketFolder("0123456789abcdef", sys.argv[1])
os.makedirs(folder.path)
open(os.path.join(folder.path, "socket"), "w").close()
print(folder.path, flush=True)
sys.stdin.read()
"""


def test_what_a_killed_process_leaves_is_swept_and_what_a_living_one_uses_is_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        path = process.stdout.readline().strip()
        sweep(str(tmp_path))
        assert os.listdir(path) == ["socket"]
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    sweep(str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_swept_between_its_making_and_its_locking_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swept = []
    lock = fcntl.flock

    def sweep_first(descriptor: int, how: int) -> None:
        if not swept:
            swept.append(descriptor)
            os.unlink(tmp_path / "0123456789ab.lock")
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    folder = SocketFolder("0123456789abcdef", str(tmp_path))
    os.makedirs(folder.path)
    sweep(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["0123456789ab", "0123456789ab.lock"]


def test_a_process_that_leaves_takes_its_folder_with_it(tmp_path: Path) -> None:
    folder = SocketFolder("0123456789abcdef", str(tmp_path))
    os.makedirs(folder.path)
    folder.remove()
    assert os.listdir(tmp_path) == []


def test_without_any_folder_there_is_nothing_to_sweep(tmp_path: Path) -> None:
    sweep(str(tmp_path / "none"))
    assert not (tmp_path / "none").exists(), "nor is one made"
