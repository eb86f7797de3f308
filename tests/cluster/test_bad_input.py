"""Wrong input, wrong usage, wrong code: each ends with a clear error, the documented exit code, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import flinkray as flinkray_package
from tests.cluster.command_line import (
    ENDLESS,
    environment,
    flinkray,
    in_background,
    nothing_is_left_in_the_cluster,
    nothing_is_left_running,
    status,
    until_running,
    write_script,
)

pytestmark = pytest.mark.cluster

ENGINE = str(Path(flinkray_package.__file__).parent)

COPY = """
import sys
import flinkray as fr
kind, folder, options = sys.argv[1:4]
env = fr.StreamEnvironment("copy")
rows = env.from_source(getattr(fr.sources, kind)(folder + "/in", **eval(options)), uid="rows")
rows.sink_to(fr.sinks.Csv(folder + "/out"), uid="out")
if "dead_letter" in options:
    rows.get_side_output("dead_letter").sink_to(fr.sinks.Json(folder + "/dead"), uid="dead")
env.execute()
"""

BOOM = """
import sys
import flinkray as fr

def price(row):
    return ratio(row)

def ratio(row):
    return {"v": 1 // (row["a"] - 2)}

env = fr.StreamEnvironment("boom")
rows = env.from_source(fr.sources.Csv(sys.argv[1]), uid="rows")
rows.map(price, output_schema={"v": "int64"}, uid="prices").sink_to(fr.sinks.Blackhole(), uid="out")
env.execute()
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


def run_copy(tmp_path: Path, kind: str = "Csv", source_options: str = "{}", *options: str, **more: str) -> subprocess.CompletedProcess[str]:
    script = write_script(tmp_path, "copy_rows", COPY)
    return flinkray("run", script, "--runtime", "local", *options, "--", kind, str(tmp_path), source_options, **more)


def refused(answer: subprocess.CompletedProcess[str], exit_code: int, *parts: str) -> None:
    """The exit code, every part in the one message on stderr, no traceback of flinkray's."""
    assert answer.returncode == exit_code, answer.stderr
    said = answer.stderr[answer.stderr.rindex("flinkray: ") :]
    for part in parts:
        assert part in said, answer.stderr
    assert f'File "{ENGINE}' not in answer.stderr, "a traceback of the engine"
    assert answer.stdout == ""
    nothing_is_left_running()


# -- rows and files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "text"), [("Csv", "a,b\n1,x\n2\n3,z\n"), ("Json", '{"a": 1}\n{"a": 2}\n{"a": \n{"a": 4}\n')])
def test_a_malformed_row_fails_with_file_and_line(tmp_path: Path, files: Path, kind: str, text: str) -> None:
    (files / "rows.txt").write_text(text)
    refused(run_copy(tmp_path, kind), 1, f"{files}/rows.txt, line 3", "on_error=")
    document = status("copy")
    assert (document["status"], document["restarts"]) == ("FAILED", 0), "the same row would fail again"
    assert "line 3" in document["error"]


def test_malformed_rows_are_skipped_and_counted(tmp_path: Path, files: Path) -> None:
    (files / "rows.csv").write_text("a,b\n1,x\n2\n3,z\n4,1,2\n")
    answer = run_copy(tmp_path, "Csv", "{'on_error': 'skip'}")
    assert answer.returncode == 0, answer.stderr
    document = status("copy")
    assert (document["records_in"], document["records_out"], document["skipped_rows"], document["dead_letter_rows"]) == (2, 2, 2, 0)


def test_malformed_rows_go_to_the_dead_letters_and_are_counted(tmp_path: Path, files: Path) -> None:
    (files / "rows.csv").write_text("a,b\n1,x\n2\n3,z\n")
    answer = run_copy(tmp_path, "Csv", "{'on_error': 'dead_letter'}")
    assert answer.returncode == 0, answer.stderr
    document = status("copy")
    assert (document["records_in"], document["skipped_rows"], document["dead_letter_rows"]) == (2, 0, 1)
    letters = [json.loads(line) for path in (tmp_path / "dead").glob("*.json*") for line in path.read_text().splitlines()]
    assert [(letter["source"], letter["line"], letter["row"]) for letter in letters] == [(f"{files}/rows.csv", 3, "2")]


def test_a_missing_column_names_file_and_column(tmp_path: Path, files: Path) -> None:
    pq.write_table(pa.table({"a": [1], "b": ["x"]}), files / "1.parquet")
    pq.write_table(pa.table({"a": [2]}), files / "2.parquet")
    refused(run_copy(tmp_path, "Parquet"), 1, f"{files}/2.parquet", "'b'", 'missing="null"')


@pytest.mark.parametrize("kind", ["Parquet", "Csv"])
def test_a_type_that_changes_between_files_names_file_and_column(tmp_path: Path, files: Path, kind: str) -> None:
    if kind == "Parquet":
        pq.write_table(pa.table({"a": [1]}), files / "1.parquet")
        pq.write_table(pa.table({"a": ["x"]}), files / "2.parquet")
    else:
        (files / "1.csv").write_text("a\n1\n")
        (files / "2.csv").write_text("a\nx\n")
    refused(run_copy(tmp_path, kind), 1, f"{files}/2.{kind.lower()}", "'a'")


def test_an_empty_directory_is_wrong_input(tmp_path: Path, files: Path) -> None:
    refused(run_copy(tmp_path), 2, str(files), "no file")
    assert not (tmp_path / "out").exists()


# -- storage and restore ----------------------------------------------------------------------------------------------


def test_storage_that_cannot_be_written_is_said_in_seconds(tmp_path: Path, files: Path) -> None:
    (files / "rows.csv").write_text("a\n1\n")
    refused(run_copy(tmp_path, "Csv", "{}", "--storage", "file:///proc/flinkray"), 1, "file:///proc/flinkray", "give another --storage")


def test_storage_that_does_not_answer_is_said_in_seconds(tmp_path: Path, files: Path) -> None:
    (files / "rows.csv").write_text("a\n1\n")
    key = str(tmp_path / "app.key")
    assert flinkray("keys", "generate", key).returncode == 0
    started_at = time.monotonic()
    dead = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "FLINKRAY_KEY": Path(key).read_text().strip(),
    }
    refused(run_copy(tmp_path, "Csv", "{}", "--storage", "s3://bucket/prefix", **dead), 1, "s3://bucket/prefix")
    assert time.monotonic() - started_at < 30
    assert not (tmp_path / "out").exists()


def test_remote_storage_needs_a_key_of_ones_own(tmp_path: Path, files: Path) -> None:
    (files / "rows.csv").write_text("a\n1\n")
    refused(run_copy(tmp_path, "Csv", "{}", "--storage", "s3://bucket/prefix"), 2, "flinkray keys generate")


def test_an_unknown_checkpoint_is_refused_before_anything_is_written(tmp_path: Path, files: Path) -> None:
    (files / "rows.csv").write_text("a\n1\n")
    storage = tmp_path / "storage"
    first = run_copy(tmp_path, "Csv", "{}", "--storage", f"file://{storage}")
    assert first.returncode == 0, first.stderr
    before = written(tmp_path)
    refused(run_copy(tmp_path, "Csv", "{}", "--storage", f"file://{storage}", "--restore", "checkpoint:99"), 2, "no checkpoint 99", "[1]")
    assert written(tmp_path) == before


@pytest.mark.parametrize(
    "wrong",
    [["--restore", "yesterday"], ["--parallelism", "0"], ["--checkpoint-interval", "often"], ["--storage", "s4://b"], ["--name", "a/b"]],
)
def test_a_wrong_option_is_refused_before_anything_is_written(tmp_path: Path, files: Path, wrong: list[str]) -> None:
    (files / "rows.csv").write_text("a\n1\n")
    refused(run_copy(tmp_path, "Csv", "{}", *wrong), 2, wrong[1])
    assert not (tmp_path / "out").exists()


def written(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_size) for path in folder.rglob("*") if path.is_file())


# -- the user's own code ----------------------------------------------------------------------------------------------


def test_an_exception_in_user_code_shows_the_users_own_traceback(tmp_path: Path, files: Path) -> None:
    (files / "rows.csv").write_text("a\n1\n2\n")
    script = write_script(tmp_path, "boom", BOOM)
    refused(flinkray("run", script, "--runtime", "local", "--", str(files)), 1, *said_about_boom(script))


def test_a_plain_script_ends_with_the_message(tmp_path: Path, files: Path) -> None:
    (files / "rows.csv").write_text("a\n1\n2\n")
    script = write_script(tmp_path, "boom", BOOM)
    answer = subprocess.run(
        [sys.executable, script, str(files)],
        env=environment(FLINKRAY_RUNTIME="local"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert answer.returncode == 1
    end = answer.stderr[answer.stderr.rindex("flinkray.errors.OperatorError: ") :]
    for part in said_about_boom(script):
        assert part in end
    assert f'File "{ENGINE}/runtime/slot.py' not in answer.stderr, "where the engine raised it tells a user nothing"
    *_, error, again = answer.stderr.splitlines()
    assert error.startswith("ZeroDivisionError: ")
    assert again.startswith("run it again: flinkray replay boom/")


def test_what_failed_is_run_again_by_the_command_that_the_error_says_until_it_is_mended(tmp_path: Path, files: Path) -> None:
    (files / "rows.csv").write_text("a\n1\n2\n3\n")
    script = write_script(tmp_path, "boom", BOOM.replace("return ratio(row)", "import ratios; return ratios.ratio(row)"))
    module = write_script(tmp_path, "ratios", "def ratio(row):\n    return {'v': 1 // (row['a'] - 2)}\n")
    more = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    answer = flinkray("run", script, "--runtime", "local", "--storage", f"file://{tmp_path}/storage", "--", str(files), **more)
    assert answer.returncode == 1, answer.stderr
    (again,) = re.findall(r"^run it again: flinkray (.+)$", answer.stderr, re.MULTILINE)
    found = flinkray(*shlex.split(again), **more)
    assert found.returncode == 1, found.stderr
    for part in ("operator 'prices'", "given: 3 rows", "ZeroDivisionError", f'File "{module}", line 2, in ratio'):
        assert part in found.stdout
    write_script(tmp_path, "ratios", "def ratio(row):\n    return {'v': row['a'] - 2}\n")
    mended = flinkray(*shlex.split(again), **more)
    assert (mended.returncode, mended.stdout.splitlines()[-1]) == (0, "it does not fail any more")


def said_about_boom(script: str) -> list[str]:
    return ["'prices'", "subtask 0", "ZeroDivisionError", f'File "{script}", line 6, in price', f'File "{script}", line 9, in ratio']


def test_a_script_that_fails_by_itself_shows_its_own_traceback_only(tmp_path: Path) -> None:
    script = write_script(tmp_path, "typo", "import flinkray as fr\nfr.StreamEnvironment('typo')\nundefined_name\n")
    answer = flinkray("run", script)
    assert answer.returncode == 1
    assert f'File "{script}", line 3' in answer.stderr
    assert answer.stderr.splitlines()[-1].startswith("NameError: ")
    assert f'File "{ENGINE}' not in answer.stderr
    assert "runpy" not in answer.stderr


def test_a_function_that_cannot_travel_is_refused_by_its_uid(tmp_path: Path, files: Path) -> None:
    (files / "rows.csv").write_text("a\n1\n")
    locked = BOOM.replace("import sys\n", "import sys, threading\nlock = threading.Lock()\n").replace(
        "return ratio(row)", "return lock and ratio(row)"
    )
    script = write_script(tmp_path, "locked", locked)
    refused(flinkray("run", script, "--runtime", "ray", "--", str(files)), 2, "'prices'", "lock", "make them inside the function")


def test_a_second_job_of_the_same_name_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    script = write_script(tmp_path, "endless", ENDLESS)
    with in_background(tmp_path, "run", script, "--runtime", "local") as first:
        until_running("endless")
        for runtime in ("local", "ray"):
            answer = flinkray("run", script, "--runtime", runtime)
            assert answer.returncode == 2, answer.stderr
            assert "a job named 'endless' is running" in answer.stderr
            assert "flinkray cancel endless" in answer.stderr
        assert first.poll() is None
        assert status("endless")["status"] == "RUNNING"
    nothing_is_left_running()


# -- on Ray -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(ray_cluster: None) -> dict[str, str]:
    import ray

    return {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}


def test_on_ray_an_exception_in_user_code_shows_the_users_own_traceback(tmp_path: Path, files: Path, cluster: dict[str, str]) -> None:
    (files / "rows.csv").write_text("a\n1\n2\n")
    script = write_script(tmp_path, "boom", BOOM)
    storage = f"file://{tmp_path}/storage"
    answer = flinkray("run", script, "--name", "ray-boom", "--storage", storage, "--", str(files), **cluster)
    refused(answer, 1, *said_about_boom(script))
    nothing_is_left_in_the_cluster("ray-boom")
    document = status("ray-boom", **cluster)
    assert document["status"] == "FAILED"
    assert "ZeroDivisionError" in document["error"]


def test_on_ray_a_malformed_row_fails_with_file_and_line(tmp_path: Path, files: Path, cluster: dict[str, str]) -> None:
    (files / "rows.csv").write_text("a,b\n1,x\n2\n")
    script = write_script(tmp_path, "copy_rows", COPY)
    storage = f"file://{tmp_path}/storage"
    answer = flinkray("run", script, "--name", "ray-copy", "--storage", storage, "--", "Csv", str(tmp_path), "{}", **cluster)
    refused(answer, 1, f"{files}/rows.csv, line 3")
    nothing_is_left_in_the_cluster("ray-copy")


def test_on_ray_more_slots_than_cpus_are_refused_at_once(tmp_path: Path, cluster: dict[str, str]) -> None:
    script = write_script(tmp_path, "endless", ENDLESS)
    refused(flinkray("run", script, "--name", "ray-large", "--parallelism", "99", **cluster), 1, "asks for 99 CPUs", "--parallelism")
    nothing_is_left_in_the_cluster("ray-large")


def test_on_ray_a_cluster_that_does_not_answer_is_said_at_once(tmp_path: Path) -> None:
    script = write_script(tmp_path, "endless", ENDLESS)
    refused(flinkray("run", script, RAY_ADDRESS="127.0.0.1:1"), 1, "127.0.0.1:1 does not answer", "RAY_ADDRESS")


HELPED = """
import sys
sys.path.insert(0, sys.argv[1])
import pyarrow as pa
import flinkray as fr
from only_here import twice

env = fr.StreamEnvironment("helped")
rows = env.from_source(fr.sources.Memory(pa.table({"a": [1, 2]})), uid="rows")
rows.map(twice, output_schema={"a": "int64"}, uid="twice").sink_to(fr.sinks.Blackhole(), uid="out")
env.execute()
"""


def test_a_module_that_only_the_driver_has_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "only_here.py").write_text("def twice(row):\n    return {'a': 2 * row['a']}\n")
    answer = flinkray("run", write_script(tmp_path, "helped", HELPED), "--", str(folder))
    refused(answer, 1, "JobManager could not start", "No module named 'only_here'", "--working-dir")
    nothing_is_left_running()
