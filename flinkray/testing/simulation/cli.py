"""`python -m flinkray.testing.simulate`: seeds, one seed's story, planted bugs."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flinkray.errors import FlinkrayError, UsageError
from flinkray.testing.simulation.faults import KINDS, Faults, parse_faults
from flinkray.testing.simulation.job import BuildJob, Settings
from flinkray.testing.simulation.jobs import JOBS
from flinkray.testing.simulation.plants import PLANTS
from flinkray.testing.simulation.report import SimulationReport
from flinkray.testing.simulation.run import simulate
from flinkray.testing.simulation.shrink import only_text, parse_only, shrink
from flinkray.testing.simulation.soak import Soak, soak

PROGRESS_EVERY = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """0: all seeds passed. 1: a seed failed, or a fault of the mixture never happened in 2,000 seeds and more. 2: used wrongly."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except FlinkrayError as error:
        print(f"simulate: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flinkray.testing.simulate",
        description="Rehearse a whole job on virtual time, with faults that seeds choose, and compare with the run without faults.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="faults:\n" + "\n".join(f"  {kind.name:<18} {kind.doc} (per {kind.unit}, {kind.typical:g})" for kind in KINDS.values()),
    )
    job = parser.add_mutually_exclusive_group()
    job.add_argument("--job", metavar="FILE", help="a Python file with build_job(env), which adds sinks or returns a stream")
    job.add_argument(
        "--builtin", choices=tuple(JOBS), default="hot-items", help="a job that the simulator brings along (default: %(default)s)"
    )
    parser.add_argument("--seeds", metavar="A:B", default="0:200", help="seeds A to B - 1 (default: %(default)s)")
    parser.add_argument("--seed", type=int, metavar="N", help="this one only")
    parser.add_argument("--faults", default="swarm", help="swarm, none, or names with commas (name=strength for another than the typical)")
    parser.add_argument("--only", metavar="KIND:N,...", help="of the seed's faults just these")
    parser.add_argument("--trace", action="store_true", help="with --seed: the whole timeline")
    parser.add_argument("--plant", choices=tuple(PLANTS), metavar="BUG", help=f"run with a bug: {', '.join(PLANTS)}")
    parser.add_argument("--rows", type=int, help="at most so many rows of each split")
    parser.add_argument("--parallelism", type=int, default=Settings.parallelism)
    parser.add_argument("--all", action="store_true", help="go on after the first failing seed")
    parser.add_argument("--no-shrink", action="store_true", help="do not look for the fewest faults and rows that still fail")
    return parser


def _run(options: argparse.Namespace) -> int:
    build_job = load_job(options.job) if options.job else JOBS[options.builtin]
    settings = replace(Settings(), parallelism=options.parallelism, rows=options.rows)
    faults = parse_faults(options.faults)
    simulate(build_job, 0, Faults.none(), settings=settings)  # the answer to compare with, before any bug is planted
    with PLANTS[options.plant].planted() if options.plant else contextlib.nullcontext():
        if options.seed is not None:
            only = parse_only(options.only) if options.only is not None else None
            report = simulate(build_job, options.seed, faults, settings=settings, only=only)
            print("\n".join(map(str, report.timeline)) + "\n\n" + report.describe() if options.trace else report.story())
            return 0 if report.exactly_once else 1
        start, _, stop = options.seeds.partition(":")
        if not (start.isdecimal() and stop.isdecimal()):
            raise UsageError(f"--seeds {options.seeds}: write A:B, like 0:2000")
        total = soak(build_job, range(int(start), int(stop)), faults, settings, not options.all, _say_progress)
        return _tell(total, build_job, settings, faults, options)


def _say_progress(total: Soak) -> None:
    if total.seeds % PROGRESS_EVERY == 0:
        print(f"{total.seeds} seeds, {total.passed} passed, {total.counting} count, {total.seeds_per_s:.1f} seeds/s", flush=True)


def _tell(total: Soak, build_job: BuildJob, settings: Settings, faults: Faults, options: argparse.Namespace) -> int:
    print(total.table(faults))
    print()
    print(total.summary())
    if total.first_failure is not None:
        print(f"\n{len(total.failing)} failing: {', '.join(map(str, total.failing[:20]))}\n")
        _tell_failure(total.first_failure, build_job, settings, options)
        return 1
    never = [name for name in total.never_happened(faults) if name in KINDS]
    if never and total.seeds >= 2_000:
        print(f"FAILED: never happened in {total.seeds} seeds: {', '.join(never)}")
        return 1
    return 0


def _tell_failure(report: SimulationReport, build_job: BuildJob, settings: Settings, options: argparse.Namespace) -> None:
    only = ""
    if not options.no_shrink and report.injected:
        shrunk = shrink(build_job, report, settings)
        report, settings = shrunk.report, shrunk.settings
        only = f" --only {only_text(shrunk.faults)}"
        rows = f", {settings.rows} rows of each split" if settings.rows is not None else ""
        print(f"shrunk in {shrunk.tries} runs to {len(shrunk.faults)} faults{rows}")
    print(report.story())
    job = f" --job {options.job}" if options.job else f" --builtin {options.builtin}"
    rows_option = f" --rows {settings.rows}" if settings.rows is not None else ""
    plant = f" --plant {options.plant}" if options.plant else ""
    parallelism = f" --parallelism {settings.parallelism}" if settings.parallelism != Settings.parallelism else ""
    command = f"{job} --seed {report.seed} --faults {options.faults}{only}{rows_option}{parallelism}{plant}"
    print(f"\nrepeat it with:\n  python -m flinkray.testing.simulate{command} --trace")


def load_job(path: str) -> BuildJob:
    """`build_job` of a user's file. Raises UsageError."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None or not Path(path).exists():
        raise UsageError(f"--job {path}: there is no such Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    build_job = getattr(module, "build_job", None)
    if build_job is None:
        raise UsageError(f"--job {path} has no build_job(env): a function that builds the graph on the given environment")
    return build_job
