"""Waiting for a job in the foreground: a live line on a terminal, plain lines elsewhere, and a clean end on Ctrl-C or SIGTERM."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TextIO

from flinkray.api.job_handle import JobHandle, JobResult
from flinkray.api.notebook import Drawing, progress_html, shell
from flinkray.errors import FlinkrayError, JobCancelledError, WaitTimeoutError

Style = Literal["live", "plain", "off"]

VARIABLE = "FLINKRAY_PROGRESS"
REFRESH_S = 0.25
PLAIN_INTERVAL_S = 5.0
CANCEL_WAIT_S = 30.0
ANSWER_LOOK_S = 0.1


class Terminated(KeyboardInterrupt):
    """SIGTERM: `ray job stop` gives three seconds."""


def style_from_environment() -> Style:
    """`FLINKRAY_PROGRESS`, as `flinkray run` sets it; off for a plain script."""
    value = os.environ.get(VARIABLE, "off")
    return value if value in ("live", "plain") else "off"  # type: ignore[return-value]


def wait_with_progress(handle: JobHandle, style: Style | None = None) -> JobResult:
    """Wait for the end, showing how far the job is. An interrupt asks once (on a terminal), cancels, waits for the end, and goes on as
    an interrupt. Raises what `handle.wait` raises."""
    view = NotebookView(handle) if style is None and shell() is not None else View(handle, style or style_from_environment())
    with _terminable():
        while True:
            try:
                result = _step(handle, view)
            except KeyboardInterrupt as interrupt:
                result = _on_interrupt(handle, view, interrupt)
            except FlinkrayError:  # how the job ended
                view.finish()
                raise
            if result is not None:
                view.finish()
                return result


def _step(handle: JobHandle, view: View) -> JobResult | None:
    """Wait a moment; None: the job goes on."""
    try:
        return handle.wait(timeout=REFRESH_S)
    except WaitTimeoutError:
        view.show()
        return None


def _on_interrupt(handle: JobHandle, view: View, interrupt: KeyboardInterrupt) -> JobResult | None:
    """None: the job goes on. A result: it had ended by itself before it could be cancelled."""
    view.pause()
    if not isinstance(interrupt, Terminated) and sys.stdin.isatty() and sys.stderr.isatty() and not _ask(handle.name):
        return None
    handle.cancel()
    try:
        return handle.wait(timeout=CANCEL_WAIT_S)
    except JobCancelledError:
        view.finish()
        print(f"job {handle.name} is cancelled; its checkpoints are kept", file=sys.stderr)
    raise interrupt


def _ask(name: str) -> bool:
    """True when the person means it; a second Ctrl-C means it too, also one that comes before the answer is waited for (a read that has begun
    just after the signal came would not end with it, so the wait is in turns)."""
    try:
        print(f"\ncancel job {name}? [y/N] ", end="", file=sys.stderr, flush=True)
        while not select.select([sys.stdin], [], [], ANSWER_LOOK_S)[0]:
            pass
        answer = sys.stdin.readline()
    except KeyboardInterrupt:
        return True
    return answer == "" or answer.strip().lower() in ("y", "yes")


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM interrupts the wait like Ctrl-C. Only the main thread may install handlers; after ray.init(), which sets its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminated(number: int, frame: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def say_detached(name: str) -> None:
    """With `flinkray run --detach`: where to look from now on."""
    if style_from_environment() != "off":
        print(f"job {name} is submitted and goes on by itself; see: flinkray status {name}", file=sys.stderr)


class View:
    """Prints the job's own lines as they come, and a line with figures: rewritten on a terminal, now and then elsewhere."""

    def __init__(self, handle: JobHandle, style: Style, stream: TextIO | None = None) -> None:
        self._handle = handle
        self._style = style
        self._stream = stream or sys.stderr
        self._heard = 0
        self._last: tuple[float, int] | None = None
        self._rate = 0.0
        self._next_plain = 0.0
        self._drawn = False

    def show(self) -> None:
        if self._style == "off":
            return
        self._print_lines()
        now = time.monotonic()
        if self._style == "plain" and now < self._next_plain:
            return
        self._next_plain = now + PLAIN_INTERVAL_S
        line = self._figures(self._handle.status(), now)
        if self._style == "live":
            self._stream.write(f"\r\x1b[2K{line}")
            self._drawn = True
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

    def pause(self) -> None:
        """Leave the live line where it is."""
        if self._drawn:
            self._stream.write("\n")
            self._stream.flush()
        self._drawn = False

    def finish(self) -> None:
        if self._style == "off":
            return
        self._print_lines()
        line = self._figures(self._handle.status(), time.monotonic())
        self._stream.write(f"\r\x1b[2K{line}\n" if self._style == "live" else line + "\n")
        self._stream.flush()

    @property
    def figures(self) -> str:
        return self._figures(self._handle.status(), time.monotonic())

    def _print_lines(self) -> None:
        lines = getattr(self._handle, "lines", None)
        for line in lines(self._heard) if lines is not None else ():
            self._heard = line.number
            clear = "\r\x1b[2K" if self._drawn else ""
            self._stream.write(f"{clear}{line.at[11:23]} {line.text}\n")

    def _figures(self, status: dict[str, Any], now: float) -> str:
        rows = status["records_in"]
        if self._last is not None and now > self._last[0]:
            self._rate = max(0.0, (rows - self._last[1]) / (now - self._last[0]))
        self._last = (now, rows)
        checkpoints = status["checkpoints"]
        age_ms = checkpoints["latest_age_ms"]
        latest = f"{checkpoints['latest_id']} ({age_ms / 1e3:.1f} s ago)" if checkpoints["latest_id"] and age_ms is not None else "none yet"
        parts = [
            status["status"],
            f"in {rows:,}",
            f"out {status['records_out']:,}",
            f"{self._rate:,.0f} rows/s",
            f"watermark {(status['watermark'] or '-')[:23]}",
            f"checkpoint {latest}",
            f"restarts {status['restarts']}",
        ]
        if status.get("waiting_for"):
            parts.append(f"waiting for {status['waiting_for']}")
        return " | ".join(parts)


class NotebookView(View):
    """A bar and figures below the cell."""

    def __init__(self, handle: JobHandle) -> None:
        super().__init__(handle, "off")
        self._drawing = Drawing()

    def show(self) -> None:
        self._drawing.draw(progress_html(self.figures, ended=False))

    def finish(self) -> None:
        self._drawing.draw(progress_html(self.figures, ended=True))
