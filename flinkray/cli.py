"""The command line. Exit code 0 on success, 1 when the job failed or storage could not be read, 2 for wrong usage or input, 130 and 143
when an interrupt or SIGTERM cancelled the job."""

from __future__ import annotations

import argparse
import os
import runpy
import sys
import traceback
from typing import Any

from flinkray import commands, incident_commands, job_requests, storage_commands
from flinkray.config import duration_s
from flinkray.errors import FlinkrayError

DURATION_HELP = "like 500ms, 10s, 5min"
INTERRUPTED = 130
"""Ctrl-C, as shells have it: 128 and the signal's number."""
TERMINATED = 143


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the console script; exits the process."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Carry out one command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    job_arguments: list[str] = []
    if "--" in given:
        cut = given.index("--")
        given, job_arguments = given[:cut], given[cut + 1 :]
    options = _parser().parse_args(given)
    try:
        if options.command == "run":
            return _run_job(options, job_arguments)
        if options.command == "plan":
            return _plan(options, job_arguments)
        return _others(options)
    except FlinkrayError as error:
        print(f"flinkray: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        return TERMINATED if type(interrupt).__name__ == "Terminated" else INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="flinkray",
        description="Stateful, exactly-once stream processing for Python on Ray.",
        epilog="Exit code: 0 success, 1 the job failed or storage could not be read, 2 wrong usage or input, 130 or 143 cancelled by an "
        "interrupt or SIGTERM.",
    )
    subparsers = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    job = subparsers.add_parser("run", help="run a job script; its own arguments come after --")
    job.add_argument("script", metavar="JOB.py")
    job.add_argument("--name", help="name of the job (default: the code's, else the script's stem)")
    job.add_argument("--parallelism", type=int)
    job.add_argument("--runtime", choices=("ray", "local"))
    job.add_argument("--storage", metavar="URI", help="where checkpoints lie, file:///path or s3://bucket/prefix")
    job.add_argument("--checkpoint-interval", metavar="D", help=DURATION_HELP)
    job.add_argument("--restore", metavar="WHAT", help="latest (default), none, savepoint:NAME, or checkpoint:ID")
    job.add_argument("--allow-non-restored-state", action="store_true", default=None, help="drop state whose operator is gone")
    job.add_argument("--allow-repeated-output", action="store_true", default=None, help="accept rows that are written again")
    job.add_argument("--detach", action="store_true", default=None, help="return when the job is submitted")
    plan = subparsers.add_parser("plan", help="what a restore would keep, drop, re-type and start empty; exit 1 when it would be refused")
    plan.add_argument("script", metavar="JOB.py")
    plan.add_argument("--from", dest="restore", default="latest", metavar="WHAT", help="latest (default), savepoint:NAME, or checkpoint:ID")
    plan.add_argument("--name", help="name of the job (default: the code's, else the script's stem)")
    plan.add_argument("--parallelism", type=int)
    plan.add_argument("--storage", metavar="URI", help="where checkpoints lie (default: what the code says)")
    plan.add_argument("--key", metavar="FILE", help="key file that sealed them (default: what the code says)")
    plan.add_argument("--allow-non-restored-state", action="store_true", default=None, help="drop state whose operator is gone")
    plan.add_argument("--allow-repeated-output", action="store_true", default=None, help="accept rows that are written again")
    plan.add_argument("--json", action="store_true")
    listing = subparsers.add_parser("list", help="jobs that run, and those that ended")
    listing.add_argument("--json", action="store_true")
    status = subparsers.add_parser("status", help="how a job is doing")
    status.add_argument("name")
    status.add_argument("--json", action="store_true")
    status.add_argument("--watch", action="store_true", help="again and again, until the job has ended")
    cancel = subparsers.add_parser("cancel", help="end a job; its checkpoints are kept")
    cancel.add_argument("name")
    stop = subparsers.add_parser("stop", help="end a job with a last checkpoint, everything up to it committed")
    stop.add_argument("name")
    stop.add_argument("--savepoint", metavar="NAME", help="make a savepoint of that checkpoint")
    stop.add_argument("--drain", action="store_true", help="flush windows and fire timers first, as at the end of the input")
    rescale = subparsers.add_parser("rescale", help="go on at another parallelism")
    rescale.add_argument("name")
    rescale.add_argument("parallelism", type=int)
    for parser in (stop, rescale):
        parser.add_argument("--timeout", default="10min", metavar="D", help="how long to wait (default: 10min); it may happen later")
    storage_commands.add_parsers(subparsers)
    incident_commands.add_parser(subparsers)
    drill = subparsers.add_parser("drill", help="lose a part of a running job for real, and say what that did")
    drill.add_argument("name")
    drill.add_argument("target", choices=("leader", "taskmanager", "node", "zone"))
    drill.add_argument("zone", nargs="?")
    demo = subparsers.add_parser("demo", help="hot items on a local Ray, with a TaskManager killed on the way, checked against DuckDB")
    demo.add_argument("--fast", action="store_true", help="fewer rows")
    subparsers.add_parser("doctor", help="what works on this machine, and what a job would not survive")
    keys = subparsers.add_parser("keys", help="keys that seal checkpoints").add_subparsers(dest="keys_command", required=True)
    generate = keys.add_parser("generate", help="make a key file (mode 0600)")
    generate.add_argument("path")
    listed = keys.add_parser("list", help="keys that open an application's checkpoints and savepoints")
    rotate = keys.add_parser("rotate", help="wrap data keys for another key as well; no data is rewritten")
    for parser in (listed, rotate):
        parser.add_argument("application", metavar="APP")
        parser.add_argument(
            "--storage", metavar="URI", help="where they lie (default: what the job's record says, else ~/.flinkray/checkpoints)"
        )
        parser.add_argument("--json", action="store_true")
    rotate.add_argument(
        "--key",
        metavar="KEY",
        help="the present one: a file, env:VARIABLE or a KMS key's ARN (default: FLINKRAY_KEY, else ~/.flinkray/key)",
    )
    rotate.add_argument("--to-key", metavar="KEY", required=True, help="the new one")
    rotate.add_argument("--drop-old", action="store_true", help="delete what the present key wrapped: it opens nothing there any more")
    return root


def _run_job(options: argparse.Namespace, job_arguments: list[str]) -> int:
    """Run the script as `python JOB.py ARGUMENTS` would, with the options in its environment."""
    from flinkray.api.run_options import VARIABLE, RunOptions
    from flinkray.runtime.progress import VARIABLE as PROGRESS

    os.environ[VARIABLE] = RunOptions(
        name=options.name,
        parallelism=options.parallelism,
        runtime=options.runtime,
        storage=options.storage,
        checkpoint_interval=options.checkpoint_interval,
        restore=options.restore,
        allow_non_restored_state=options.allow_non_restored_state,
        allow_repeated_output=options.allow_repeated_output,
        detach=options.detach,
    ).to_json()
    os.environ.setdefault(PROGRESS, "live" if sys.stderr.isatty() else "plain")
    return _run_script(options, job_arguments)


def _plan(options: argparse.Namespace, job_arguments: list[str]) -> int:
    from flinkray.api.run_options import RunOptions
    from flinkray.plan_command import plan

    given = RunOptions(
        name=options.name,
        parallelism=options.parallelism,
        storage=options.storage,
        restore=options.restore,
        allow_non_restored_state=options.allow_non_restored_state,
        allow_repeated_output=options.allow_repeated_output,
        plan=True,
    )
    return plan(lambda: _run_script(options, job_arguments), given, options.key, options.json)


def _run_script(options: argparse.Namespace, job_arguments: list[str]) -> int:
    if not os.path.isfile(options.script):
        print(f"flinkray: {options.script}: no such file", file=sys.stderr)
        return 2
    sys.argv = [options.script, *job_arguments]
    sys.path.insert(0, os.path.dirname(os.path.abspath(options.script)))
    try:
        runpy.run_path(options.script, run_name="__main__")
    except SystemExit as leaving:
        return _exit_code(leaving.code)
    except FlinkrayError:
        raise
    except Exception as error:  # noqa: BLE001 - the script's own error, shown as `python JOB.py` shows it
        print(script_traceback(error, options.script), end="", file=sys.stderr)
        return 1
    return 0


def script_traceback(error: Exception, script: str) -> str:
    """The traceback from the script's first frame on. One that does not compile has no frame, and needs none."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != script:
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))


def _exit_code(code: Any) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code
    print(code, file=sys.stderr)
    return 1


def _others(options: argparse.Namespace) -> int:
    if options.command == "list":
        return commands.list_jobs(options.json)
    if options.command == "status":
        return commands.status(options.name, options.json, options.watch)
    if options.command == "cancel":
        return commands.cancel(options.name)
    if options.command == "stop":
        return job_requests.stop(options.name, options.savepoint, options.drain, duration_s(options.timeout, "--timeout"))
    if options.command == "rescale":
        return job_requests.rescale(options.name, options.parallelism, duration_s(options.timeout, "--timeout"))
    if options.command == "drill":
        return commands.drill(options.name, options.target, options.zone)
    if options.command == "checkpoint":
        return storage_commands.checkpoint(options)
    if options.command == "savepoint":
        return storage_commands.savepoint(options)
    if options.command == "replay":
        return incident_commands.replay(options)
    if options.command == "keys":
        from flinkray.keys_commands import keys

        return keys(options)
    if options.command == "demo":
        from flinkray.demo import demo

        return demo(options.fast)
    from flinkray.doctor import doctor

    return doctor()


if __name__ == "__main__":
    main()
