"""uids and the fingerprint: what stays the same, so that a restore finds its state, and what does not."""

from __future__ import annotations

import pytest
from plan_fakes import FakeSink, FakeSource

import flinkray as fr
from flinkray import col


def build(parallelism=2, path="a/*.parquet", rate=None, threshold=100, late=False, uids=False, extra_filter=False, size="10s", call=None):
    env = fr.StreamEnvironment("test", parallelism=parallelism, runtime="local")
    watermark = fr.Watermarks.bounded("date_time", "4s")
    stream = env.from_source(FakeSource(path=path, rate=rate), watermark=watermark, uid="in" if uids else None)
    stream = stream.filter(col("price") > threshold)
    if extra_filter:
        stream = stream.filter(col("bidder") > 1)
    windowed = stream.key_by("auction").window(fr.windows.Tumbling(size))
    if late:
        windowed = windowed.side_output_late("late")
    result = windowed.aggregate(n=call or fr.agg.count())
    if uids:
        result.uid("counts")
    result.sink_to(FakeSink(path=path), uid="out" if uids else None)
    return env.job_graph()


def stateful(graph):
    """uids whose state a restore looks for."""
    kept = {"enumerate", "source", "window_aggregate", "sink"}
    return [o.uid for v in graph.vertices for o in v.operators if o.kind in kept]


@pytest.mark.parametrize(
    "change",
    [
        {"parallelism": 1},
        {"parallelism": 7},
        {"path": "b/*.parquet"},
        {"rate": 1000.0},
        {"threshold": 1},
        {"late": True},
    ],
    ids=str,
)
def test_uids_and_fingerprint_do_not_depend_on(change):
    assert stateful(build(**change)) == stateful(build())
    assert build(**change).fingerprint == build().fingerprint


def test_generated_uids_change_with_what_is_upstream():
    changed, same = stateful(build(extra_filter=True)), stateful(build())
    assert changed[:2] == same[:2]
    assert set(changed[2:]).isdisjoint(same[2:])


def test_given_uids_survive_a_change_of_the_program():
    assert stateful(build(uids=True, extra_filter=True)) == stateful(build(uids=True)) == ["in/splits", "in", "counts", "out"]
    assert build(uids=True, extra_filter=True).fingerprint == build(uids=True).fingerprint


def test_the_fingerprint_changes_with_what_is_kept():
    assert build(uids=True, size="20s").fingerprint != build(uids=True).fingerprint
    assert build(uids=True, call=fr.agg.sum("price")).fingerprint != build(uids=True).fingerprint


def test_equal_operators_on_one_stream_have_different_uids():
    env = fr.StreamEnvironment("test", runtime="local")
    stream = env.from_source(FakeSource())
    for _ in range(2):
        stream.key_by("auction").aggregate(n=fr.agg.count()).sink_to(FakeSink(changes=True))
    uids = env.job_graph().uids()
    assert len(set(uids)) == len(uids)


def test_naming_one_operator_leaves_the_uids_of_its_like_alone():
    def second_uid(name_first):
        env = fr.StreamEnvironment("test", runtime="local")
        stream = env.from_source(FakeSource())
        first = stream.filter(col("price") > 1)
        if name_first:
            first.uid("first")
        first.sink_to(FakeSink(), uid="a")
        stream.filter(col("price") > 2).sink_to(FakeSink(), uid="b")
        return [o.uid for v in env.job_graph().vertices for o in v.operators if o.kind == "filter"][1]

    assert second_uid(name_first=True) == second_uid(name_first=False)


def test_one_uid_for_two_operators_is_refused():
    env = fr.StreamEnvironment("test", runtime="local")
    stream = env.from_source(FakeSource(), uid="x")
    stream.sink_to(FakeSink(), uid="x")
    with pytest.raises(fr.PlanError, match="uid 'x' is given to two operators, source and sink"):
        env.job_graph()


def test_a_second_uid_for_an_operator_is_refused():
    env = fr.StreamEnvironment("test", runtime="local")
    stream = env.from_source(FakeSource(), uid="x").uid("x")
    with pytest.raises(fr.PlanError, match="has the uid 'x' already"):
        stream.uid("y")


@pytest.mark.parametrize("uid", ["", "a/b", "a b", "x" * 129, "ü", 7])
def test_a_uid_that_could_not_name_an_object_is_refused(uid):
    env = fr.StreamEnvironment("test", runtime="local")
    with pytest.raises(fr.PlanError, match="uid"):
        env.from_source(FakeSource(), uid=uid)


def test_stateful_operators_without_uid_are_warned_of():
    assert build(uids=True).warnings == ()
    assert [w.split()[0] for w in build().warnings] == ["source", "aggregate", "sink"]


def test_the_name_of_an_operator_is_shown_and_does_not_change_its_uid():
    env = fr.StreamEnvironment("test", runtime="local")
    env.from_source(FakeSource(), uid="in").filter(col("price") > 1).uid("dear").name("only dear ones").sink_to(FakeSink())
    spec = next(o for v in env.job_graph().vertices for o in v.operators if o.kind == "filter")
    assert (spec.uid, spec.name) == ("dear", "only dear ones")
