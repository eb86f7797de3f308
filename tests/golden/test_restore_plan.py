"""Restores of jobs that have changed: what `flinkray plan` says beforehand, and what the restored job then gives."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import flinkray as fr
from flinkray import col
from flinkray.cli import run
from flinkray.connectors.nexmark import nexmark_table
from tests.golden import oracle
from tests.held import Held
from tests.running import TIMEOUT_S, until_checkpoints

ROWS = 30_000
HELD = 20_000
APP = "changed"


def submit(
    folder: Path, out: str, restore: str = "latest", held: bool = False, key: str = "int64", allow: bool = False, **aggregates: object
):
    checkpointing = fr.Checkpointing(interval="50ms", min_pause="0s", storage=f"file://{folder}/checkpoints")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLINKRAY_RUN_OPTIONS", json.dumps({"restore": restore, "allow_non_restored_state": allow}))
        env = fr.StreamEnvironment(APP, parallelism=1, runtime="local", checkpointing=checkpointing)
    source: object = fr.sources.Nexmark("bid", rows=ROWS)
    source = Held(source, HELD, str(folder / "gate")) if held else source
    bids = env.from_source(source, watermark=fr.Watermarks.bounded("date_time", "1s"), uid="bids")
    bids = bids.select(bidder=col("bidder").cast(key), price=col("price"))
    totals = bids.key_by("bidder").aggregate(emit="final", **(aggregates or {"total": fr.agg.sum("price")})).uid("totals")
    totals.sink_to(fr.sinks.Parquet(str(folder / out)), uid="out")
    return env.execute_async()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job that was keyed by int32, and was stopped with savepoint "before"."""
    folder = tmp_path_factory.mktemp("before")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLINKRAY_HOME", str(folder))
        job = submit(folder, "first", held=True, key="int32")
        until_checkpoints(job, 2)
        while job.status()["records_in"] < HELD:
            pass
        job.stop("before", timeout=TIMEOUT_S)
    return folder


@pytest.fixture(autouse=True)
def home(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLINKRAY_HOME", str(stopped))


def test_a_wider_key_and_an_added_aggregate_go_on_with_the_state(stopped: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    job = submit(stopped, out, "savepoint:before", key="int64", total=fr.agg.sum("price"), rows=fr.agg.count(), highest=fr.agg.max("price"))
    assert job.wait(TIMEOUT_S).records_in == ROWS
    bids = nexmark_table("bid", ROWS, 0)
    expected = oracle.select_from(
        {"bids": bids, "late": bids.slice(HELD)},
        "SELECT bidder, total, coalesce(rows, 0) AS rows, highest FROM (SELECT bidder, sum(price)::BIGINT total FROM bids GROUP BY ALL) LEFT JOIN "
        "(SELECT bidder, count(*) rows, max(price) highest FROM late GROUP BY ALL) USING (bidder)",
    )
    found = pq.read_table(out)
    assert found.schema.field("bidder").type == pa.int64()
    oracle.same(found.select(expected.column_names), expected)
    assert pc.any(pc.is_null(found.column("highest"))).as_py(), "a key that was there and had no row since"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"key": "int16"}, "'bidder' was int32 and is int16 now: integers and floats may only become wider"),
        ({"key": "float64"}, "integers and floats may only become wider"),
        ({"lowest": fr.agg.min("price")}, "its aggregate 'total' has changed or moved"),
        ({"first": fr.agg.count(), "total": fr.agg.sum("price")}, "its aggregate 'total' has changed or moved"),
    ],
)
def test_other_changes_are_refused_and_name_the_operator(changes: dict, error: str, stopped: Path, tmp_path: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in (stopped / "checkpoints" / APP / "savepoints").rglob("*"))
    with pytest.raises(fr.RestoreError, match=rf"savepoint 'before' does not fit the graph: operator 'totals': .*{error}"):
        submit(stopped, str(tmp_path / "out"), "savepoint:before", **changes).wait(TIMEOUT_S)
    assert sorted((path, path.stat().st_mtime_ns) for path in (stopped / "checkpoints" / APP / "savepoints").rglob("*")) == before


SCRIPT = """
import flinkray as fr
from flinkray import col
env = fr.StreamEnvironment("changed", runtime="local", checkpointing=fr.Checkpointing(storage="file://{folder}/checkpoints"))
bids = env.from_source(fr.sources.Nexmark("bid", rows=30_000), watermark=fr.Watermarks.bounded("date_time", "1s"), uid="bids")
keyed = bids.select(bidder=col("bidder").cast("{key}"), price=col("price")).key_by("bidder")
stream = keyed.aggregate(emit="final", total=fr.agg.sum("price")){uid}
stream.sink_to(fr.sinks.Parquet("{folder}/planned"), uid="out")
try:
    env.execute()
except Exception:
    pass
print("never reached")
"""


@pytest.mark.parametrize(
    ("key", "uid", "verdicts", "code"),
    [
        ("int32", '.uid("totals")', {"totals": "kept", "out": "kept"}, 0),
        ("int64", '.uid("totals")', {"totals": "re-typed"}, 0),
        ("int16", '.uid("totals")', {"totals": "refused"}, 1),
        ("int32", '.uid("others")', {"totals": "refused", "others": "starts empty"}, 1),
        ("int32", "", {"totals": "refused"}, 1),
    ],
)
def test_plan_says_it_before(
    key: str, uid: str, verdicts: dict, code: int, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "job.py"
    script.write_text(SCRIPT.format(folder=stopped, key=key, uid=uid))
    assert run(["plan", str(script), "--from", "savepoint:before", "--json"]) == code
    document = json.loads(capsys.readouterr().out)
    said = {plan["uid"]: plan["verdict"] for plan in document["operators"]}
    assert {uid: said[uid] for uid in verdicts} == verdicts
    assert document["restorable"] == (code == 0)
    assert bool(document["warnings"]) == (not uid)
    assert run(["plan", str(script), "--from", "savepoint:before"]) == code
    shown = capsys.readouterr().out
    assert ("would be refused" in shown) == bool(code)
    if code and key == "int32":
        assert run(["plan", str(script), "--from", "savepoint:before", "--allow-non-restored-state", "--json"]) == 0
        said = {plan["uid"]: plan["verdict"] for plan in json.loads(capsys.readouterr().out)["operators"]}
        assert said["totals"] == "dropped"
    assert not (stopped / "planned").exists(), "nothing was run or written"


def test_what_is_not_there_is_exit_code_2(stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "job.py"
    script.write_text(SCRIPT.format(folder=stopped, key="int32", uid='.uid("totals")'))
    for wanted in ("savepoint:none", "checkpoint:99999", "nonsense"):
        assert run(["plan", str(script), "--from", wanted]) == 2, capsys.readouterr()
    script.write_text("print(1)")
    assert run(["plan", str(script)]) == 2
