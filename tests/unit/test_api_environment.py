"""The environment: names, options that override the code, running and collecting."""

from __future__ import annotations

import asyncio
import json
import sys
import types

import pyarrow as pa
import pytest
from plan_fakes import FakeSink, FakeSource, operator

import flinkray as fr
from flinkray.api import collect as collecting
from flinkray.api.environment import script_stem
from flinkray.api.run_options import VARIABLE, RunOptions

FINISHED = {
    "status": "FINISHED",
    "restarts": 1,
    "records_in": 10,
    "records_out": 4,
    "timing": {
        "submitted_at": "2024-01-01T00:00:00.000000Z",
        "running_at": "2024-01-01T00:00:01.000000Z",
        "first_row_at": "2024-01-01T00:00:02.500000Z",
        "finished_at": None,
    },
}


class FakeHandle(fr.JobHandle):
    """A job that has ended, or that is interrupted while somebody waits for it."""

    def __init__(self, table=None, interrupted=False):
        self.table, self.interrupted, self.cancelled = table, interrupted, False

    @property
    def name(self):
        return "fake"

    def status(self):
        return FINISHED

    def wait(self, timeout=None):
        if self.cancelled:
            raise fr.JobCancelledError("cancelled")
        if self.interrupted:
            raise KeyboardInterrupt
        return fr.JobResult.from_status(FINISHED)

    def metrics(self):
        return {}

    def checkpoints(self):
        return []

    def _ask(self, request, what, arguments):
        return {"name": arguments["name"]}, None

    def cancel(self):
        self.cancelled = True

    def results(self, uid):
        self.asked = uid
        return self.table


@pytest.fixture
def submitted(monkeypatch):
    """Jobs that were submitted, as (graph, config); `submitted.handle` is what the next one gets."""
    jobs = types.SimpleNamespace(all=[], handle=FakeHandle())

    def submit(graph, config, sinks=()):
        jobs.all.append((graph, config))
        return jobs.handle

    module = types.ModuleType("flinkray.runtime.submit")
    module.submit = submit
    monkeypatch.setitem(sys.modules, "flinkray.runtime.submit", module)
    return jobs


def test_defaults_are_those_of_the_contract(monkeypatch):
    monkeypatch.delenv("FLINKRAY_RUNTIME", raising=False)
    config = fr.StreamEnvironment("test").config
    assert (config.parallelism, config.max_parallelism, config.runtime) == (1, 128, "ray")
    assert config.checkpointing.interval == "10s"
    assert config.resources.spare_task_managers == 1


def test_the_runtime_comes_from_the_code_else_from_the_environment(monkeypatch):
    monkeypatch.setenv("FLINKRAY_RUNTIME", "local")
    assert fr.StreamEnvironment("test").config.runtime == "local"
    assert fr.StreamEnvironment("test", runtime="ray").config.runtime == "ray"


def test_a_job_without_a_name_is_called_like_its_script(monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/home/me/jobs/hot items.py", raising=False)
    assert fr.StreamEnvironment().config.name == "hot-items"
    monkeypatch.delattr(sys.modules["__main__"], "__file__")
    assert script_stem() == "notebook"


def test_options_of_flinkray_run_override_the_code(monkeypatch):
    options = RunOptions(
        name="other", parallelism=4, runtime="local", storage="file:///elsewhere", checkpoint_interval="1s", restore="none", detach=True
    )
    monkeypatch.setenv(VARIABLE, options.to_json())
    config = fr.StreamEnvironment("test", parallelism=2, runtime="ray", checkpointing=fr.Checkpointing(retained=7)).config
    assert (config.name, config.parallelism, config.runtime, config.restore, config.detached) == ("other", 4, "local", "none", True)
    assert config.checkpointing == fr.Checkpointing("1s", "file:///elsewhere", retained=7)


def test_options_that_were_not_given_leave_the_code_alone(monkeypatch):
    plain = fr.StreamEnvironment("test", runtime="local").config
    monkeypatch.setenv(VARIABLE, "{}")
    assert fr.StreamEnvironment("test", runtime="local").config == plain


@pytest.mark.parametrize("text", ["{", "[1]", '{"paralelism": 3}'])
def test_options_that_cannot_be_read_are_an_error(monkeypatch, text):
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(fr.ConfigError, match=VARIABLE):
        fr.StreamEnvironment("test")


@pytest.mark.parametrize(
    "wrong", [{"name": "a/b"}, {"parallelism": 0}, {"parallelism": 129}, {"runtime": "spark"}, {"batch_rows": 0}], ids=str
)
def test_a_configuration_that_cannot_be_used_is_refused(wrong):
    with pytest.raises(fr.ConfigError):
        fr.StreamEnvironment(**{"name": "test", **wrong})


def test_execute_submits_all_sinks_as_one_job_and_gives_its_result(submitted):
    env = fr.StreamEnvironment("test", parallelism=2, runtime="local")
    stream = env.from_source(FakeSource(), uid="in")
    stream.sink_to(FakeSink(), uid="a")
    stream.sink_to(FakeSink(), uid="b")
    result = env.execute()
    ((graph, config),) = submitted.all
    assert {"a", "b"} <= set(graph.uids())
    assert config == env.config
    assert (result.status, result.records_in, result.records_out, result.restarts) == ("FINISHED", 10, 4, 1)
    assert (result.first_row_at - result.started_at).total_seconds() == 1.5
    assert result.finished_at is None


def test_sinks_run_once(submitted):
    env = fr.StreamEnvironment("test", runtime="local")
    env.from_source(FakeSource()).sink_to(FakeSink())
    env.execute_async()
    with pytest.raises(fr.PlanError, match="nothing to run"):
        env.execute()


def test_an_interrupt_cancels_the_job(submitted):
    submitted.handle = FakeHandle(interrupted=True)
    env = fr.StreamEnvironment("test", runtime="local")
    env.from_source(FakeSource()).sink_to(FakeSink())
    with pytest.raises(KeyboardInterrupt):
        env.execute()
    assert submitted.handle.cancelled


def test_a_detached_job_is_not_waited_for(submitted, monkeypatch):
    monkeypatch.setenv(VARIABLE, json.dumps({"detach": True}))
    submitted.handle = FakeHandle(interrupted=True)
    env = fr.StreamEnvironment("test", runtime="local")
    env.from_source(FakeSource()).sink_to(FakeSink())
    assert env.execute().status == "FINISHED"


ROWS = pa.table({"auction": [1, 2, 1]})


def test_collect_runs_only_what_the_stream_needs_without_checkpoints(submitted):
    submitted.handle = FakeHandle(ROWS)
    env = fr.StreamEnvironment("test", parallelism=2, runtime="local")
    stream = env.from_source(FakeSource(), uid="in")
    stream.sink_to(FakeSink(), uid="other")
    assert stream.select("auction").collect() == ROWS
    ((graph, config),) = submitted.all
    assert operator(graph, "sink").uid == submitted.handle.asked == "collect"
    assert operator(graph, "source").params["source"].schema().names == ["auction"]
    assert config.checkpointing is None
    assert config.name.startswith("test-collect-")
    assert config.resources.spare_task_managers == 0
    assert not config.detached


def test_collect_cuts_to_the_limit(submitted):
    submitted.handle = FakeHandle(ROWS)
    env = fr.StreamEnvironment("test", runtime="local")
    assert env.from_source(FakeSource()).select("auction").collect(limit=2).num_rows == 2


def test_collect_of_a_source_that_never_ends_needs_a_limit(submitted):
    env = fr.StreamEnvironment("test", runtime="local")
    stream = env.from_source(FakeSource(endless=True))
    with pytest.raises(fr.PlanError, match="never ends"):
        stream.collect()
    with pytest.raises(fr.PlanError, match="no last answers"):
        stream.key_by("auction").aggregate(n=fr.agg.count()).collect(limit=3)
    with pytest.raises(fr.PlanError, match="limit"):
        stream.collect(limit=-1)
    assert not submitted.all


def test_collect_of_a_running_aggregate_gives_the_last_row_of_each_key(submitted):
    submitted.handle = FakeHandle(
        pa.table(
            {
                "auction": pa.array([1, None, 2, 1, None, 3, 3]),
                "n": [1, 1, 1, 2, 5, 1, 0],
                "_change": pa.array([1, 1, 1, 1, 1, 1, -1], pa.int8()),
            }
        )
    )
    env = fr.StreamEnvironment("test", runtime="local")
    table = env.from_source(FakeSource()).key_by("auction").aggregate(n=fr.agg.count()).collect()
    assert sorted(table.to_pylist(), key=str) == [{"auction": 1, "n": 2}, {"auction": 2, "n": 1}, {"auction": None, "n": 5}]


def test_collect_of_nothing_gives_the_columns():
    empty = pa.table({"auction": pa.array([], pa.int64()), "_change": pa.array([], pa.int8())})
    assert collecting.final_rows(empty, ["auction"]).schema == pa.schema([("auction", pa.int64())])


def test_collect_works_inside_a_running_event_loop(submitted):
    submitted.handle = FakeHandle(ROWS)

    async def cell():
        env = fr.StreamEnvironment("test", runtime="local")
        return env.from_source(FakeSource()).select("auction").collect()

    assert asyncio.run(cell()) == ROWS


def test_an_interrupted_collect_cancels_its_job(submitted):
    submitted.handle = FakeHandle(ROWS, interrupted=True)
    env = fr.StreamEnvironment("test", runtime="local")
    with pytest.raises(KeyboardInterrupt):
        env.from_source(FakeSource()).collect()
    assert submitted.handle.cancelled


def test_print_and_from_batches_use_the_connectors_in_memory():
    env = fr.StreamEnvironment("test", runtime="local")
    stream = env.from_batches([pa.record_batch({"a": [1, 2]})], uid="in")
    stream.print()
    assert stream.schema == pa.schema([("a", pa.int64())])
    assert type(operator(env.job_graph(), "sink").params["sink"]) is fr.sinks.Print
    assert env.from_batches(pa.table({"b": ["x"]})).schema.names == ["b"]
