"""A savepoint's manifest and its bytes. Pure.

    FRSAVE1 <newline> header as one line of JSON <newline> sealed body

The header says without a key what the savepoint is; the body is the manifest of its state, sealed with the header as associated data, which
makes both authentic.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from flinkray.errors import RestoreError, UsageError

FORMAT = 1
SAVEPOINTS_FOLDER = "savepoints/"

_MAGIC = b"FRSAVE1\n"
_FAILURE_MAGIC = b"FRFAIL1\n"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,256}")
_LONGEST_AS_IT_IS = 200
"""File systems take 255 bytes."""


@dataclass(frozen=True)
class SavepointFacts:
    """What one is told of where the state came from."""

    checkpoint: int
    claim: int
    fingerprint: str
    code_digest: str
    """SHA-256 of the job's script, hex; empty where it had none (a notebook)."""
    package_version: str
    """flinkray's."""


@dataclass(frozen=True)
class SavepointHeader:
    name: str
    application: str
    """Whose it is now; a copy under another name says that name."""
    token: str
    created_at_us: int
    data_key: str
    key_id: str
    """Of the key that wrapped the data key when it was made."""
    bytes: int
    """Sealed."""
    rows: int
    facts: SavepointFacts


class SavepointFormatError(ValueError):
    """Bytes that are no manifest of a savepoint."""


def check_savepoint_name(name: str) -> str:
    """Raises UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"savepoint {name!r}: use 1 to 256 of A-Z a-z 0-9 _ . -")
    return name


def savepoint_folder(name: str) -> str:
    """Where all of one savepoint lies, deletions and tries that failed included."""
    plain = len(name) <= _LONGEST_AS_IT_IS and name not in (".", "..")
    return f"{SAVEPOINTS_FOLDER}{name if plain else '~' + hashlib.sha256(name.encode()).hexdigest()}/"


def encode_header(header: SavepointHeader) -> bytes:
    """One line of JSON, without its newline."""
    return json.dumps({**asdict(header), "format": FORMAT}, sort_keys=True, separators=(",", ":")).encode()


def encode_failure(reason: str) -> bytes:
    """What stands in a manifest's place when there never will be one."""
    return _FAILURE_MAGIC + reason.encode()


def decode_failure(data: bytes) -> str | None:
    """Why it failed; None for what is no failure."""
    return data[len(_FAILURE_MAGIC) :].decode(errors="replace") if data.startswith(_FAILURE_MAGIC) else None


def encode_savepoint(header_bytes: bytes, sealed: bytes) -> bytes:
    return _MAGIC + header_bytes + b"\n" + sealed


def decode_savepoint(data: bytes) -> tuple[SavepointHeader, bytes, bytes]:
    """Header, the header's bytes (the body's associated data), sealed body. Raises SavepointFormatError; RestoreError for a newer format."""
    line, newline, body = data[len(_MAGIC) :].partition(b"\n")
    if not data.startswith(_MAGIC) or not newline:
        raise SavepointFormatError("it does not begin like a savepoint")
    try:
        values: dict[str, Any] = json.loads(line)
        version = values.pop("format")
        if version != FORMAT:
            raise RestoreError(f"a savepoint of format {version}, this flinkray reads format {FORMAT}: use the version that wrote it")
        header = SavepointHeader(**{**values, "facts": SavepointFacts(**values["facts"])})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SavepointFormatError(f"its header cannot be read: {error}") from error
    if encode_header(header) != line:
        raise SavepointFormatError("its header is not as flinkray writes it")
    return header, line, body
