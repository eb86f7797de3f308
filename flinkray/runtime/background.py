"""Threads beside the mailbox: one for encoding and uploading, some for reading a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from flinkray.runtime.task_manager import Background

T = TypeVar("T")

READERS = 8
"""Requests to storage at the same time."""


class ThreadBackground(Background):
    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, f"flinkray-upload-{name}")
        self._readers = ThreadPoolExecutor(READERS, f"flinkray-read-{name}")

    def run(self, function: Callable[[], Any], done: Callable[[Any], None]) -> None:
        def work() -> None:
            try:
                result: Any = function()
            except Exception as error:  # noqa: BLE001 - handed to the mailbox, which decides
                result = error
            done(result)

        self._executor.submit(work)

    def start(self, function: Callable[[], T]) -> Callable[[], T]:
        return self._readers.submit(function).result

    def close(self) -> None:
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._executor.shutdown(wait=False, cancel_futures=True)
