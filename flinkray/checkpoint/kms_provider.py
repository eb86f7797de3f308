"""Data keys wrapped by a key of AWS KMS, which never leaves it. Each call has an event loop of its own, on a thread of its own: callers may be in one."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flinkray.checkpoint.keys import DataKey, DataKeyLostError, KeyProvider
from flinkray.config import AwsKms
from flinkray.errors import KeyUnavailableError, StorageError

TIMEOUT_S = 10.0
_TRIES = 3

_LOST = {"InvalidCiphertextException", "IncorrectKeyException"}
_THROTTLED = {"ThrottlingException", "LimitExceededException", "KMSInternalException", "DependencyTimeoutException"}


class AwsKmsProvider(KeyProvider):
    """Wraps by `Encrypt` and opens by `Decrypt`, the data key's id as encryption context. Credentials as for any AWS client (`AWS_*`)."""

    def __init__(self, config: AwsKms) -> None:
        self._config = config
        self._key_id = "kms-" + hashlib.sha256(config.key.encode()).hexdigest()[:16]

    @property
    def key_id(self) -> str:
        return self._key_id

    @property
    def description(self) -> str:
        return f"KMS key {self._config.key}"

    def __repr__(self) -> str:
        return f"AwsKmsProvider({self._config.key})"

    def wrap(self, data_key: DataKey) -> bytes:
        answer = self._call("encrypt", data_key.key_id, Plaintext=data_key.secret)
        return bytes(answer["CiphertextBlob"])

    def unwrap(self, data_key_id: str, wrapped: bytes) -> DataKey:
        answer = self._call("decrypt", data_key_id, CiphertextBlob=wrapped)
        return DataKey(data_key_id, bytes(answer["Plaintext"]))

    def _call(self, operation: str, data_key_id: str, **arguments: Any) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        arguments |= {"KeyId": self._config.key, "EncryptionContext": {"flinkray-data-key": data_key_id}}
        try:
            return _on_a_thread(lambda: asyncio.run(self._ask(operation, arguments)))
        except ClientError as error:
            raise self._said(error, operation, data_key_id) from error
        except BotoCoreError as error:
            raise StorageError(
                f"{self.description} did not answer {operation}: {error}; is the endpoint right, are credentials set?"
            ) from error

    async def _ask(self, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        from aiobotocore.session import get_session
        from botocore.config import Config

        retries = Config(connect_timeout=TIMEOUT_S, read_timeout=TIMEOUT_S, retries={"total_max_attempts": _TRIES, "mode": "standard"})
        region, endpoint = self._config.region_name, self._config.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_KMS")
        async with get_session().create_client("kms", region_name=region, endpoint_url=endpoint, config=retries) as client:
            answer: dict[str, Any] = await getattr(client, operation)(**arguments)
            return answer

    def _said(self, error: Any, operation: str, data_key_id: str) -> StorageError:
        code, message = error.response["Error"].get("Code", ""), error.response["Error"].get("Message", "")
        if code in _LOST:
            return DataKeyLostError(
                f"data key {data_key_id} does not open with {self.description}: its wrapping is damaged; what it sealed cannot be read"
            )
        if code in _THROTTLED:
            return StorageError(f"{self.description} answers {operation} with {code}: {message}; it was asked {_TRIES} times")
        return KeyUnavailableError(
            f"{self.description} ({self.key_id}) cannot be used: {code}: {message}; without that key nothing that it sealed can be read"
        )


def _on_a_thread(call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    with ThreadPoolExecutor(1, "flinkray-kms") as executor:
        return executor.submit(call).result()
