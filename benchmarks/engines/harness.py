"""What the scripts of the engines share; imports nothing that an engine's own environment might not have."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

Request = dict[str, Any]


def request() -> Request:
    given: Request = json.loads(sys.argv[1])
    return given


def read(paths: list[str]) -> None:
    """The page cache holds the files then: a disk is not what is compared, and an engine that runs for longer should not find less there."""
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 20):
                pass


def serve(run: Callable[[str, Request], tuple[float, int | None]], queries: Any) -> None:
    """Runs what is asked for; `run` gives seconds and how many rows the answer had."""
    asked = request()
    paths = [path for stream in asked["files"].values() for path in stream]
    for query in asked["queries"]:
        if query not in queries:
            continue
        try:
            for _ in range(asked.get("warmups", 0)):
                run(query, asked)
            runs = []
            for _ in range(asked["repeat"]):
                read(paths)
                runs.append(run(query, asked))
        except Exception as error:  # noqa: BLE001 - whatever an engine raises is its answer to this query
            traceback.print_exc()
            print(json.dumps({"query": query, "error": f"{type(error).__name__}: {error}"[:300]}), flush=True)
            continue
        print(json.dumps({"query": query, "seconds": [seconds for seconds, _ in runs], "rows": runs[-1][1]}), flush=True)
