"""Records of the storage log and their bytes. Pure.

    FRLOG1 <newline> header as one line of JSON <newline> body

The header is readable without a key, so that who owns the application and which ids are taken can always be told. The body is sealed by
the shell with the header's bytes as associated data: it makes both authentic.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import Enum
from typing import Any

FORMAT = 1
_MAGIC = b"FRLOG1\n"


class RecordKind(Enum):
    CLAIM = "claim"
    """Somebody takes the application over; its number is the claim."""
    MANIFEST = "manifest"
    """A checkpoint is complete."""
    VOID = "void"
    """The manifest that was to stand here never will."""
    ENDED = "ended"
    """The run is over."""


@dataclass(frozen=True)
class Link:
    """A record by its number and the SHA-256 of its bytes, hex."""

    number: int
    digest: str


@dataclass(frozen=True)
class Draft:
    """A record before it has a number. `token` is random and tells whose it is."""

    kind: RecordKind
    token: str
    claim: int = 0
    """0 for a Claim, which is known by the number it gets."""
    checkpoint: int = 0
    attempt: int = 0
    ended: str = ""


@dataclass(frozen=True)
class RecordHeader:
    """What a record says to everybody."""

    number: int
    parent: Link | None
    """The record before, as it stood when this one was written; None for the first of an application."""
    kind: RecordKind
    token: str
    application: str
    """Whose log this was written into: a copied log is told apart from the original."""
    claim: int
    checkpoint: int
    attempt: int
    ended: str
    data_key: str
    """Id of the data key that seals the body."""
    written_at_us: int
    """For people; nothing is decided by it."""


class RecordFormatError(ValueError):
    """Bytes that are no record, or one of a newer format."""


def place(draft: Draft, number: int, parent: Link | None, application: str, data_key: str, written_at_us: int) -> RecordHeader:
    """The header of `draft` at its number."""
    claim = number if draft.kind is RecordKind.CLAIM else draft.claim
    return RecordHeader(
        number=number,
        parent=parent,
        kind=draft.kind,
        token=draft.token,
        application=application,
        claim=claim,
        checkpoint=draft.checkpoint,
        attempt=draft.attempt,
        ended=draft.ended,
        data_key=data_key,
        written_at_us=written_at_us,
    )


def encode_header(header: RecordHeader) -> bytes:
    """One line of JSON, without its newline."""
    parent = vars(header.parent) if header.parent is not None else None
    values = {**vars(header), "parent": parent, "kind": header.kind.value, "format": FORMAT}
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def encode(header_bytes: bytes, body: bytes) -> bytes:
    return _MAGIC + header_bytes + b"\n" + body


def decode(data: bytes) -> tuple[RecordHeader, bytes, bytes]:
    """Header, the header's bytes (the body's associated data), body. Raises RecordFormatError."""
    line, newline, body = data[len(_MAGIC) :].partition(b"\n")
    if not data.startswith(_MAGIC) or not newline:
        raise RecordFormatError("it does not begin like a record of the storage log")
    try:
        values: dict[str, Any] = json.loads(line)
        if values.pop("format") != FORMAT:
            raise RecordFormatError("it was written by a newer flinkray")
        parent = values.pop("parent")
        link = Link(int(parent["number"]), str(parent["digest"])) if parent else None
        kind = RecordKind(values.pop("kind"))
        header = RecordHeader(parent=link, kind=kind, **values)
    except RecordFormatError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RecordFormatError(f"its header cannot be read: {error}") from error
    if encode_header(header) != line:
        raise RecordFormatError("its header is not as flinkray writes it")
    return header, line, body


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
