"""Names of objects under an application's prefix, in one place: `log/`, `data/`, `keys/`, `probe/`, `incidents/`. Pure.

Data objects carry claim, checkpoint, attempt and instance (rule 15), data keys the claim they were made for: so that whoever sweeps can
tell what is another owner's, without reading it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LOG_FOLDER = "log/"
DATA_FOLDER = "data/"
KEYS_FOLDER = "keys/"
PROBE_FOLDER = "probe/"
CANDIDATES_FOLDER = "manifests/"
"""Manifests on a store without conditional create (rule 6, last sentence)."""

INCIDENTS_FOLDER = "incidents/"
"""What failed in user code, for `flinkray replay`."""

_LOG = re.compile(r"log/(\d{12})")
_DATA = re.compile(r"data/c(\d+)-k(\d+)-a(\d+)-([0-9A-Za-z]+)-(.+)")
_KEY = re.compile(r"keys/(c(\d+)-[0-9a-f]+)/([^/]+)")
_INCIDENT = re.compile(r"incidents/(c(\d+)-[0-9a-f]+)/(.+)")
_CANDIDATE = re.compile(r"manifests/c(\d+)-k(\d+)-a(\d+)-([0-9A-Za-z]+)")


@dataclass(frozen=True)
class DataObjectName:
    """What the name of a data object says."""

    claim: int
    checkpoint: int
    attempt: int
    instance: str
    part: str


@dataclass(frozen=True)
class WrappedKeyName:
    """What the name of a wrapped data key says."""

    data_key_id: str
    claim: int
    key_id: str


@dataclass(frozen=True)
class IncidentName:
    """What the name of an incident says."""

    data_key_id: str
    claim: int
    name: str


@dataclass(frozen=True, order=True)
class CandidateName:
    """What the name of an unordered manifest says."""

    claim: int
    checkpoint: int
    attempt: int
    token: str


def origin_of(application: str, claim: int) -> str:
    """Who wrote something: bound into every seal (rule 18)."""
    return f"{application}/{claim}"


def log_name(number: int) -> str:
    return f"{LOG_FOLDER}{number:012d}"


def parse_log(name: str) -> int | None:
    match = _LOG.fullmatch(name)
    return int(match[1]) if match else None


def data_object_name(claim: int, checkpoint: int, attempt: int, instance: str, part: str) -> str:
    """Where one subtask (or slot) puts all its chunks of one checkpoint; `part` tells the objects of one instance apart."""
    return f"{DATA_FOLDER}c{claim}-k{checkpoint}-a{attempt}-{instance}-{part}"


def parse_data_object(name: str) -> DataObjectName | None:
    match = _DATA.fullmatch(name)
    return DataObjectName(int(match[1]), int(match[2]), int(match[3]), match[4], match[5]) if match else None


def wrapped_key_name(data_key_id: str, key_id: str) -> str:
    return f"{KEYS_FOLDER}{data_key_id}/{key_id}"


def parse_wrapped_key(name: str) -> WrappedKeyName | None:
    match = _KEY.fullmatch(name)
    return WrappedKeyName(match[1], int(match[2]), match[3]) if match else None


def parse_incident(name: str) -> IncidentName | None:
    match = _INCIDENT.fullmatch(name)
    return IncidentName(match[1], int(match[2]), match[3]) if match else None


def candidate_name(claim: int, checkpoint: int, attempt: int, token: str) -> str:
    return f"{CANDIDATES_FOLDER}c{claim}-k{checkpoint}-a{attempt}-{token}"


def parse_candidate(name: str) -> CandidateName | None:
    match = _CANDIDATE.fullmatch(name)
    return CandidateName(int(match[1]), int(match[2]), int(match[3]), match[4]) if match else None
