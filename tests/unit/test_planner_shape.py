"""Vertices, edges, chains and local stages."""

from __future__ import annotations

import pickle

import pytest
from plan_fakes import FakeSink, FakeSource, kinds, operator, partitionings, shipped

import flinkray as fr
from flinkray import col
from flinkray.graph.execution_graph import channels
from flinkray.graph.job_graph import Forward, Hash, Rebalance, Route, ToEdge, ToOperator

WATERMARK = fr.Watermarks.bounded("date_time", "4s")


@pytest.fixture
def env():
    return fr.StreamEnvironment("test", parallelism=2, runtime="local")


def bids(env, uid="bids"):
    return env.from_source(FakeSource(), watermark=WATERMARK, uid=uid)


def hot(env):
    return bids(env).filter(col("price") > 100).key_by("auction").window(fr.windows.Sliding("10s", "2s"))


def test_a_windowed_job_is_splits_readers_with_a_local_stage_and_windows(env):
    hot(env).aggregate(bids=fr.agg.count()).uid("hot").sink_to(FakeSink(), uid="out")
    graph = env.job_graph()
    assert kinds(graph) == [["enumerate"], ["source", "filter", "pre_aggregate"], ["window_aggregate", "sink"]]
    assert partitionings(graph) == [Rebalance(), Hash(("auction",))]
    assert [v.parallelism for v in graph.vertices] == [1, 2, 2]
    assert operator(graph, "pre_aggregate").uid == "hot/local"
    assert operator(graph, "enumerate").uid == "bids/splits"
    assert operator(graph, "enumerate").params["readers"] == 2
    assert operator(graph, "window_aggregate").params["pre_aggregated"]


def test_vertices_edges_and_routes_are_in_topological_order(env):
    one, two = bids(env), bids(env, "more")
    one.union(two).filter(col("price") > 1).key_by("auction").aggregate(n=fr.agg.count()).sink_to(FakeSink(changes=True))
    one.sink_to(FakeSink(), uid="raw")
    graph = env.job_graph()
    assert [v.index for v in graph.vertices] == list(range(len(graph.vertices)))
    assert [e.index for e in graph.edges] == list(range(len(graph.edges)))
    assert all(e.source_vertex < e.target_vertex for e in graph.edges)
    for vertex in graph.vertices:
        for index, spec in enumerate(vertex.operators):
            for route in spec.routes:
                if isinstance(route.target, ToOperator):
                    assert index < route.target.index < len(vertex.operators)
                else:
                    assert graph.edges[route.target.edge].source_vertex == vertex.index
    routed = {r.target.edge for v in graph.vertices for o in v.operators for r in o.routes if isinstance(r.target, ToEdge)}
    assert routed == set(range(len(graph.edges)))


@pytest.mark.parametrize(
    "aggregate",
    [
        lambda env: hot(env).side_output_late("late").aggregate(n=fr.agg.count()),
        lambda env: bids(env).key_by("auction").window(fr.windows.Session("5s")).aggregate(n=fr.agg.count()),
        lambda env: bids(env).key_by("auction").aggregate(n=fr.agg.count(), emit="row"),
    ],
    ids=["late rows wanted", "sessions", "an answer for every row"],
)
def test_no_local_stage_where_rows_are_needed_one_by_one(env, aggregate):
    aggregate(env).sink_to(FakeSink(changes=True))
    graph = env.job_graph()
    assert all("pre_aggregate" not in vertex for vertex in kinds(graph))
    assert any("not aggregated before the shuffle" in note for v in graph.vertices for o in v.operators for note in o.notes)


def test_the_best_rows_of_all_are_found_in_one_subtask_after_a_local_stage(env):
    stream = hot(env).aggregate(bids=fr.agg.count())
    stream.window_all(fr.windows.Tumbling("2s")).top_n(1, by="bids").uid("top").sink_to(FakeSink())
    graph = env.job_graph()
    assert kinds(graph)[2:] == [["window_aggregate", "window_top_n"], ["window_top_n", "project"], ["sink"]]
    assert [v.parallelism for v in graph.vertices] == [1, 2, 2, 1, 2]
    local, final = operator(graph, "window_top_n", "top/local"), operator(graph, "window_top_n", "top")
    assert (local.params["final"], final.params["final"]) == (False, True)
    assert final.output_schema.names == ["auction", "window_start", "window_end", "bids", "_event_time"]


def test_rows_that_have_no_windows_get_them_from_top_n(env):
    bids(env).key_by("channel").window(fr.windows.Tumbling("1min")).top_n(3, by=("price", "asc")).select(
        "channel", "price", "window_end"
    ).sink_to(FakeSink())
    graph = env.job_graph()
    final = next(o for v in graph.vertices for o in v.operators if o.kind == "window_top_n" and o.params["final"])
    assert final.params["by"] == (("price", "asc"),)
    assert final.output_schema.names == ["price", "channel", "window_start", "window_end", "_event_time"]
    assert shipped(graph) == [["price", "channel", "_event_time"]]


def test_windows_over_all_rows_are_computed_in_one_subtask_without_a_trace_of_the_key(env):
    bids(env).window_all(fr.windows.Tumbling("1min")).aggregate(n=fr.agg.count(), top=fr.agg.max("price")).sink_to(FakeSink())
    graph = env.job_graph()
    window = operator(graph, "window_aggregate")
    assert window.params["keys"] == ("_all",)
    assert [v.parallelism for v in graph.vertices] == [1, 2, 1, 2]
    assert operator(graph, "sink").output_schema.names == ["window_start", "window_end", "n", "top"]


def test_an_expression_as_argument_is_computed_once_before(env):
    twice = col("price") * 2
    hot(env).aggregate(total=fr.agg.sum(twice), top=fr.agg.max(col("price") * 2), low=fr.agg.min(col("price"))).uid("x").sink_to(FakeSink())
    graph = env.job_graph()
    arguments = operator(graph, "project")
    assert arguments.uid == "x/arguments"
    assert [name for name, _ in arguments.params["columns"]] == ["auction", "price", "_arg0"]
    assert [a.column for a in operator(graph, "window_aggregate").params["aggregates"]] == ["_arg0", "_arg0", "price"]


def test_operators_of_another_parallelism_are_not_chained(env):
    bids(env).filter(col("price") > 1).set_parallelism(4).sink_to(FakeSink()).set_parallelism(1)
    graph = env.job_graph()
    assert kinds(graph) == [["enumerate"], ["source"], ["filter"], ["sink"]]
    assert partitionings(graph) == [Rebalance(), Rebalance(), Rebalance()]
    assert [v.parallelism for v in graph.vertices] == [1, 2, 4, 1]


def test_rebalance_breaks_a_chain(env):
    bids(env).rebalance().filter(col("price") > 1).sink_to(FakeSink())
    assert kinds(env.job_graph()) == [["enumerate"], ["source"], ["filter", "sink"]]


def test_changes_of_a_key_never_overtake_each_other(env):
    stream = bids(env).key_by("auction").aggregate(n=fr.agg.count()).select(col("auction").alias("a"), "n")
    stream.sink_to(FakeSink(changes=True)).set_parallelism(1)
    assert partitionings(env.job_graph())[-1] == Hash(("a",))


def test_a_stream_with_two_consumers_is_computed_once(env):
    stream = bids(env).filter(col("price") > 1)
    stream.sink_to(FakeSink(), uid="a")
    stream.select("auction").sink_to(FakeSink(), uid="b")
    graph = env.job_graph()
    assert kinds(graph) == [["enumerate"], ["source", "filter", "sink", "project", "sink"]]
    assert operator(graph, "filter").routes == (Route(ToOperator(2)), Route(ToOperator(3)))


def test_a_union_has_an_edge_from_every_stream(env):
    bids(env).union(bids(env, "more"), bids(env, "most").set_parallelism(1)).sink_to(FakeSink())
    graph = env.job_graph()
    head = next(v for v in graph.vertices if v.operators[0].kind == "passthrough")
    edges = graph.inputs_of(head.index)
    assert [e.partitioning for e in edges] == [Forward(), Forward(), Rebalance()]
    assert len({e.schema for e in edges}) == 1
    assert {e.target_input for e in edges} == {0}


def test_a_stream_can_be_united_with_itself(env):
    stream = bids(env)
    stream.union(stream).sink_to(FakeSink())
    assert partitionings(env.job_graph()) == [Rebalance(), Forward(), Forward()]


def test_dead_letters_leave_the_source_under_their_tag(env):
    stream = env.from_source(FakeSource(on_error="dead_letter"), uid="bids")
    stream.sink_to(FakeSink(), uid="out")
    stream.get_side_output("dead_letter").sink_to(FakeSink(), uid="rejected")
    graph = env.job_graph()
    assert [r.tag for r in operator(graph, "source").routes] == [None, "dead_letter"]
    assert operator(graph, "sink", "rejected").output_schema.names == ["source", "line", "row", "error"]


def test_a_running_aggregate_marks_its_rows_as_changes_and_a_final_one_does_not(env):
    keyed = bids(env).key_by("auction")
    keyed.aggregate(n=fr.agg.count()).sink_to(FakeSink(changes=True), uid="changes")
    keyed.aggregate(n=fr.agg.count(), emit="final").sink_to(FakeSink(), uid="final")
    graph = env.job_graph()
    assert operator(graph, "sink", "changes").output_schema.names == ["auction", "n", "_change"]
    assert operator(graph, "sink", "final").output_schema.names == ["auction", "n"]
    assert [o.params["emit"] for v in graph.vertices for o in v.operators if o.kind == "keyed_aggregate"] == ["batch", "final"]


def test_a_graph_travels_by_pickle(env):
    hot(env).aggregate(bids=fr.agg.count()).sink_to(FakeSink())
    graph = env.job_graph()
    again = pickle.loads(pickle.dumps(graph))
    assert again.fingerprint == graph.fingerprint
    assert again.uids() == graph.uids()
    assert str(operator(again, "filter").params["predicate"]) == str(operator(graph, "filter").params["predicate"])


def test_channels_are_one_to_one_or_each_to_each(env):
    bids(env).union(bids(env, "more")).key_by("auction").aggregate(n=fr.agg.count(), emit="row").sink_to(FakeSink(changes=True))
    graph = env.job_graph()
    by_edge = {e.index: [(s.subtask, r.subtask) for i, s, r in channels(graph) if i == e.index] for e in graph.edges}
    for edge in graph.edges:
        if isinstance(edge.partitioning, Forward):
            assert by_edge[edge.index] == [(0, 0), (1, 1)]
        elif isinstance(edge.partitioning, Hash):
            assert by_edge[edge.index] == [(0, 0), (0, 1), (1, 0), (1, 1)]
        else:
            assert by_edge[edge.index] == [(0, 0), (0, 1)]
