"""Every error that flinkray raises on purpose, in one tree. All of them pickle, since they travel between processes.

A message says what happened, to which input or operator, and what to do about it.
"""

from __future__ import annotations

from typing import Any


class FlinkrayError(Exception):
    """The root of the tree."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[FlinkrayError], args: tuple[Any, ...], state: dict[str, Any]) -> FlinkrayError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class UsageError(FlinkrayError):
    """Wrong usage or input, found before anything was deployed or written."""

    exit_code = 2


class PlanError(UsageError):
    """The job's graph makes no sense: an unknown column, a type that does not fit, an output named like a key."""


class ConfigError(UsageError):
    """A configuration value that cannot be used."""


class RestoreError(UsageError):
    """What was asked to be restored does not exist, or does not fit the graph."""


class JobExistsError(UsageError):
    """A job of this name is running already."""


class SourceError(FlinkrayError):
    """An input that cannot be read: a malformed row, a missing column, a type that changes between files. `permanent`: it would fail again,
    however often it is tried; else it does not answer now."""

    def __init__(self, message: str = "", permanent: bool = True) -> None:
        super().__init__(message)
        self.permanent = permanent


class SinkError(FlinkrayError):
    """An output that cannot be written. `permanent`: it would fail again, however often it is tried."""

    def __init__(self, message: str = "", permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


class StorageError(FlinkrayError):
    """Checkpoint storage did not answer, refused, or is not reachable."""


class DamagedObjectError(StorageError):
    """An object in storage is not what was written: flipped, truncated, swapped, or not authentic."""

    def __init__(self, object_name: str, reason: str) -> None:
        super().__init__(f"object {object_name} is damaged: {reason}")
        self.object_name = object_name
        self.reason = reason


class KeyUnavailableError(StorageError):
    """The key that sealed the data is not there or is another one."""


class DeposedError(FlinkrayError):
    """Another owner or leader has taken over; what this process wanted to write counts for nothing."""


class ResourceError(FlinkrayError):
    """The cluster has no room for what the job asks for; names what is missing."""


class SpillError(ResourceError):
    """Local disk has no room for state that is larger than its memory, or has lost some of it; names the operator and the subtask whose rows needed it, and
    the folder. Nothing of the job is lost: it goes on from its newest checkpoint."""

    where: tuple[str, int] | None = None
    """The uid of the operator and the subtask, where one was at work."""

    def __str__(self) -> str:
        return f"operator {self.where[0]!r}, subtask {self.where[1]}: {self.args[0]}" if self.where else str(self.args[0])


class OperatorError(FlinkrayError):
    """An exception in user code or in an operator, with the operator's uid, the subtask and the original traceback."""

    def __init__(self, message: str, uid: str = "", subtask: int = -1, user_traceback: str = "") -> None:
        super().__init__(message)
        self.uid = uid
        self.subtask = subtask
        self.user_traceback = user_traceback
        self.incident = ""
        """Under which what it was given is saved, `APPLICATION/NAME`; empty where nothing is."""

    def __str__(self) -> str:
        where = f"operator {self.uid!r}, subtask {self.subtask}: " if self.uid else ""
        trace = f"\n{self.user_traceback.rstrip()}" if self.user_traceback else ""
        replay = f"\nrun it again: flinkray replay {self.incident}" if self.incident else ""
        return f"{where}{self.args[0]}{trace}{replay}"


class ExpressionError(FlinkrayError):
    """A value that an expression cannot take: an overflow, a cast that does not fit. `expression` is its text."""

    def __init__(self, message: str, expression: str = "") -> None:
        super().__init__(message)
        self.expression = expression


class JobFailedError(FlinkrayError):
    """The job ended FAILED; the message carries the cause and the remedy."""


class JobCancelledError(FlinkrayError):
    """The job ended CANCELLED while somebody waited for its result."""


class ProtocolError(FlinkrayError):
    """A message or state that the protocol does not allow: a defect of flinkray, never of the user."""


class WaitTimeoutError(FlinkrayError, TimeoutError):
    """Something did not come in time; says what was waited for, and that a request may have happened."""
