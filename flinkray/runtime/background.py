"""One thread beside the mailbox, for encoding and uploading."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flinkray.runtime.task_manager import Background


class ThreadBackground(Background):
    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, f"flinkray-upload-{name}")

    def run(self, function: Callable[[], Any], done: Callable[[Any], None]) -> None:
        def work() -> None:
            try:
                result: Any = function()
            except Exception as error:  # noqa: BLE001 - handed to the mailbox, which decides
                result = error
            done(result)

        self._executor.submit(work)

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)
