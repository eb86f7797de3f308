"""Where the wrapping key comes from: a file, an environment variable, AWS KMS, FLINKRAY_KEY, or one made here for local storage."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import sys
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from flinkray.checkpoint.keys import DataKey, DataKeyLostError, KeyProvider
from flinkray.checkpoint.names import KEYS_FOLDER
from flinkray.checkpoint.sealing import KEY_BYTES
from flinkray.checkpoint.store import is_remote
from flinkray.config import AwsKms, KeyConfig, KeyEnv, KeyFile, flinkray_home
from flinkray.errors import ConfigError

KEY_VARIABLE = "FLINKRAY_KEY"

_MAGIC = b"FRW1"
_NONCE_BYTES = 12


class LocalKeyProvider(KeyProvider):
    """Wraps with AES-256-GCM under 32 bytes that this process holds. The key is in no repr, and the provider does not pickle."""

    def __init__(self, key: bytes, description: str) -> None:
        if len(key) != KEY_BYTES:
            raise ConfigError(f"{description} holds {len(key)} bytes, a key has {KEY_BYTES}; make one with `flinkray keys generate`")
        self._cipher = AESGCM(key)
        self._key_id = hashlib.sha256(b"flinkray key id" + key).hexdigest()[:16]
        self._description = description

    @property
    def key_id(self) -> str:
        return self._key_id

    @property
    def description(self) -> str:
        return self._description

    def __repr__(self) -> str:
        return f"LocalKeyProvider({self._description}, key {self._key_id})"

    def wrap(self, data_key: DataKey) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return _MAGIC + nonce + self._cipher.encrypt(nonce, data_key.secret, self._bound(data_key.key_id))

    def unwrap(self, data_key_id: str, wrapped: bytes) -> DataKey:
        nonce, sealed = wrapped[len(_MAGIC) : len(_MAGIC) + _NONCE_BYTES], wrapped[len(_MAGIC) + _NONCE_BYTES :]
        try:
            if not wrapped.startswith(_MAGIC) or len(nonce) != _NONCE_BYTES:
                raise InvalidTag
            secret = self._cipher.decrypt(nonce, sealed, self._bound(data_key_id))
        except InvalidTag:
            raise DataKeyLostError(
                f"data key {data_key_id} does not open with key {self._key_id} ({self._description}): "
                f"the object under {KEYS_FOLDER}{data_key_id}/ is damaged; what it sealed cannot be read"
            ) from None
        return DataKey(data_key_id, secret)

    def _bound(self, data_key_id: str) -> bytes:
        return f"flinkray data key/{data_key_id}/{self._key_id}".encode()


def resolve_provider(
    config: KeyConfig | None, storage_uri: str, announce: Callable[[str], None] | None = None, make: bool = True
) -> KeyProvider:
    """The key for this storage: the configured one, else FLINKRAY_KEY (32 bytes base64, the ARN of a KMS key, or else a path), else, for storage on this machine
    only, `~/.flinkray/key`, made when missing and then told through `announce` (default: a line on stderr); not with `make=False`, for
    reading what is there.

    Raises ConfigError when there is none or it is no key; remote storage never gets a key made here, since losing this machine would lose
    everything.
    """
    if isinstance(config, KeyFile):
        return _from_file(os.path.expanduser(config.path), f"key file {config.path}")
    if isinstance(config, KeyEnv):
        value = os.environ.get(config.variable)
        if not value:
            raise ConfigError(
                f"environment variable {config.variable} is to hold the checkpoint key, but is not set here; "
                "make one with `flinkray keys generate`"
            )
        return LocalKeyProvider(_decoded(value, f"environment variable {config.variable}"), f"the key in ${config.variable}")
    if isinstance(config, AwsKms):
        return _from_kms(config)
    value = os.environ.get(KEY_VARIABLE)
    if value and value.startswith("arn:"):
        return _from_kms(AwsKms(value))
    if value:
        if _is_key(value):
            return LocalKeyProvider(_decoded(value, KEY_VARIABLE), f"the key in ${KEY_VARIABLE}")
        path = os.path.expanduser(value)
        if not os.path.exists(path):  # not repeated here: it may be a key with a typing error
            raise ConfigError(
                f"{KEY_VARIABLE} holds neither 32 bytes in base64 nor the path of a file; make a key with `flinkray keys generate FILE`"
            )
        return _from_file(path, f"key file {value} (${KEY_VARIABLE})")
    if is_remote(storage_uri):
        raise ConfigError(
            f"storage {storage_uri} needs a key: make one with `flinkray keys generate FILE`, keep it safe, "
            f"and give it as Checkpointing(key=KeyFile(...)) or in {KEY_VARIABLE}; it is not made by itself, since without it "
            "nothing in remote storage could be read again"
        )
    return _default_provider(announce or _say, make)


def _from_kms(config: AwsKms) -> KeyProvider:
    from flinkray.checkpoint.kms_provider import AwsKmsProvider

    return AwsKmsProvider(config)


def generate_key_file(path: str) -> str:
    """Write a fresh key to `path` (mode 0600, base64, durable) and return its key id.

    Raises ConfigError when the file exists or cannot be made.
    """
    path = os.path.expanduser(path)
    key = os.urandom(KEY_BYTES)
    temporary = f"{path}.{os.getpid()}-{os.urandom(4).hex()}"
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(base64.b64encode(key) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)  # whole or not at all, and never over another key
        finally:
            os.unlink(temporary)
    except FileExistsError:
        raise ConfigError(f"{path} exists; a key is never written over: what it sealed would be lost. Give another path") from None
    except OSError as error:
        raise ConfigError(f"cannot write key file {path}: {error.strerror or error}") from error
    return LocalKeyProvider(key, path).key_id


def _default_provider(announce: Callable[[str], None], make: bool) -> KeyProvider:
    path = os.path.join(flinkray_home(), "key")
    if make and not os.path.exists(path):
        with contextlib.suppress(ConfigError):  # another process was first: its key is read below
            key_id = generate_key_file(path)
            announce(f"made checkpoint key {key_id} in {path}; without that file its checkpoints cannot be read")
    return _from_file(path, f"key file {path}")


def _from_file(path: str, description: str) -> KeyProvider:
    try:
        with open(path, encoding="ascii") as file:
            text = file.read(4096)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not base64"
        raise ConfigError(f"{description} cannot be read: {reason}; make one with `flinkray keys generate FILE`") from error
    return LocalKeyProvider(_decoded(text, description), description)


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text.strip(), validate=True)) == KEY_BYTES
    except (binascii.Error, ValueError):
        return False


def _decoded(text: str, description: str) -> bytes:
    """Never repeats `text`: it may be a key with a typing error."""
    try:
        return base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise ConfigError(f"{description} does not hold 32 bytes in base64; make one with `flinkray keys generate FILE`") from None


def _say(text: str) -> None:
    print(f"flinkray: {text}", file=sys.stderr)
