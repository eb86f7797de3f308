"""Lookup joins with a real Postgres (`pgserver`, a wheel that brings one)."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

import flinkray as fr
from flinkray.errors import PlanError, SourceError

pgserver = pytest.importorskip("pgserver", reason="the wheel pgserver brings the Postgres of these tests", exc_type=ImportError)
driver = pytest.importorskip("adbc_driver_postgresql.dbapi", reason="pip install 'flinkray[postgres]'", exc_type=ImportError)

pytestmark = pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR")

TABLE = """
CREATE TABLE users (id int4, name text, score numeric(10, 2), since timestamptz, born date, rate float8, ok bool, "Odd Name" int2);
CREATE INDEX ON users (id);
INSERT INTO users VALUES (1, 'ann', 1.50, '2026-01-01 00:00:00Z', '1990-05-01', 0.5, true, 7),
    (2, 'bob', NULL, NULL, NULL, NULL, NULL, NULL), (2, 'bea', 2.25, NULL, NULL, NULL, false, 8);
CREATE TABLE prices (shop text, item int8, price int8);
INSERT INTO prices SELECT 'shop' || s, i, s * 1000 + i FROM generate_series(1, 3) s, generate_series(1, 5000) i;
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    try:
        started = pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="delete")
    except (OSError, RuntimeError, AssertionError) as error:
        pytest.skip(f"Postgres does not start here: {error}")
    try:
        run(started.get_uri(), TABLE)
        yield started
    finally:
        started.cleanup()


def run(uri: str, statements: str) -> None:
    with driver.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
        for statement in filter(str.strip, statements.split(";")):
            cursor.execute(statement)


def rows(env: fr.StreamEnvironment, **columns: list[Any]) -> fr.DataStream:
    return env.from_batches(pa.table(columns), uid="rows")


@pytest.fixture
def env() -> fr.StreamEnvironment:
    return fr.StreamEnvironment("postgres", runtime="local")


def test_rows_get_the_columns_of_the_table_in_the_engines_types(server: Any, env: fr.StreamEnvironment) -> None:
    joined = rows(env, user=[1, 2, 3, None, 2**40]).lookup_join(fr.tables.Postgres(server.get_uri(), "users"), {"user": "id"})
    found = sorted(joined.collect().to_pylist(), key=lambda row: (str(row["user"]), str(row["name"])))
    nothing = dict.fromkeys(["name", "score", "since", "born", "rate", "ok", "Odd Name"])
    ann = {
        "name": "ann",
        "score": Decimal("1.50"),
        "since": datetime(2026, 1, 1, tzinfo=UTC),
        "born": date(1990, 5, 1),
        "rate": 0.5,
        "ok": True,
    }
    assert found == [
        {"user": 1, **ann, "Odd Name": 7},
        {"user": 2**40, **nothing},
        {"user": 2, **nothing, "name": "bea", "score": Decimal("2.25"), "ok": False, "Odd Name": 8},
        {"user": 2, **nothing, "name": "bob"},
        {"user": 3, **nothing},
        {"user": None, **nothing},
    ]


def test_keys_of_two_columns_by_a_query_in_batches_with_a_cache(server: Any) -> None:
    env = fr.StreamEnvironment("postgres-two", parallelism=2, runtime="local", batch_rows=4_000)
    table = fr.tables.Postgres(server.get_uri(), query="SELECT shop, item, price FROM prices WHERE price % 2 = 0", cached_keys=6_000)
    shops, items = [f"shop{i % 4 + 1}" for i in range(30_000)], [i % 7_000 for i in range(30_000)]
    joined = rows(env, store=shops, item=items).lookup_join(table, {"store": "shop", "item": "item"}, "inner", cache="1min")
    table_found = joined.collect()
    found = sorted(zip(*(table_found[name].to_pylist() for name in ("store", "item", "price")), strict=True))
    price = {f"shop{s}": s * 1000 for s in (1, 2, 3)}
    pairs = zip(shops, items, strict=True)
    expected = [(s, i, price[s] + i) for s, i in pairs if s in price and 1 <= i <= 5_000 and (price[s] + i) % 2 == 0]
    assert found == sorted(expected)
    assert len(found) > 5_000


def test_a_connection_that_is_lost_is_made_again_and_a_database_that_is_gone_is_named(server: Any) -> None:
    table = fr.tables.Postgres(server.get_uri(), "users").with_columns(("id", "name"))
    lookups = table.open()
    keys = pa.RecordBatch.from_pydict({"user": pa.array([1])})
    assert lookups.find(keys, ("id",)).to_pylist() == [{"id": 1, "name": "ann"}]
    run(
        server.get_uri(),
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'",
    )
    assert lookups.find(keys, ("id",)).to_pylist() == [{"id": 1, "name": "ann"}]
    lookups.close()
    with pytest.raises(SourceError, match=r"Postgres\(users\) does not answer: .* is the database up") as caught:
        fr.tables.Postgres("postgresql://nobody@127.0.0.1:1/none", "users").schema()
    assert not caught.value.permanent


def test_mistakes_are_told_at_plan_time(server: Any, env: fr.StreamEnvironment) -> None:
    uri, stream = server.get_uri(), rows(env, user=[1], at=[[1]])
    for make, says in (
        (lambda: stream.lookup_join(fr.tables.Postgres(uri, "user"), {"user": "id"}), 'relation "user" does not exist'),
        (lambda: stream.lookup_join(fr.tables.Postgres(uri, "users"), {"user": "idd"}), "idd"),
        (lambda: fr.tables.Postgres(uri), "give table= or query="),
        (lambda: fr.tables.Postgres(uri, "users", cached_keys=0), "cached_keys=0"),
        (
            lambda: stream.lookup_join(fr.tables.Postgres(uri, query="SELECT 1 AS id, 1::numeric AS n"), {"user": "id"}),
            "'n' is numeric; give a query=",
        ),
        (lambda: stream.lookup_join(fr.tables.Postgres(uri, "users"), {"user": "name"}), "name"),
    ):
        with pytest.raises((PlanError, SourceError), match=says):
            make()


def test_the_address_is_not_shown_and_a_query_that_takes_too_long_ends(server: Any) -> None:
    table = fr.tables.Postgres("postgresql://ann:secret@host/db", "users")
    assert "secret" not in repr(table) + table.describe()
    assert pickle.loads(pickle.dumps(table)) == table
    table = fr.tables.Postgres(server.get_uri(), query="SELECT 1 AS id, pg_sleep(5)::text AS x", timeout="50ms")
    with closing(table.open()) as slow, pytest.raises(SourceError, match="statement timeout") as caught:
        slow.find(pa.RecordBatch.from_pydict({"user": pa.array([1])}), ("id",))
    assert not caught.value.permanent


def test_a_table_that_changes_below_the_job_is_an_error_that_names_it(server: Any) -> None:
    keys = pa.RecordBatch.from_pydict({"user": pa.array([1])})
    run(server.get_uri(), "CREATE TABLE changing AS SELECT 1 AS id, 'ann' AS name, 7 AS n")
    with closing(fr.tables.Postgres(server.get_uri(), "changing").open()) as lookups:
        assert lookups.find(keys, ("id",)).to_pylist() == [{"id": 1, "name": "ann", "n": 7}]
        for change, says in (
            ("ALTER TABLE changing ALTER n TYPE text USING 'seven'", r"Postgres\(changing\): column 'n': .*seven"),
            ("ALTER TABLE changing DROP n", r"Postgres\(changing\) cannot be asked: .* column t.n does not exist"),
            ("DROP TABLE changing", r'Postgres\(changing\) cannot be asked: .* relation "changing" does not exist'),
        ):
            run(server.get_uri(), change)
            with pytest.raises(SourceError, match=says) as caught:
                lookups.find(keys, ("id",))
            assert caught.value.permanent


def test_keys_of_every_type_find_their_rows_whatever_the_servers_time_zone(server: Any, env: fr.StreamEnvironment) -> None:
    noon = datetime(2026, 7, 1, 12, tzinfo=UTC)
    run(
        server.get_uri(),
        """ALTER ROLE CURRENT_USER SET timezone TO 'America/New_York';
        CREATE TABLE kinds AS SELECT 'a'::varchar(5) AS word, 2.5::float4 AS number, true AS ok, date '2026-07-01' AS day,
            timestamp '2026-07-01 12:00:00' AS at, timestamptz '2026-07-01 12:00:00Z' AS zoned, 1::int2 AS small""",
    )
    keys = {"word": "a", "number": 2.5, "ok": True, "day": date(2026, 7, 1), "at": noon, "zoned": noon, "small": 1}
    table = fr.tables.Postgres(server.get_uri(), "kinds")
    types = {**dict.fromkeys(("at", "zoned"), pa.timestamp("us", "UTC")), "word": pa.dictionary(pa.int32(), pa.string())}
    stream = env.from_batches(pa.table({name: pa.array([value], types.get(name)) for name, value in keys.items()}))
    for name in keys:
        found = stream.select(name).lookup_join(table, name, "inner").collect()
        assert found.num_rows == 1, name
    assert rows(env, word=["a\0", "a", "\0"]).lookup_join(table, "word").collect()["small"].null_count == 2, "no text of Postgres has a NUL"
    with pytest.raises(PlanError, match=r"Postgres\(a query\): a key of type decimal128\(3, 1\) cannot be asked for"):
        rows(env, n=[Decimal("10.5")]).lookup_join(fr.tables.Postgres(server.get_uri(), query="SELECT 1::numeric(3,1) AS n"), "n")
