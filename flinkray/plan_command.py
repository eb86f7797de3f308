"""`flinkray plan JOB.py --from WHAT`: what a restore would keep, drop, re-type and start empty, before anything runs. Writes nothing.

Exit code 0: the restore would go through; 1: it would be refused, or the state is damaged or cannot be read; 2: there is no such thing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from flinkray.api.run_options import VARIABLE, Planned, RunOptions
from flinkray.checkpoint.manifest import Manifest
from flinkray.checkpoint.state_reader import StateReader
from flinkray.config import JobConfig, KeyConfig, key_config
from flinkray.core.restore_plan import OperatorPlan, check_restore, restore_plan
from flinkray.errors import RestoreError, UsageError
from flinkray.graph.job_graph import JobGraph
from flinkray.runtime.inspection import open_saved
from flinkray.runtime.sinks import sinks_of

LATEST, NONE, SAVEPOINT, CHECKPOINT = "latest", "none", "savepoint:", "checkpoint:"


def plan(run_script: Callable[[], int], options: RunOptions, key: str | None, as_json: bool) -> int:
    """`run_script` runs the job's script until it would start a job; `options.restore` is what to restore from."""
    os.environ[VARIABLE] = options.to_json()
    try:
        code = run_script()
    except Planned as planned:
        return _show(planned.graph, planned.config, key_config(key) if key else None, as_json)
    finally:
        del os.environ[VARIABLE]
    if code:
        return code
    raise UsageError("the script has ended without starting a job: there is nothing to plan")


def _show(graph: JobGraph, config: JobConfig, key: KeyConfig | None, as_json: bool) -> int:
    manifest, what = _saved(config, key)
    plans: tuple[OperatorPlan, ...] = ()
    problems: list[str] = []
    if manifest is not None:
        plans = restore_plan(graph, manifest, config.allow_non_restored_state)
        problems += _refusals(graph, manifest, what, config)
    parallelism = graph.slots()
    if as_json:
        document = {
            "from": what,
            "parallelism": parallelism,
            "operators": [vars(plan) for plan in plans],
            "warnings": list(graph.warnings),
            "problems": problems,
            "restorable": not problems,
        }
        print(json.dumps(document, indent=2))
        return int(bool(problems))
    print(f"{config.name} from {what}, at parallelism {parallelism} of at most {graph.max_parallelism}")
    for plan in plans:
        print(f"  {plan.verdict:12}  {plan.uid:24}  {plan.kind}{': ' + plan.detail if plan.detail else ''}")
    for warning in graph.warnings:
        print(f"warning: {warning}")
    for problem in problems:
        print(f"REFUSED: {problem}")
    print("the restore would be refused" if problems else "the restore would go through")
    return int(bool(problems))


def _refusals(graph: JobGraph, manifest: Manifest, what: str, config: JobConfig) -> list[str]:
    problems = []
    try:
        check_restore(graph, manifest, what, config.allow_non_restored_state)
    except RestoreError as error:
        problems.append(str(error))
    if not config.allow_repeated_output and config.restore.startswith(SAVEPOINT):
        for uid, sink, _ in sinks_of(graph):
            newest = sink.newest_checkpoint(uid)
            if newest > manifest.checkpoint:
                problems.append(
                    f"sink {uid!r} ({sink.describe()}) shows rows of checkpoint {newest}: give the job another output, or --allow-repeated-output"
                )
    return problems


def _saved(config: JobConfig, key: KeyConfig | None) -> tuple[Manifest | None, str]:
    """None: it would start afresh, and `what` says why."""
    checkpointing = config.checkpointing
    if checkpointing is None:
        raise UsageError("the job has no checkpointing, and so nothing to restore")
    storage, wanted, key = checkpointing.storage, config.restore, key or checkpointing.key
    if wanted == NONE:
        return None, "nothing (none)"
    if wanted == LATEST:
        reader = StateReader(storage, config.name, key, checkpointing.storage_options)
        if not reader.checkpoints():
            return None, f"nothing: there is no checkpoint of {config.name} in {storage}"
        source = reader.checkpoint(LATEST)
        return source.manifest, f"checkpoint {source.manifest.checkpoint}"
    if not wanted.startswith((SAVEPOINT, CHECKPOINT)):
        raise RestoreError(f"--from {wanted!r}: use latest, none, savepoint:NAME or checkpoint:ID")
    at = wanted if wanted.startswith(SAVEPOINT) else wanted.removeprefix(CHECKPOINT)
    source = open_saved(storage, config.name, at, key, checkpointing.storage_options)
    what = f"savepoint {at.removeprefix(SAVEPOINT)!r}" if wanted.startswith(SAVEPOINT) else f"checkpoint {at}"
    return source.manifest, what
