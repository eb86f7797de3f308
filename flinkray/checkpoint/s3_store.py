"""`s3://`: objects in a bucket, through s3fs for session and credentials, with the S3 calls made one by one.

s3fs's directory cache is not used, listings are always fresh. Every call is bounded in time, tried a few times where that is safe, and
ends in a StorageError that says what to do. `create` is one PUT with If-None-Match (rule 6); where its answer is lost, or says "taken"
(the client may have sent it twice), the object is read back and its bytes decide.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, TypeVar

from flinkray.checkpoint.base import CreateOutcome, ObjectStore
from flinkray.checkpoint.s3_errors import (
    Refusal,
    explain,
    is_conflict,
    is_missing,
    is_out_of_range,
    is_precondition_failed,
    is_worth_retrying,
)
from flinkray.checkpoint.store import check_name, check_prefix, creates_if_absent
from flinkray.errors import StorageError

T = TypeVar("T")

TRIES = 3
CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 10.0
PATIENCE_S = 12.0
"""No further try of a call that has taken longer: one answer that never came is asked for again, two are not."""

MIN_BYTES_PER_S = 1 << 20
"""A transfer gets a second more per MiB."""

_FIRST_PAUSE_S = 0.2
_MULTIPART_BYTES = 64 << 20

_INHERITED: list[Any] = []
"""Clients of the parent process, never closed here: closing one would take its sockets out of the event loop that both share."""


class S3Store(ObjectStore):
    """Objects below `s3://bucket/prefix`. Thread-safe; after a fork the child gets connections of its own."""

    def __init__(self, bucket: str, prefix: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/"
        self._options = _with_bounds(dict(storage_options or {}))
        self._lock = threading.Lock()
        self._client: tuple[int, Any] | None = None
        self._probing = threading.Lock()
        self._conditional: bool | None = None
        self.page_names = 1000
        """Names per listing page and per deletion; S3 allows no more."""

    @property
    def uri(self) -> str:
        return f"s3://{self._bucket}/{self._prefix[:-1]}"

    @property
    def shared(self) -> bool:
        return True

    @property
    def conditional_create(self) -> bool:
        with self._probing:
            if self._conditional is None:
                self._conditional = creates_if_absent(self, self._create)
            return self._conditional

    def put(self, name: str, data: bytes | memoryview) -> None:
        if len(data) > _MULTIPART_BYTES:
            self.put_parts(name, [data])
            return
        key, body = self._key(name), bytes(data)
        seconds = READ_TIMEOUT_S + len(body) / MIN_BYTES_PER_S
        self._call("write", name, lambda s3: s3._call_s3("put_object", Bucket=self._bucket, Key=key, Body=body), seconds)

    def put_parts(self, name: str, parts: Iterable[bytes | memoryview]) -> None:
        """A multipart upload where it is more than one part."""
        pieces = _regrouped(parts, _MULTIPART_BYTES // 2)
        first = next(pieces, b"")
        second = next(pieces, None)
        if second is None:
            self.put(name, first)
            return
        place = {"Bucket": self._bucket, "Key": self._key(name)}
        begun = self._call("write", name, lambda s3: s3._call_s3("create_multipart_upload", **place))
        place["UploadId"] = begun["UploadId"]
        try:
            tags = [self._put_part(name, place, number, part) for number, part in enumerate(chain((first, second), pieces), 1)]
            whole = {"Parts": tags}
            self._call("write", name, lambda s3: s3._call_s3("complete_multipart_upload", MultipartUpload=whole, **place), 60.0)
        except BaseException:  # also of `parts`: nothing may stand there, and what was sent costs money
            with contextlib.suppress(StorageError):
                self._call("write", name, lambda s3: s3._call_s3("abort_multipart_upload", **place))
            raise

    def _put_part(self, name: str, place: dict[str, Any], number: int, part: bytes) -> dict[str, Any]:
        seconds = READ_TIMEOUT_S + len(part) / MIN_BYTES_PER_S
        answer = self._call("write", name, lambda s3: s3._call_s3("upload_part", PartNumber=number, Body=part, **place), seconds)
        return {"PartNumber": number, "ETag": answer["ETag"]}

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        key = self._key(name)
        if length == 0:
            if not self.exists(name):
                raise FileNotFoundError(f"{self.uri}/{name}")
            return b""
        asked = {} if offset == 0 and length is None else {"Range": f"bytes={offset}-{'' if length is None else offset + length - 1}"}
        seconds = READ_TIMEOUT_S + (length or 0) / MIN_BYTES_PER_S + (600.0 if length is None else 0.0)
        try:
            return self._call("read", name, lambda s3: _read_body(s3, Bucket=self._bucket, Key=key, **asked), seconds)
        except Refusal as refusal:
            if is_missing(refusal.cause):
                raise FileNotFoundError(f"{self.uri}/{name}") from refusal.cause
            if is_out_of_range(refusal.cause):
                return b""
            raise

    def create(self, name: str, data: bytes) -> CreateOutcome:
        if not self.conditional_create:
            raise StorageError(f"{self.uri} cannot create {name} if absent: it ignores If-None-Match")
        return self._create(name, data)

    def _create(self, name: str, data: bytes) -> CreateOutcome:
        key, seconds = self._key(name), READ_TIMEOUT_S + len(data) / MIN_BYTES_PER_S
        started = time.monotonic()
        for attempt in range(TRIES):
            try:
                self._once("create", name, lambda s3: self._put_if_absent(s3, key, data), seconds)
                return CreateOutcome.CREATED
            except Refusal as refusal:
                standing = self._standing(name, refusal)
                if standing is not None:
                    return CreateOutcome.CREATED if standing == data else CreateOutcome.TAKEN
                retriable = is_worth_retrying(refusal.cause) or is_conflict(refusal.cause) or is_precondition_failed(refusal.cause)
                if attempt == TRIES - 1 or not retriable or time.monotonic() - started > PATIENCE_S:
                    raise
                time.sleep(_FIRST_PAUSE_S * 2**attempt)
        raise AssertionError("unreachable")

    def exists(self, name: str) -> bool:
        key = self._key(name)
        try:
            self._call("look for", name, lambda s3: s3._call_s3("head_object", Bucket=self._bucket, Key=key))
        except Refusal as refusal:
            if is_missing(refusal.cause, head=True):
                return False
            raise
        return True

    def list(self, prefix: str) -> list[str]:
        under = self._prefix + check_prefix(prefix)
        names: list[str] = []
        token: dict[str, str] = {}
        while True:
            page = self._call("list", prefix, partial(self._list_page, under, token))
            names += [entry["Key"][len(self._prefix) :] for entry in page.get("Contents", []) if not entry["Key"].endswith("/")]
            if not page.get("IsTruncated"):
                return sorted(names)
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, names: Sequence[str]) -> None:
        keys = [{"Key": self._key(name)} for name in names]
        for start in range(0, len(keys), self.page_names):
            batch = {"Objects": keys[start : start + self.page_names], "Quiet": True}
            answer = self._call("delete", names[start], partial(self._delete_batch, batch))
            failed = [error for error in answer.get("Errors", []) if error.get("Code") != "NoSuchKey"]
            if failed:
                reason = failed[0].get("Message") or failed[0].get("Code")
                raise StorageError(f"cannot delete {failed[0].get('Key')} in {self.uri}: {reason}")

    # -- calls ----------------------------------------------------------------------------------------------------

    def _put_if_absent(self, s3: Any, key: str, data: bytes) -> Awaitable[Any]:
        return s3._call_s3("put_object", Bucket=self._bucket, Key=key, Body=data, IfNoneMatch="*")

    def _standing(self, name: str, doubt: Refusal) -> bytes | None:
        """What stands at `name` after a create without a clear answer. An answer that cannot be had leaves the doubt as it was."""
        try:
            return self.get(name)
        except FileNotFoundError:
            return None
        except StorageError:
            raise doubt from None

    def _list_page(self, under: str, token: dict[str, str], s3: Any) -> Awaitable[Any]:
        return s3._call_s3("list_objects_v2", Bucket=self._bucket, Prefix=under, MaxKeys=self.page_names, **token)

    def _delete_batch(self, batch: dict[str, Any], s3: Any) -> Awaitable[Any]:
        return s3._call_s3("delete_objects", Bucket=self._bucket, Delete=batch)

    def _call(self, action: str, name: str, request: Callable[[Any], Awaitable[T]], seconds: float = READ_TIMEOUT_S) -> T:
        """Run an idempotent request, again where that may help and has not taken long already."""
        started = time.monotonic()
        for attempt in range(TRIES - 1):
            try:
                return self._once(action, name, request, seconds)
            except Refusal as refusal:
                if not is_worth_retrying(refusal.cause) or time.monotonic() - started > PATIENCE_S:
                    raise
                time.sleep(_FIRST_PAUSE_S * 2**attempt)
        return self._once(action, name, request, seconds)

    def _once(self, action: str, name: str, request: Callable[[Any], Awaitable[T]], seconds: float) -> T:
        from fsspec.asyn import sync

        s3 = self._filesystem()
        try:
            return sync(s3.loop, lambda: _bounded(request(s3), seconds + CONNECT_TIMEOUT_S))
        except Exception as error:  # botocore, aiohttp and s3fs raise many unrelated types: each is the storage's answer
            raise Refusal(explain(error, action, name, self.uri, self._options.get("endpoint_url")), error) from error

    def _filesystem(self) -> Any:
        with self._lock:
            if self._client is None or self._client[0] != os.getpid():
                import s3fs

                if self._client is not None:
                    _INHERITED.append(self._client[1])
                client = s3fs.S3FileSystem(**self._options, use_listings_cache=False, skip_instance_cache=True)
                client.retries = 1  # tries are counted here
                self._client = (os.getpid(), client)
            return self._client[1]

    def _key(self, name: str) -> str:
        return self._prefix + check_name(name)


def _regrouped(parts: Iterable[bytes | memoryview], size: int) -> Iterator[bytes]:
    """The same bytes in pieces of `size`, the last one smaller."""
    held = bytearray()
    for part in parts:
        view = memoryview(part).cast("B")
        while len(view):
            missing = size - len(held)
            held += view[:missing]
            view = view[missing:]
            if len(held) == size:
                yield bytes(held)
                held.clear()
    if held:
        yield bytes(held)


async def _bounded(request: Awaitable[T], seconds: float) -> T:
    return await asyncio.wait_for(request, seconds)


async def _read_body(s3: Any, **request: Any) -> bytes:
    answer = await s3._call_s3("get_object", **request)
    async with answer["Body"] as body:
        return await body.read()


def _with_bounds(options: dict[str, Any]) -> dict[str, Any]:
    """Timeouts and retries that end within seconds; what the user has set stays.

    Checksums that some S3 stores do not know are left out: every object carries its own digest.
    """
    if "endpoint_url" not in options and not (options.get("client_kwargs") or {}).get("endpoint_url"):
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint:
            options["endpoint_url"] = endpoint
    config = dict(options.get("config_kwargs") or {})
    config.setdefault("connect_timeout", CONNECT_TIMEOUT_S)
    config.setdefault("read_timeout", READ_TIMEOUT_S)
    config.setdefault("retries", {"total_max_attempts": 1, "mode": "standard"})
    config.setdefault("request_checksum_calculation", "when_required")
    config.setdefault("response_checksum_validation", "when_required")
    config.setdefault("max_pool_connections", 32)
    options["config_kwargs"] = config
    return options
