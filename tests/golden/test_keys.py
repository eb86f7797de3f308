"""Keys of a real run's storage: listed, rotated, lost and destroyed; files, and AWS KMS as moto's server plays it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

import flinkray as fr
from flinkray.checkpoint import kms_provider
from flinkray.checkpoint.key_providers import generate_key_file, resolve_provider
from flinkray.checkpoint.keys import DataKey, DataKeyLostError
from flinkray.cli import run
from flinkray.errors import StorageError

APP = "sealed"
TIMEOUT_S = 60.0


def run_job(folder: Path, key: object, stop_with: str = "one") -> None:
    """A job that makes a savepoint and stops."""
    checkpointing = fr.Checkpointing(interval="50ms", min_pause="0s", storage=f"file://{folder}/checkpoints", key=key)
    env = fr.StreamEnvironment(APP, runtime="local", checkpointing=checkpointing)
    rows = env.from_source(fr.sources.Nexmark("bid", rows=10_000_000, rate=20_000), uid="in")
    rows.key_by("bidder").aggregate(bids=fr.agg.count(), emit="final").uid("totals").sink_to(fr.sinks.Blackhole(), uid="out")
    job, deadline = env.execute_async(), time.monotonic() + TIMEOUT_S
    while not job.status()["records_in"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    job.stop(stop_with, timeout=TIMEOUT_S)


def read(folder: Path, key: object, at: str = "savepoint:one") -> pa.Table:
    return fr.read_state(f"file://{folder}/checkpoints", APP, "totals", at=at, encryption_key=key)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLINKRAY_HOME", str(folder / "home"))
        generate_key_file(str(folder / "old.key"))
        run_job(folder, fr.KeyFile(str(folder / "old.key")))
    return folder


@pytest.fixture
def sealed(made: Path, tmp_path: Path) -> Path:
    """A copy that the test may change, and a second key beside it."""
    shutil.copytree(made / "checkpoints", tmp_path / "checkpoints")
    shutil.copy(made / "old.key", tmp_path / "old.key")
    generate_key_file(str(tmp_path / "new.key"))
    return tmp_path


def keys(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> tuple[int, object, str]:
    code = run(["keys", *arguments, "--storage", f"file://{folder}/checkpoints", "--json"])
    shown = capsys.readouterr()
    return code, json.loads(shown.out) if shown.out else None, shown.err


def contents(folder: Path) -> dict[str, bytes]:
    """Everything but wrapped keys."""
    files = (path for path in (folder / "checkpoints").rglob("*") if path.is_file() and "/keys/" not in str(path))
    return {str(path): path.read_bytes() for path in files}


def test_rotation_wraps_data_keys_anew_and_rewrites_no_data(sealed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = (fr.KeyFile(str(sealed / name)) for name in ("old.key", "new.key"))
    before, state = contents(sealed), read(sealed, old)
    code, found, _ = keys(capsys, sealed, "rotate", APP, "--key", old.path, "--to-key", new.path)
    assert (code, found["dropped"]) == (0, 0)
    assert found["wrapped"] >= 2, "of the checkpoints and of the savepoint"
    assert keys(capsys, sealed, "rotate", APP, "--key", old.path, "--to-key", new.path)[1]["wrapped"] == 0
    assert contents(sealed) == before
    for at in ("savepoint:one", "latest"):
        assert read(sealed, new, at).equals(read(sealed, old, at))
    _, listed, _ = keys(capsys, sealed, "list", APP)
    assert {(one["place"], one["key_id"]) for one in listed} == {
        (place, key_id) for place in ("checkpoints", "savepoint one") for key_id in (found["from"], found["to"])
    }
    assert read(sealed, new).equals(state)


def test_a_key_that_is_destroyed_after_a_rotation_opens_nothing_and_the_new_one_everything(
    sealed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = (fr.KeyFile(str(sealed / name)) for name in ("old.key", "new.key"))
    assert keys(capsys, sealed, "rotate", APP, "--key", old.path, "--to-key", new.path, "--drop-old")[1]["dropped"] >= 2
    assert read(sealed, new).num_rows > 0
    key_id = resolve_provider(new, "file:///").key_id
    with pytest.raises(fr.KeyUnavailableError, match=rf"is sealed with key {key_id}"):
        read(sealed, old)
    run_job(sealed, new, "two")
    assert read(sealed, new, "savepoint:two").num_rows > 0, "the next run goes on with the new key"


def test_a_lost_key_is_an_error_that_names_it_and_whose_data_keys_are_gone_nothing_opens(
    sealed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = (fr.KeyFile(str(sealed / name)) for name in ("old.key", "new.key"))
    key_id = resolve_provider(old, "file:///").key_id
    with pytest.raises(fr.KeyUnavailableError, match=f"is sealed with key {key_id}"):
        read(sealed, new)
    assert run(["checkpoint", "list", APP, "--storage", f"file://{sealed}/checkpoints", "--key", new.path]) == 1
    assert key_id in capsys.readouterr().err
    assert keys(capsys, sealed, "rotate", APP, "--key", new.path, "--to-key", old.path)[0] == 0, "all is wrapped for it already"
    for wrapped in (sealed / "checkpoints").rglob("keys/*/*"):
        wrapped.unlink()
    with pytest.raises(fr.KeyUnavailableError, match="what it sealed cannot be read any more"):
        read(sealed, old)


def test_what_is_no_key_or_no_application_is_exit_code_2(sealed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert keys(capsys, sealed, "list", "nobody")[0] == 2
    for bad in ("arn:aws:s3:::bucket", "env:NOT_SET", str(sealed / "missing")):
        code, _, err = keys(capsys, sealed, "rotate", APP, "--key", str(sealed / "old.key"), "--to-key", bad)
        assert (code, err.startswith("flinkray: ")) == (2, True)
    assert keys(capsys, sealed, "rotate", APP, "--key", str(sealed / "old.key"), "--to-key", str(sealed / "old.key"))[0] == 2


# --- AWS KMS


@pytest.fixture(scope="module")
def kms() -> Iterator[tuple[str, object]]:
    """The endpoint, and a client for what flinkray never does: making and deleting keys."""
    server_module = pytest.importorskip("moto.server")
    import boto3

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        server = server_module.ThreadedMotoServer(port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        endpoint = f"http://127.0.0.1:{port}"
        yield endpoint, boto3.client("kms", region_name="eu-central-1", endpoint_url=endpoint)
        server.stop()


@pytest.fixture
def kms_key(kms: tuple[str, object]) -> fr.AwsKms:
    endpoint, client = kms
    return fr.AwsKms(client.create_key()["KeyMetadata"]["Arn"], endpoint)


def test_a_job_sealed_by_kms_is_read_with_it_and_with_nothing_else(
    kms_key: fr.AwsKms, kms: tuple[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_job(tmp_path, kms_key)
    assert read(tmp_path, kms_key).num_rows > 0
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", kms[0])
    monkeypatch.setenv("FLINKRAY_KEY", kms_key.key)
    assert read(tmp_path, None).num_rows > 0, "FLINKRAY_KEY may be the ARN"
    generate_key_file(str(tmp_path / "other.key"))
    key_id = resolve_provider(kms_key, "s3://").key_id
    with pytest.raises(fr.KeyUnavailableError, match=f"is sealed with key {key_id}"):
        read(tmp_path, fr.KeyFile(str(tmp_path / "other.key")))
    from moto.kms.models import kms_backends

    del kms_backends["123456789012"]["eu-central-1"].keys[kms_key.key.split("/")[1]]  # AWS does so days after schedule_key_deletion
    with pytest.raises(fr.KeyUnavailableError, match=rf"KMS key {kms_key.key}.*cannot be used: NotFoundException"):
        read(tmp_path, kms_key)


@pytest.mark.slow
def test_from_a_file_to_kms_and_back(kms_key: fr.AwsKms, kms: tuple[str, object], sealed: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", kms[0])
    state = read(sealed, fr.KeyFile(str(sealed / "old.key")))
    assert keys(capsys, sealed, "rotate", APP, "--key", str(sealed / "old.key"), "--to-key", kms_key.key, "--drop-old")[0] == 0
    assert read(sealed, kms_key).equals(state)
    assert keys(capsys, sealed, "rotate", APP, "--key", kms_key.key, "--to-key", str(sealed / "new.key"))[0] == 0
    assert read(sealed, fr.KeyFile(str(sealed / "new.key"))).equals(state)


def test_kms_binds_a_wrapping_to_its_data_key_and_says_what_is_wrong(kms_key: fr.AwsKms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kms_provider, "_TRIES", 1)
    provider = resolve_provider(kms_key, "s3://bucket")
    data_key = DataKey("c1-ab", bytes(range(32)))
    wrapped = provider.wrap(data_key)
    assert data_key.secret not in wrapped
    assert provider.unwrap("c1-ab", wrapped) == data_key
    with pytest.raises(DataKeyLostError, match="c1-cd does not open with KMS key"):
        provider.unwrap("c1-cd", wrapped)
    gone = fr.AwsKms(kms_key.key[:-4] + "0000", kms_key.endpoint_url)
    with pytest.raises(fr.KeyUnavailableError, match="cannot be used: NotFoundException"):
        resolve_provider(gone, "s3://bucket").wrap(data_key)
    away = fr.AwsKms(kms_key.key, "http://127.0.0.1:9")
    with pytest.raises(StorageError, match="did not answer encrypt") as raised:
        resolve_provider(away, "s3://bucket").wrap(data_key)
    assert not isinstance(raised.value, fr.KeyUnavailableError), "waiting may mend it"
