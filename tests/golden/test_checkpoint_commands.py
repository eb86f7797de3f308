"""`flinkray checkpoint list`, `verify` and `diff` on a real run's storage, sound and damaged."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import flinkray as fr
from flinkray.checkpoint.key_providers import generate_key_file
from flinkray.checkpoint.state_reader import StateReader
from flinkray.cli import run
from tests.golden.test_state_tables import APP, sliding, storage, taken, totals


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLINKRAY_KEY", str(folder / "key"))
        generate_key_file(str(folder / "key"))
        taken(folder, totals, parallelism=2)
    return folder


@pytest.fixture(autouse=True)
def key(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLINKRAY_KEY", str(stored / "key"))


def flinkray(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> tuple[int, str, str]:
    code = run(["checkpoint", *arguments, "--storage", storage(folder)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def document(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> list[dict[str, Any]]:
    code, out, err = flinkray(capsys, folder, *arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def written_at(object_name: str) -> int:
    """The checkpoint that wrote it: all of its chunks are needed as long as no other checkpoint has come."""
    found = re.search(r"c\d+-k(\d+)-", object_name)
    assert found is not None
    return int(found[1])


def test_list_shows_every_checkpoint_and_that_it_can_be_restored(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, stored, "list", APP)
    ids = [one["id"] for one in found]
    assert ids == sorted(set(ids))
    assert len(ids) > 1
    assert {one["kind"] for one in found} == {"full", "incremental"}
    assert all(one["restorable"] and one["bytes_written"] > 0 and one["duration_ms"] > 0 for one in found)
    assert all((one["bytes_referenced"] > 0) == (one["kind"] == "incremental") for one in found)
    code, out, _ = flinkray(capsys, stored, "list", APP)
    assert (code, out.count("restorable\n")) == (0, len(found))


def test_verify_reads_everything_back(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = flinkray(capsys, stored, "verify", APP)
    assert (code, out.count(": sound: ")) == (0, len(document(capsys, stored, "list", APP)))
    assert document(capsys, stored, "verify", APP, "2")[0]["problems"] == []


@pytest.mark.parametrize("damage", ["flip", "cut", "lose"])
def test_damage_is_found_named_and_exit_code_1(damage: str, stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "checkpoints"
    shutil.copytree(stored / "checkpoints", copy)
    newest = StateReader(storage(tmp_path), APP).checkpoint("latest").manifest
    name = max(newest.object_names, key=written_at)
    path = copy / APP / name
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    elif damage == "cut":
        del data[-1:]
    path.write_bytes(data)
    if damage == "lose":
        path.unlink()
    code, out, err = flinkray(capsys, tmp_path, "verify", APP, str(newest.checkpoint))
    assert (code, err) == (1, "")
    assert f"  {name}: " in out
    listed = {one["id"]: one["restorable"] for one in document(capsys, tmp_path, "list", APP)}
    assert listed[newest.checkpoint] is (damage != "lose"), "list looks at names only, verify at every byte"
    if damage == "lose":  # the others may have hit another operator's chunk
        with pytest.raises(fr.DamagedObjectError, match=name):
            fr.read_state(storage(tmp_path), APP, "state")


def test_a_damaged_manifest_is_listed_and_found_by_verify(stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(stored / "checkpoints", tmp_path / "checkpoints")
    reader = StateReader(storage(tmp_path), APP)
    second = reader.checkpoints()[-2]
    path = tmp_path / "checkpoints" / APP / f"log/{second.entry.number:012d}"
    path.write_bytes(path.read_bytes()[:-20])
    code, out, _ = flinkray(capsys, tmp_path, "verify", APP)
    assert code == 1
    assert f"log record {second.entry.number}: " in out
    assert [one["restorable"] for one in document(capsys, tmp_path, "list", APP)][:3] == [True, False, True]


def test_diff_counts_and_names_keys(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = (fr.read_state(storage(stored), APP, "state", at=at) for at in (5, 11))
    joined = before.join(after, "bidder", join_type="full outer", right_suffix="_later", coalesce_keys=True)
    added, removed = (joined.filter(pc.is_null(joined.column(name))) for name in ("bids", "bids_later"))
    both = joined.filter(pc.and_(pc.is_valid(joined.column("bids")), pc.is_valid(joined.column("bids_later"))))
    changed = both.filter(pc.not_equal(both.column("bids"), both.column("bids_later")))
    (found,) = document(capsys, stored, "diff", APP, "5", "11", "--keys", "1000000")
    assert (found["operator"], found["comparable"]) == ("state", True)
    for sort, rows in (("added", added), ("changed", changed), ("removed", removed)):
        assert found[sort] == rows.num_rows
        assert sorted(key["bidder"] for key in found[f"{sort}_keys"]) == sorted(rows.column("bidder").to_pylist())
    assert (found["same"], found["removed"]) == (both.num_rows - changed.num_rows, 0)
    assert found["added"] > 0
    assert found["changed"] > 0
    (backwards,) = document(capsys, stored, "diff", APP, "11", "5")
    assert (backwards["added"], backwards["removed"], backwards["changed"]) == (0, found["added"], found["changed"])
    code, out, _ = flinkray(capsys, stored, "diff", APP, "11", "11")
    assert (code, out) == (0, f"state: 0 added, 0 changed, 0 removed, {after.num_rows:,} the same\n")


def test_windows_that_closed_are_removed_in_a_diff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken(tmp_path, sliding, checkpoints=20)
    tables = [fr.read_state(storage(tmp_path), APP, "state", at=at).select(["auction", "window_start"]) for at in (3, 20)]
    before, after = ({(row["auction"], row["window_start"]) for row in table.to_pylist()} for table in tables)
    (found,) = document(capsys, tmp_path, "diff", APP, "3", "20")
    assert (found["added"], found["removed"]) == (len(after - before), len(before - after))
    assert found["removed"] > 0


def test_what_is_not_there_is_exit_code_2(stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("list", "nobody"), ("verify", APP, "999"), ("diff", APP, "1", "999"), ("list", "bad/name")):
        code, out, err = flinkray(capsys, stored, *arguments)
        assert (code, out) == (2, ""), arguments
        assert err.startswith("flinkray: ")
    other = tmp_path / "other.key"
    generate_key_file(str(other))
    code, _, err = flinkray(capsys, stored, "list", APP, "--key", str(other))
    assert code == 1, "storage that cannot be read"
    assert "give the key it was written with" in err


def test_without_storage_the_jobs_own_record_says_where(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    taken(tmp_path, totals)
    assert run(["checkpoint", "list", APP]) == 0
    assert "restorable" in capsys.readouterr().out


def test_rows_without_a_name_are_compared_as_a_multiset() -> None:
    from flinkray.operators.state_views import StateView
    from flinkray.runtime.state_diff import _by_row

    old, new = (StateView(pa.table({"a": values, "b": ["x"] * len(values)}), ()) for values in ([1, 1, 2, None], [1, 3, None, None]))
    found = _by_row("top", old, new)
    assert (found.added.column("a").to_pylist(), found.removed.column("a").to_pylist(), found.same) == ([3, None], [1, 2], 2)
