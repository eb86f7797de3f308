"""Commands on what lies in checkpoint storage; no job need run.

flinkray checkpoint list APP             exit 0
flinkray checkpoint verify APP [ID]      0: can be restored, 1: damaged, or storage does not answer
flinkray checkpoint diff APP A B         0, whether or not they differ
flinkray savepoint create APP NAME       0: READY, 1: it FAILED (the job ended, storage does not answer), or the time was not enough
flinkray savepoint list APP, describe APP NAME, delete APP NAME, diff APP A B
flinkray savepoint copy APP NAME [--to URI] [--to-app APP2] [--to-name NAME2] [--to-key FILE]      0, 1 when it is damaged
each: 2 for an application, checkpoint or savepoint that is not there, or a name that is taken
"""

from __future__ import annotations

import argparse
import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flinkray.config import default_storage, duration_s, key_config
from flinkray.errors import KeyUnavailableError, RestoreError

if TYPE_CHECKING:
    from flinkray.checkpoint.state_reader import Listed, StateReader
    from flinkray.checkpoint.state_source import StateSource
    from flinkray.runtime.state_diff import OperatorDiff


def add_parsers(subparsers: Any) -> None:
    checkpoint = subparsers.add_parser("checkpoint", help="look at checkpoints in storage")
    commands = checkpoint.add_subparsers(dest="checkpoint_command", required=True, metavar="COMMAND")
    _storage_parser(commands, "list", "checkpoints that storage holds, and whether each can be restored")
    verify = _storage_parser(commands, "verify", "read checkpoints back and check every byte; exit 1 when one is damaged")
    verify.add_argument("id", nargs="?", type=int, metavar="ID", help="only this one")
    diff = _storage_parser(commands, "diff", "keys added, changed and removed, by operator")
    diff.add_argument("before", type=int, metavar="A")
    diff.add_argument("after", type=int, metavar="B")
    diff.add_argument("--keys", type=int, default=0, metavar="N", help="show up to N keys of each sort (default: counts only)")

    savepoint = subparsers.add_parser("savepoint", help="make, look at, copy and delete savepoints")
    commands = savepoint.add_subparsers(dest="savepoint_command", required=True, metavar="COMMAND")
    _storage_parser(commands, "list", "savepoints of an application, in whatever state")
    create = _storage_parser(commands, "create", "make one of a running job, and wait until it is READY")
    create.add_argument("--timeout", default="10min", metavar="D", help="how long to wait (default: 10min); it may become READY later")
    copy = _storage_parser(commands, "copy", "copy one to another storage, application or name, every byte checked")
    copy.add_argument("--to", metavar="URI", help="storage of the copy (default: the same)")
    copy.add_argument("--to-app", metavar="APP", help="application of the copy (default: the same)")
    copy.add_argument("--to-name", metavar="NAME", help="name of the copy (default: the same)")
    copy.add_argument("--to-key", metavar="KEY", help="key that is to open the copy (default: the same key)")
    difference = _storage_parser(commands, "diff", "keys added, changed and removed between two savepoints, by operator")
    difference.add_argument("before", metavar="A")
    difference.add_argument("after", metavar="B")
    difference.add_argument("--keys", type=int, default=0, metavar="N", help="show up to N keys of each sort (default: counts only)")
    others = [
        _storage_parser(commands, "describe", "all about one"),
        _storage_parser(commands, "delete", "delete one, in whatever state it is"),
    ]
    for parser in (create, copy, *others):
        parser.add_argument("name", metavar="NAME")


def _storage_parser(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text)
    parser.add_argument("application", metavar="APP")
    parser.add_argument(
        "--storage", metavar="URI", help="where it lies (default: what the job's record says, else ~/.flinkray/checkpoints)"
    )
    parser.add_argument(
        "--key", metavar="KEY", help="what sealed it: a file, env:VARIABLE or a KMS key's ARN (default: FLINKRAY_KEY, else ~/.flinkray/key)"
    )
    parser.add_argument("--json", action="store_true")
    return parser


def checkpoint(options: argparse.Namespace) -> int:
    """Carry out `flinkray checkpoint ...`; returns the exit code."""
    if options.checkpoint_command == "list":
        return _list(open_reader(options), options.json)
    if options.checkpoint_command == "verify":
        return _verify(open_reader(options), options.id, options.json)
    reader = open_reader(options)
    return _diff(reader.checkpoint(options.before), reader.checkpoint(options.after), options)


def savepoint(options: argparse.Namespace) -> int:
    """Carry out `flinkray savepoint ...`; returns the exit code."""
    from flinkray.checkpoint.state_reader import StateReader
    from flinkray.savepoint_commands import copy_savepoint, create_savepoint, delete_savepoint, describe_savepoint, list_savepoints

    reader = open_reader(options)
    if options.savepoint_command == "diff":
        return _diff(reader.savepoints.read(options.before)[1], reader.savepoints.read(options.after)[1], options)
    if options.savepoint_command == "list":
        return list_savepoints(reader, options.json)
    if options.savepoint_command == "create":
        return create_savepoint(reader, options.name, duration_s(options.timeout, "--timeout"), options.json)
    if options.savepoint_command == "copy":
        key = key_config(options.to_key or options.key) if options.to_key or options.key else None
        target = StateReader(options.to or reader.storage, options.to_app or reader.application, key)
        return copy_savepoint(reader, options.name, target, options.to_name or options.name, options.json)
    if options.savepoint_command == "delete":
        return delete_savepoint(reader, options.name)
    return describe_savepoint(reader, options.name, options.json)


def open_reader(options: argparse.Namespace) -> StateReader:
    from flinkray.checkpoint.state_reader import StateReader

    key = key_config(options.key) if options.key else None
    return StateReader(options.storage or known_storage(options.application), options.application, key)


def known_storage(application: str) -> str:
    """Where the job's record on this machine says that its checkpoints lie."""
    from flinkray.config import JOB_NAME
    from flinkray.runtime.record import JobRecord

    if JOB_NAME.fullmatch(application):
        record = JobRecord(application).read()
        with suppress(TypeError, KeyError, AttributeError):
            uri = str(record["status"]["storage"]["uri"])  # type: ignore[index]
            if uri.endswith(f"/{application}"):
                return uri[: -len(application) - 1]
    return default_storage()


# --- list


def _list(reader: StateReader, as_json: bool) -> int:
    objects = set(reader.store.list("data/"))
    documents = [_document(reader, listed, objects) for listed in reversed(reader.checkpoints())]
    if as_json:
        print(json.dumps(documents, indent=2))
        return 0
    if not documents:
        print(f"no checkpoints of {reader.application} in {reader.store.uri}")
    for document in documents:
        print(_line(document))
    return 0


def _document(reader: StateReader, listed: Listed, objects: set[str]) -> dict[str, Any]:
    manifest = listed.manifest
    if manifest is None:
        return {"id": listed.checkpoint, "restorable": False, "reason": listed.damage}
    missing = sorted(manifest.object_names - objects)
    reason = f"{len(missing)} objects are missing: {missing[0]}" if missing else ""
    try:
        reader.ring.get_all(manifest.data_keys)
    except KeyUnavailableError as error:
        reason = str(error)
    stats = manifest.stats
    return {
        "id": manifest.checkpoint,
        "created_at": _iso(manifest.created_at_us),
        "kind": "full" if stats.full else "incremental",
        "duration_ms": round(stats.duration_ms, 1),
        "sync_ms": round(stats.sync_ms, 2),
        "bytes_written": stats.written_bytes,
        "bytes_referenced": stats.referenced_bytes,
        "rows": stats.rows,
        "restorable": not reason,
        "reason": reason,
    }


def _line(document: dict[str, Any]) -> str:
    if "kind" not in document:
        return f"{document['id'] or '?':>8}  damaged: {document['reason']}"
    return (
        f"{document['id']:>8}  {document['created_at']}  {document['kind']:11}  {document['duration_ms']:>9,} ms (sync {document['sync_ms']:,})  "
        f"wrote {document['bytes_written']:,} bytes, refers to {document['bytes_referenced']:,}  "
        f"{'restorable' if document['restorable'] else 'not restorable: ' + document['reason']}"
    )


# --- verify


def _verify(reader: StateReader, wanted: int | None, as_json: bool) -> int:
    found = reader.checkpoints()
    if wanted is not None:
        found = [listed for listed in found if listed.checkpoint == wanted]
    if not found:
        there = f"no checkpoint {wanted}" if wanted is not None else "no checkpoint"
        raise RestoreError(
            f"there is {there} of {reader.application} in {reader.store.uri}; see: flinkray checkpoint list {reader.application}"
        )
    documents = [document for listed in reversed(found) if (document := _verified(reader, listed)) is not None]
    damaged = any(document["problems"] for document in documents)
    if as_json:
        print(json.dumps(documents, indent=2))
        return int(damaged)
    for document in documents:
        problems = document["problems"]
        verdict = f"{len(problems)} problems" if problems else f"sound: {document['chunks']} chunks, {document['bytes']:,} bytes read back"
        print(f"checkpoint {document['id'] or '?'}: {verdict}")
        for problem in problems:
            print(f"  {problem['object']}: {problem['reason']}")
    return int(damaged)


def _verified(reader: StateReader, listed: Listed) -> dict[str, Any] | None:
    """None: retention has deleted it while it was being read."""
    from flinkray.checkpoint.state_source import StateSource

    manifest = listed.manifest
    if manifest is None:
        problems = [{"object": f"log record {listed.entry.number}", "reason": listed.damage}]
        return {"id": listed.checkpoint, "chunks": 0, "bytes": 0, "problems": problems}
    found = StateSource(manifest, reader.store, reader.ring).problems()
    if found and all(now.entry.number != listed.entry.number for now in reader.checkpoints()):
        return None
    return {
        "id": manifest.checkpoint,
        "chunks": len(manifest.chunks),
        "bytes": sum(chunk.sealed_bytes for chunk in manifest.chunks),
        "problems": [{"object": problem.object_name, "reason": problem.reason} for problem in found],
    }


# --- diff


def _diff(before: StateSource, after: StateSource, options: argparse.Namespace) -> int:
    from flinkray.runtime.state_diff import diff

    operators = diff(before, after)
    documents = [_diff_document(operator, options.keys) for operator in operators]
    if options.json:
        print(json.dumps(documents, indent=2, default=str))
        return 0
    for document in documents:
        print(_diff_lines(document))
    return 0


def _diff_document(operator: OperatorDiff, keys: int) -> dict[str, Any]:
    if not operator.comparable:
        return {"operator": operator.operator, "comparable": False}
    tables = {"added": operator.added, "changed": operator.changed, "removed": operator.removed}
    shown = {f"{sort}_keys": table.slice(0, keys).to_pylist() for sort, table in tables.items()} if keys else {}
    counts = {sort: table.num_rows for sort, table in tables.items()}
    return {"operator": operator.operator, "comparable": True, **counts, "same": operator.same, **shown}


def _diff_lines(document: dict[str, Any]) -> str:
    if not document["comparable"]:
        return f"{document['operator']}: its state has no decoded form, keys are not compared"
    head = f"{document['operator']}: {document['added']:,} added, {document['changed']:,} changed, {document['removed']:,} removed, {document['same']:,} the same"
    sorts = [(sign, document.get(f"{sort}_keys", [])) for sign, sort in (("+", "added"), ("~", "changed"), ("-", "removed"))]
    return "\n".join(
        [head, *(f"  {sign} {', '.join(f'{name}={value}' for name, value in key.items())}" for sign, keys in sorts for key in keys)]
    )


def _iso(micros: int) -> str:
    return datetime.fromtimestamp(micros / 1e6, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
