"""Keys: where they come from, what losing one means, and that none is ever shown."""

from __future__ import annotations

import base64
import os
import pickle
from pathlib import Path

import pytest
from checkpoint_fakes import KEY, checkpoint, faulty_store, provider

from flinkray.checkpoint.key_providers import LocalKeyProvider, generate_key_file, resolve_provider
from flinkray.checkpoint.keys import DataKey, DataKeyLostError, KeyRing, rewrap
from flinkray.checkpoint.log_store import open_log
from flinkray.config import KeyEnv, KeyFile
from flinkray.errors import ConfigError, KeyUnavailableError, StorageError

TEXT = base64.b64encode(KEY).decode()
OTHER_KEY = bytes(reversed(KEY))


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLINKRAY_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FLINKRAY_KEY", raising=False)


def test_a_generated_key_file_is_private_and_usable(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "app.key"
    key_id = generate_key_file(str(path))
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["app.key"]
    assert resolve_provider(KeyFile(str(path)), "s3://bucket").key_id == key_id


def test_a_key_file_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "app.key"
    generate_key_file(str(path))
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="never written over"):
        generate_key_file(str(path))
    assert path.read_bytes() == before


def test_local_storage_gets_a_key_made_once_and_told_once(tmp_path: Path) -> None:
    told: list[str] = []
    first = resolve_provider(None, "file:///data", told.append)
    again = resolve_provider(None, "memory://x", told.append)
    assert first.key_id == again.key_id
    (line,) = told
    assert str(tmp_path / "home" / "key") in line
    assert first.key_id in line


def test_the_made_key_is_told_on_stderr_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    resolve_provider(None, "file:///data")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("made checkpoint key") == 1


def test_remote_storage_without_a_key_is_refused_naming_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="flinkray keys generate"):
        resolve_provider(None, "s3://bucket/prefix")
    assert not (tmp_path / "home").exists()


def test_the_variable_holds_a_key_or_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLINKRAY_KEY", TEXT)
    direct = resolve_provider(None, "s3://bucket")
    assert direct.key_id == provider().key_id
    assert direct.description == "the key in $FLINKRAY_KEY"
    key_id = generate_key_file(str(tmp_path / "k"))
    monkeypatch.setenv("FLINKRAY_KEY", str(tmp_path / "k"))
    by_path = resolve_provider(None, "s3://bucket")
    assert by_path.key_id == key_id
    assert by_path.description == f"key file {tmp_path}/k ($FLINKRAY_KEY)"


def test_the_configured_key_goes_before_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLINKRAY_KEY", base64.b64encode(OTHER_KEY).decode())
    monkeypatch.setenv("MY_KEY", TEXT)
    assert resolve_provider(KeyEnv("MY_KEY"), "file:///x").key_id == provider().key_id


@pytest.mark.parametrize("text", ["c2VjcmV0", TEXT[:-6], "not base64 at all, but a secret phrase"])
def test_a_key_with_a_typing_error_is_refused_and_not_shown(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "k").write_text(text)
    monkeypatch.setenv("MY_KEY", text)
    monkeypatch.setenv("FLINKRAY_KEY", text)
    for config in (KeyFile(str(tmp_path / "k")), KeyEnv("MY_KEY"), None):
        with pytest.raises(ConfigError, match="flinkray keys generate") as caught:
            resolve_provider(config, "s3://bucket")
        assert text not in str(caught.value)


def test_a_missing_key_file_or_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"app\.key cannot be read: No such file"):
        resolve_provider(KeyFile(str(tmp_path / "app.key")), "file:///x")
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        resolve_provider(KeyEnv("NO_SUCH_KEY"), "file:///x")


def test_no_repr_shows_a_secret() -> None:
    data_key = DataKey("c1-00", KEY)
    for shown in (repr(data_key), str(data_key), repr(provider()), str(provider())):
        assert repr(KEY)[2:-1] not in shown
        assert KEY.hex() not in shown
        assert TEXT not in shown
    assert pickle.loads(pickle.dumps(data_key)) == data_key


def test_a_provider_does_not_travel() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(provider())


# -- data keys --------------------------------------------------------------------------------------------------------


def test_a_data_key_is_wrapped_in_storage_and_opened_by_another_process() -> None:
    store = faulty_store()
    made = KeyRing(store, provider()).create(claim=3)
    assert made.key_id.startswith("c3-")
    (name,) = store.list("keys/")
    assert name == f"keys/{made.key_id}/{provider().key_id}"
    assert made.secret not in store.get(name)
    assert KeyRing(store, provider()).get_all([made.key_id]) == {made.key_id: made}


def test_another_key_says_which_one_is_needed_and_which_is_given() -> None:
    store = faulty_store()
    made = KeyRing(store, provider()).create(1)
    wrong = provider(OTHER_KEY)
    with pytest.raises(KeyUnavailableError, match=f"{provider().key_id}.*{wrong.key_id}") as caught:
        KeyRing(store, wrong).get(made.key_id)
    assert not isinstance(caught.value, DataKeyLostError)


def test_a_wrapped_key_that_is_gone_or_damaged_is_lost() -> None:
    store = faulty_store()
    made = KeyRing(store, provider()).create(1)
    (name,) = store.list("keys/")
    for position in (0, 5, 20, -1):
        store.flip_byte(name, position)
        with pytest.raises(DataKeyLostError, match=made.key_id):
            KeyRing(store, provider()).get(made.key_id)
        store.flip_byte(name, position)
    store.put(name, b"")
    with pytest.raises(DataKeyLostError, match="damaged"):
        KeyRing(store, provider()).get(made.key_id)
    store.delete([name])
    with pytest.raises(DataKeyLostError, match="deleted"):
        KeyRing(store, provider()).get(made.key_id)


def test_a_wrapped_key_does_not_pass_for_another() -> None:
    store = faulty_store()
    ring = KeyRing(store, provider())
    one, other = ring.create(1), ring.create(1)
    names = store.list("keys/")
    store.swap(*names)
    for key_id in (one.key_id, other.key_id):
        with pytest.raises(DataKeyLostError):
            KeyRing(store, provider()).get(key_id)


def test_a_put_without_an_answer_makes_no_key() -> None:
    store = faulty_store()
    store.next_creates("lost")
    with pytest.raises(StorageError, match="no answer"):
        KeyRing(store, provider()).create(1)


def test_rotation_adds_a_wrapping_and_both_keys_open_everything() -> None:
    store = faulty_store()
    log = open_log(store, "app", provider())
    log.claim("token")
    manifest = checkpoint(log, 1)
    new = provider(OTHER_KEY)
    assert rewrap(store, provider(), new) == 1
    assert rewrap(store, provider(), new) == 0
    for key in (provider(), new):
        reader = open_log(store, "app", key)
        assert reader.manifest(reader.read().manifests[0]) == manifest


def test_a_log_under_another_key_is_no_empty_log_and_only_a_fresh_start_may_pass_over_it() -> None:
    store = faulty_store()
    old = open_log(store, "app", provider())
    old.claim("token")
    checkpoint(old, 1)
    log = open_log(store, "app", provider(OTHER_KEY))
    for use in (log.read, lambda: log.claim("new")):
        with pytest.raises(KeyUnavailableError, match=provider().key_id):
            use()
    claimed = log.claim("new", fresh=True)
    assert (claimed.claim, claimed.next_checkpoint, claimed.next_attempt) == (3, 2, 2)


def test_a_key_file_readable_by_nobody_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        resolve_provider(KeyFile(str(path)), "file:///x")
    with pytest.raises(ConfigError, match="cannot write"):
        generate_key_file("/proc/no/such/place")


def test_keys_have_32_bytes() -> None:
    with pytest.raises(ConfigError, match="31 bytes"):
        LocalKeyProvider(os.urandom(31), "it")
