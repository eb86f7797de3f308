"""What a TaskManager tells of an exception that ended its attempt: where, why, and against which budget it counts."""

from __future__ import annotations

import pickle
from collections.abc import Iterable

from flinkray.core.messages import FailureCause, TaskFailed
from flinkray.errors import DamagedObjectError, FlinkrayError, OperatorError, SinkError, SourceError, SpillError, StorageError
from flinkray.ids import TaskId
from flinkray.runtime.task import Task


def task_failed(error: Exception, tasks: Iterable[Task]) -> TaskFailed:
    """`tasks`: those of the slot; where the error says which operator raised it, the task is found among them."""
    uid, subtask = getattr(error, "where", None) or ("", -1)
    task = next((task.id for task in tasks if uid in task.chain.metrics), TaskId(-1, subtask)) if uid else None
    message = str(error.args[0]) if isinstance(error, OperatorError) and error.args else f"{type(error).__name__}: {error}"
    object_name = error.object_name if isinstance(error, DamagedObjectError) else ""
    return TaskFailed(task, uid, cause_of(error), message, portable(error), object_name)


def cause_of(error: Exception) -> FailureCause:
    """The budget that a failure is counted against."""
    if isinstance(error, DamagedObjectError):
        return "damaged"
    if isinstance(error, SourceError):
        return "input" if error.permanent else "storage"
    if isinstance(error, SinkError):
        return "output" if error.permanent else "sink"
    if isinstance(error, SpillError):
        return "disk"
    if isinstance(error, StorageError | OSError):
        return "storage"
    return "user"


def portable(error: Exception) -> FlinkrayError | None:
    """A copy of the error where it is one of ours and pickles, so that the driver can raise it: the error itself holds on to the frames that it came through,
    and they to the state of the attempt that has ended."""
    if not isinstance(error, FlinkrayError):
        return None
    try:
        copy: FlinkrayError = pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - a user's argument that does not pickle
        return None
    return copy
