"""flinkray on Ray; see `nexmark/measure.py` for what its seconds are. `checkpoints`: their interval, or null."""

from __future__ import annotations

from harness import Request, serve
from nexmark.measure import seconds
from nexmark.queries import NAMES, SUMS, query

QUERIES = (*NAMES, *SUMS)


def run(name: str, request: Request) -> tuple[float, int | None]:
    return seconds(query(name), request["files"], request["parallelism"], request["checkpoints"], request.get("runtime", "ray")), None


if __name__ == "__main__":
    serve(run, QUERIES)
