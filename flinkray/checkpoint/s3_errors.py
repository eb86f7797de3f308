"""What S3's many errors mean: whether to try again, and what to tell a person to do."""

from __future__ import annotations

import asyncio
from typing import Any

from flinkray.errors import StorageError


class Refusal(StorageError):
    """A request that S3 refused or did not answer; `cause` is the client's own error."""

    def __init__(self, message: str, cause: BaseException | None = None) -> None:
        super().__init__(message)
        self._cause = cause

    @property
    def cause(self) -> BaseException | None:
        return self._cause

    def __reduce__(self) -> tuple[Any, ...]:
        return StorageError, self.args  # the client's errors do not all pickle


_CREDENTIALS = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "AccessDenied",
    "ExpiredToken",
    "InvalidToken",
    "AuthorizationHeaderMalformed",
    "403",
    "401",
    "Forbidden",
    "Unauthorized",
}
_RETRIED_CODES = {
    "SlowDown",
    "InternalError",
    "ServiceUnavailable",
    "RequestTimeout",
    "Throttling",
    "RequestLimitExceeded",
    "TooManyRequests",
}


def code_of(error: BaseException | None) -> str:
    """S3's error code, wherever the client has wrapped it; empty when S3 did not answer."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", "")) or str(_status(error))
        error = error.__cause__
    return ""


def is_missing(error: BaseException | None, head: bool = False) -> bool:
    """S3 said that there is no such object.

    Only a HEAD, whose answer has no body, says so by a bare 404: elsewhere that is not S3 talking.
    """
    return code_of(error) == "NoSuchKey" or (head and code_of(error) in ("404", "NotFound"))


def is_out_of_range(error: BaseException | None) -> bool:
    return code_of(error) in ("InvalidRange", "416")


def is_precondition_failed(error: BaseException | None) -> bool:
    return code_of(error) in ("PreconditionFailed", "412")


def is_conflict(error: BaseException | None) -> bool:
    """Two conditional PUTs met: neither has a clear answer yet."""
    return code_of(error) in ("ConditionalRequestConflict", "OperationAborted", "409")


def is_worth_retrying(error: BaseException | None) -> bool:
    """No answer, or one that speaks of a moment; not a refusal, and not credentials that cannot be found."""
    code = code_of(error)
    if code:
        return code in _RETRIED_CODES or _status(error) >= 500
    return not _lacks_credentials(error) and not isinstance(error, TypeError | ValueError | AttributeError)


def explain(error: BaseException, action: str, name: str, uri: str, endpoint: str | None) -> str:
    """What happened to which object, and what to do."""
    code = code_of(error)
    what = f"cannot {action} {name or 'objects'} in {uri}"
    server = endpoint or "Amazon S3"
    if code in _CREDENTIALS:
        return (
            f"{what}: {server} refuses the credentials ({code}); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
            "(or storage_options key= and secret=), and that they may read, write, list and delete there"
        )
    if code == "NoSuchBucket":
        return f"{what}: the bucket does not exist at {server}; create it, or give another --storage"
    if code in ("PermanentRedirect", "301", "IllegalLocationConstraintException"):
        return f"{what}: the bucket lies in another region; set AWS_REGION, or storage_options client_kwargs={{'region_name': ...}}"
    if code:
        return f"{what}: {server} answered {code}: {error}"
    if _lacks_credentials(error):
        return f"{what}: there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or storage_options key= and secret="
    reason = "no answer in time" if isinstance(error, asyncio.TimeoutError | TimeoutError) else f"{type(error).__name__}: {error}"
    return f"{what}: {server} does not answer ({reason}); check that it runs, and endpoint_url in storage_options or AWS_ENDPOINT_URL"


def _status(error: BaseException | None) -> int:
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        error = error.__cause__
    return 0


def _lacks_credentials(error: BaseException | None) -> bool:
    return type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound")
