"""Opening checkpoint storage by its URI, and the probes that say early what will not work later."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from flinkray.checkpoint.base import CreateOutcome, ObjectStore
from flinkray.checkpoint.names import PROBE_FOLDER
from flinkray.config import JOB_NAME
from flinkray.errors import ConfigError, StorageError


def open_store(uri: str, application: str, storage_options: Mapping[str, Any] | None = None) -> ObjectStore:
    """The objects of `application`, rooted at `<uri>/<application>/`. `uri` is file:///folder, s3://bucket/prefix or memory://name.

    `storage_options` are for s3: `endpoint_url`, `key`, `secret`, `token`, `client_kwargs`, `config_kwargs` as in s3fs; without them the
    AWS_* environment speaks. Raises ConfigError for a URI that cannot be used, StorageError for a folder that cannot be made.
    """
    if not JOB_NAME.fullmatch(application) or application in (".", ".."):
        raise ConfigError(f"application name {application!r}: use 1 to 128 of A-Z a-z 0-9 _ . -")
    scheme, separator, rest = uri.partition("://")
    if not separator:
        raise ConfigError(f"storage {uri!r} is no URI; write file:///folder, s3://bucket/prefix or memory://name")
    if scheme == "file":
        from flinkray.checkpoint.file_store import FileStore

        return FileStore(os.path.join(_local_folder(uri, rest), application))
    if scheme == "memory":
        from flinkray.checkpoint.memory_store import MemoryStore

        return MemoryStore(f"{rest.strip('/')}/{application}")
    if scheme == "s3":
        from flinkray.checkpoint.s3_store import S3Store

        bucket, _, prefix = rest.strip("/").partition("/")
        if not bucket:
            raise ConfigError(f"storage {uri!r} names no bucket; write s3://bucket/prefix")
        return S3Store(bucket, f"{prefix}/{application}" if prefix else application, storage_options)
    raise ConfigError(f"storage {uri!r}: {scheme}:// is not known; use file://, s3:// or memory://")


def is_remote(uri: str) -> bool:
    """True where a key made on this machine would be lost before the data are."""
    return uri.partition("://")[0] not in ("file", "memory")


def check_reachable(store: ObjectStore) -> None:
    """Raises StorageError, within seconds and saying what to do, when the store cannot be written, read and listed."""
    store.list(PROBE_FOLDER)  # first: some S3 servers make a missing bucket at the first PUT, and hide a typing error by it
    name = f"{PROBE_FOLDER}reachable-{os.urandom(8).hex()}"
    store.put(name, b"flinkray")
    seen = _get_or_nothing(store, name) == b"flinkray" and name in store.list(PROBE_FOLDER)
    store.delete([name])
    if not seen:
        raise StorageError(
            f"{store.uri} does not show what was just written to it: checkpoints need storage that reads its own writes "
            "(no cache or replica in between)"
        )


def write_probe(store: ObjectStore, token: str) -> None:
    """Put the probe that every TaskManager of this run must find (rule 6)."""
    store.put(_probe_name(token), token.encode())


def check_probe(store: ObjectStore, token: str) -> None:
    """Raises StorageError when the leader's probe is not seen here: the folder is not shared between the nodes."""
    if _get_or_nothing(store, _probe_name(token)) != token.encode():
        raise StorageError(
            f"the leader wrote to {store.uri}, but this node ({os.uname().nodename}) does not see it: "
            "file:// storage must be a folder that all nodes share; use one, or s3://"
        )


def creates_if_absent(store: ObjectStore, create: Callable[[str, bytes], CreateOutcome]) -> bool:
    """Create one object twice: True when the second is refused and the first still stands. What `conditional_create` asks."""
    store.list(PROBE_FOLDER)  # before any PUT, as above
    name = f"{PROBE_FOLDER}create-{os.urandom(8).hex()}"
    outcomes = create(name, b"first"), create(name, b"second")
    standing = _get_or_nothing(store, name)
    store.delete([name])
    return outcomes == (CreateOutcome.CREATED, CreateOutcome.TAKEN) and standing == b"first"


def check_name(name: str) -> str:
    """The name of an object: relative, without empty parts, dots or control characters. Raises ValueError."""
    if not name or any(part in ("", ".", "..") for part in name.split("/")) or not name.isprintable() or "\\" in name:
        raise ValueError(f"{name!r} is no name of an object")
    return name


def check_prefix(prefix: str) -> str:
    """A folder: ends with `/`, or is empty for everything. Raises ValueError."""
    if prefix:
        if not prefix.endswith("/"):
            raise ValueError(f"{prefix!r} is no folder: it does not end with '/'")
        check_name(prefix[:-1])
    return prefix


def _get_or_nothing(store: ObjectStore, name: str) -> bytes:
    try:
        return store.get(name)
    except FileNotFoundError:
        return b""


def _probe_name(token: str) -> str:
    return f"{PROBE_FOLDER}leader-{token}"


def _local_folder(uri: str, rest: str) -> str:
    folder = os.path.expanduser(rest)
    if not os.path.isabs(folder):
        raise ConfigError(f"storage {uri!r} is no absolute folder; write file:///folder (three slashes)")
    return folder
