"""flinkray replay APP[/NAME]: what failed in user code, run again here, on the very rows and state.

exit 0: it does not fail any more (or --list), 1: it fails again, 2: there is no such incident
"""

from __future__ import annotations

import argparse
import pdb
import sys
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flinkray.errors import FlinkrayError, UsageError

if TYPE_CHECKING:
    from flinkray.runtime.incident import Incident


def add_parser(subparsers: Any) -> None:
    replay = subparsers.add_parser("replay", help="run what failed in user code again, here, on the same rows and state, under a debugger")
    replay.add_argument("incident", metavar="APP[/NAME]", help="as the error says; without a name the latest")
    replay.add_argument(
        "--storage", metavar="URI", help="where checkpoints lie (default: what the job's record says, else ~/.flinkray/checkpoints)"
    )
    replay.add_argument(
        "--key", metavar="KEY", help="what sealed it: a file, env:VARIABLE or a KMS key's ARN (default: FLINKRAY_KEY, else ~/.flinkray/key)"
    )
    replay.add_argument("--list", action="store_true", help="say which there are")
    replay.add_argument("--no-debugger", action="store_true", help="only say whether it fails again (so without a terminal, too)")


def replay(options: argparse.Namespace) -> int:
    """Carry out `flinkray replay ...`; returns the exit code."""
    from flinkray.checkpoint.incidents import list_incidents, read_incident
    from flinkray.checkpoint.names import parse_incident
    from flinkray.runtime.incident import Incident
    from flinkray.storage_commands import open_reader

    application, _, name = options.incident.partition("/")
    options.application = application
    reader = open_reader(options)
    if options.list:
        for object_name in list_incidents(reader.store):
            parsed = parse_incident(object_name)
            if parsed is not None:
                print(f"{application}/{parsed.name}")
        return 0
    name, content = read_incident(reader.store, reader.ring, application, name or None)
    try:
        incident = Incident.from_bytes(content)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"incident {name!r} needs code that is not here: {error}; run this where the job's modules can be imported"
        ) from error
    print(describe(incident, name))
    failure = run_again(incident)
    if failure is None:
        print("it does not fail any more")
        return 0
    print("".join(traceback.format_exception(failure)), end="")
    if not options.no_debugger and sys.stdin.isatty():
        pdb.post_mortem(_user_error(failure).__traceback__)
    return 1


def describe(incident: Incident, name: str) -> str:
    at = datetime.fromtimestamp(incident.at_s, UTC).isoformat(timespec="seconds")
    if incident.batch is not None:
        given = f"{incident.batch.num_rows} rows, input {incident.input_index}"
    elif incident.clock_s is not None:
        given = f"the clock at {datetime.fromtimestamp(incident.clock_s, UTC).isoformat(timespec='milliseconds')}"
    else:
        given = "the end of its inputs" if incident.ended else f"the watermark {incident.watermark_us}"
    rows = sum(table.num_rows for _, _, table in incident.states)
    state = f"{rows} rows in {len(incident.states)} states" if incident.whole else "left out: it was too large"
    after = f"after checkpoint {incident.checkpoint}" if incident.checkpoint else "before the first checkpoint"
    return (
        f"incident {incident.application}/{name}, {at}, {after}\n"
        f"operator {incident.spec.uid!r} ({incident.spec.kind}), subtask {incident.subtask} of {incident.parallelism}\n"
        f"given: {given}\nstate: {state}\n"
    )


def run_again(incident: Incident) -> Exception | None:
    """What it raises now; None: nothing."""
    from flinkray.operators.base import SteppingOperator
    from flinkray.operators.in_flight_operator import InFlightOperator
    from flinkray.operators.registry import build
    from flinkray.operators.restore import restored_states
    from flinkray.testing.harness import OperatorHarness

    operator = build(incident.spec)
    harness: OperatorHarness | None = None
    try:
        harness = OperatorHarness(
            operator,
            input_schemas=[schema for schema in incident.input_schemas if schema is not None],
            subtask=incident.subtask,
            parallelism=incident.parallelism,
            max_parallelism=incident.max_parallelism,
            hash_seed=incident.hash_seed,
            batch_rows=incident.batch_rows,
            uid=incident.spec.uid,
            output_schema=incident.spec.output_schema,
            restored=restored_states(incident.chains(), incident.key_groups, incident.subtask),
            restored_checkpoint=incident.checkpoint if incident.states else None,
        )
        if incident.batch is not None:
            operator.process(incident.batch, incident.input_index, harness)
        elif incident.watermark_us is not None:
            harness.watermark(incident.watermark_us)
        elif incident.clock_s is not None:
            harness.processing_time(incident.clock_s)
        elif incident.ended:
            harness.end()
        while isinstance(operator, SteppingOperator) and not operator.drained:
            harness.advance()
            if isinstance(operator, InFlightOperator):
                operator.on_end(harness)
                harness.calls.answer()
    except Exception as error:  # noqa: BLE001 - whatever user code raises is what is looked for
        return error
    finally:
        if harness is not None:
            harness.close()
    return None


def _user_error(error: Exception) -> BaseException:
    """What user code raised, inside of what flinkray made of it."""
    cause: BaseException = error
    while isinstance(cause, FlinkrayError) and cause.__cause__ is not None:
        cause = cause.__cause__
    return cause
