"""`import flinkray` costs nearly nothing, and describing a job loads neither ray nor numba."""

from __future__ import annotations

import subprocess
import sys

import pytest

import flinkray as fr

HEAVY = ("ray", "numba", "polars", "duckdb", "zmq")
"""Not pandas: where it is installed, pyarrow loads it by itself when it is given Python lists."""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def test_import_is_fast_and_loads_nothing_heavy():
    code = f"""
import sys, time
started = time.process_time()
import flinkray
seconds = time.process_time() - started
print(seconds, [name for name in {HEAVY!r} + ("pyarrow",) if name in sys.modules])
"""
    seconds, loaded = run(code).split(" ", 1)
    assert float(seconds) < 0.5
    assert loaded == "[]"


def test_every_public_name_is_there_without_ray_and_numba():
    code = f"""
import sys, flinkray
for name in flinkray.__all__:
    getattr(flinkray, name)
from flinkray import sources, sinks
for module in (sources, sinks):
    for name in module.__all__:
        getattr(module, name)
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    assert run(code) == "[]"


def test_describing_and_planning_a_job_loads_neither_ray_nor_numba():
    code = f"""
import sys, flinkray as fr
import pyarrow as pa
env = fr.StreamEnvironment("test", runtime="local")
rows = env.from_batches([pa.record_batch({{"k": [1], "t": pa.array([0], pa.int64())}})], watermark=fr.Watermarks.monotonous("t"))
rows.filter(fr.col("k") > 0).key_by("k").window(fr.windows.Tumbling("1s")).aggregate(n=fr.agg.count()).print()
env.explain()
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    assert run(code) == "[]"


def test_the_public_surface_is_what_all_says():
    assert set(fr.__all__) == set(dir(fr))
    assert len(fr.__all__) == len(set(fr.__all__))
    errors = [name for name in fr.__all__ if isinstance(getattr(fr, name), type) and issubclass(getattr(fr, name), fr.FlinkrayError)]
    import flinkray.errors

    assert set(errors) == {name for name in vars(flinkray.errors) if name.endswith("Error")}


def test_a_name_that_is_not_there_is_said():
    with pytest.raises(AttributeError, match="Streams"):
        fr.Streams  # noqa: B018
    with pytest.raises(AttributeError, match=r"there are: .*Parquet"):
        fr.sources.Kafka  # noqa: B018
    with pytest.raises(AttributeError, match="Blackhole"):
        fr.sinks.Kafka  # noqa: B018
