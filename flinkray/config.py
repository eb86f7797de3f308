"""Frozen, validated configuration. Durations are `"500ms" "10s" "5min"`, `timedelta`, or float seconds."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from flinkray.errors import ConfigError

Duration = str | float | int | timedelta

_UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*")

JOB_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
MAX_PARALLELISM = 32768


def duration_us(value: Duration, what: str = "duration") -> int:
    """The duration in whole microseconds; raises ConfigError naming `what` when it is no duration or negative."""
    if isinstance(value, timedelta):
        micros = round(value / timedelta(microseconds=1))
    elif isinstance(value, str):
        match = _DURATION.fullmatch(value)
        if match is None or match[2] not in _UNITS_S:
            raise ConfigError(f"{what}: {value!r} is no duration; write it like '500ms', '10s', '5min'")
        micros = round(float(match[1]) * _UNITS_S[match[2]] * 1e6)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        micros = round(value * 1e6)
    else:
        raise ConfigError(f"{what}: {value!r} is no duration; write it like '500ms', '10s', '5min'")
    if micros < 0:
        raise ConfigError(f"{what}: {value!r} is negative")
    return micros


def duration_s(value: Duration, what: str = "duration") -> float:
    """The duration in seconds."""
    return duration_us(value, what) / 1e6


@dataclass(frozen=True)
class KeyFile:
    """A key kept in a file (made by `flinkray keys generate`); made absolute, since the JobManager may run in another folder."""

    path: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", os.path.abspath(os.path.expanduser(self.path)))


@dataclass(frozen=True)
class KeyEnv:
    """A key kept in an environment variable, base64."""

    variable: str


_KMS_ARN = re.compile(r"arn:[^:]+:kms:([^:]+):[^:]*:(key|alias)/.+")


@dataclass(frozen=True)
class AwsKms:
    """A key of AWS KMS, by its ARN; credentials and, where none is given, the endpoint as for any AWS client (`AWS_*`)."""

    key: str
    endpoint_url: str | None = None

    def __post_init__(self) -> None:
        if not _KMS_ARN.fullmatch(self.key):
            raise ConfigError(f"AwsKms: {self.key!r} is no ARN of a KMS key; write arn:aws:kms:REGION:ACCOUNT:key/ID")

    @property
    def region_name(self) -> str:
        match = _KMS_ARN.fullmatch(self.key)
        assert match is not None
        return match[1]


KeyConfig = KeyFile | KeyEnv | AwsKms


def key_config(text: str) -> KeyConfig:
    """As the command line gives it: a path, `env:VARIABLE`, or the ARN of a KMS key."""
    if text.startswith("env:"):
        return KeyEnv(text.removeprefix("env:"))
    return AwsKms(text) if text.startswith("arn:") else KeyFile(text.removeprefix("file:"))


def default_storage() -> str:
    return "file://" + os.path.join(flinkray_home(), "checkpoints")


def flinkray_home() -> str:
    """`~/.flinkray`, or FLINKRAY_HOME."""
    return os.environ.get("FLINKRAY_HOME") or os.path.join(os.path.expanduser("~"), ".flinkray")


@dataclass(frozen=True)
class Checkpointing:
    """When and where checkpoints are taken. `interval=None` takes only the final one."""

    interval: Duration | None = "10s"
    storage: str = field(default_factory=default_storage)
    min_pause: Duration = "500ms"
    timeout: Duration = "10min"
    retained: int = 3
    key: KeyConfig | None = None
    storage_options: dict[str, Any] | None = None
    auto_savepoint: Duration | None = None
    """A savepoint `auto-<time>` is made so often; None: never."""
    savepoint_retention: str = "keep 24 hourly, 7 daily"
    """Of automatic savepoints; those with a name of your own are never deleted."""

    def __post_init__(self) -> None:
        if self.auto_savepoint is not None and duration_us(self.auto_savepoint, "Checkpointing.auto_savepoint") < 1_000_000:
            raise ConfigError(f"Checkpointing.auto_savepoint: {self.auto_savepoint!r} is under 1s")
        if self.interval is not None and duration_us(self.interval, "Checkpointing.interval") < 10_000:
            raise ConfigError(f"Checkpointing.interval: {self.interval!r} is under 10ms")
        duration_us(self.min_pause, "Checkpointing.min_pause")
        duration_us(self.timeout, "Checkpointing.timeout")
        if self.retained < 1:
            raise ConfigError(f"Checkpointing.retained: {self.retained} is under 1")
        if "://" not in self.storage:
            raise ConfigError(f"Checkpointing.storage: {self.storage!r} is no URI; write file:///path or s3://bucket/prefix")


RESTART_CAUSES = ("user", "process", "node", "channel", "storage", "sink", "disk")


@dataclass(frozen=True)
class RestartStrategy:
    """What to do after a failure. `attempts`: restarts for one cause, None for any number.

    `budgets`: by cause, failures in a row without a checkpoint completed in between that end the job whatever `attempts` says. Causes are
    "user" (3 when it is not given), "sink" and "disk" (20; state larger than its memory finds no room on local disk), "process", "node", "channel" and
    "storage" (no limit when they are not given; a database that is looked up counts as storage).
    """

    initial: Duration = "100ms"
    maximum: Duration = "60s"
    attempts: int | None = None
    budgets: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for cause, failures in self.budgets.items():
            if cause not in RESTART_CAUSES:
                raise ConfigError(f"RestartStrategy.budgets: {cause!r} is no cause; there are {', '.join(RESTART_CAUSES)}")
            if failures < 1:
                raise ConfigError(f"RestartStrategy.budgets: {failures} failures for {cause!r}; give 1 or more")

    @classmethod
    def exponential_delay(cls, initial: Duration = "100ms", maximum: Duration = "60s", attempts: int | None = None) -> RestartStrategy:
        """Wait `initial`, then twice as long after each failure up to `maximum`; calm for a while starts anew."""
        return cls(initial, maximum, attempts)

    @classmethod
    def none(cls) -> RestartStrategy:
        """Fail the job at the first failure."""
        return cls(attempts=0)


MAX_STANDBYS = 7


@dataclass(frozen=True)
class HighAvailability:
    """Standby JobManagers, and zones: nodes that are lost together, told by a label.

    `standbys`: made once the job runs, never in the leader's zone or on its node where there is another. `lease`: after so long without a word
    of the leader a standby takes over; a killed one is noticed at once. `zones`: TaskManagers and JobManagers are spread over zones as far as
    there are any ("spread"), two zones at least must be there ("require"), or zones mean nothing ("ignore").

    `degraded`: a TaskManager that falls far behind its peers is named in status and log ("report"), or also left for a spare, at a checkpoint and
    without a row read again ("migrate").
    """

    standbys: int = 1
    lease: Duration = "2s"
    zone_label: str = "ray.io/availability-zone"
    zones: Literal["spread", "require", "ignore"] = "spread"
    degraded: Literal["report", "migrate"] = "report"

    def __post_init__(self) -> None:
        if not 0 <= self.standbys <= MAX_STANDBYS:
            raise ConfigError(f"HighAvailability.standbys {self.standbys} is not in 0..{MAX_STANDBYS}")
        if duration_s(self.lease) < 0.5:
            raise ConfigError(f"HighAvailability.lease {self.lease}: half a second at least, or a busy machine deposes its leaders")
        if self.zones not in ("spread", "require", "ignore"):
            raise ConfigError(f"HighAvailability.zones {self.zones!r}: 'spread', 'require' or 'ignore'")
        if self.degraded not in ("report", "migrate"):
            raise ConfigError(f"HighAvailability.degraded {self.degraded!r}: 'report' or 'migrate'")


@dataclass(frozen=True)
class Resources:
    """What a job takes of the cluster.

    `local_copies_mb`: memory of each TaskManager for what it wrote to the newest checkpoints (compressed and sealed), so that a restart after the
    loss of another reads only the lost part from storage; 0 for none.

    `state_memory_mb`: memory of each TaskManager for its state; what is above lies, unencrypted, in files without names in `spill_folder` (a folder on a local
    disk of every node; that of temporary files where none is given), `state_disk_mb` of them at most. None: all state is in memory.
    """

    spare_task_managers: int = 1
    cpus_per_slot: float = 1
    local_copies_mb: int = 256
    state_memory_mb: int | None = None
    state_disk_mb: int | None = None
    spill_folder: str = ""

    def __post_init__(self) -> None:
        if self.spare_task_managers < 0:
            raise ConfigError("Resources.spare_task_managers is negative")
        if self.local_copies_mb < 0:
            raise ConfigError("Resources.local_copies_mb is negative")
        for name in ("state_memory_mb", "state_disk_mb"):
            given = getattr(self, name)
            if given is not None and given < 1:
                raise ConfigError(f"Resources.{name}: {given} is under 1")
        if self.state_memory_mb is None and (self.state_disk_mb is not None or self.spill_folder):
            raise ConfigError("Resources.state_disk_mb and spill_folder are for state above state_memory_mb; give that, too")


@dataclass(frozen=True)
class JobConfig:
    """Everything about a run that is not its graph."""

    name: str
    parallelism: int = 1
    max_parallelism: int = 128
    runtime: Literal["ray", "local"] = "ray"
    checkpointing: Checkpointing | None = field(default_factory=Checkpointing)
    """None: no storage at all, a failure starts from the beginning (`collect`)."""
    restart: RestartStrategy = field(default_factory=RestartStrategy)
    high_availability: HighAvailability = field(default_factory=HighAvailability)
    resources: Resources = field(default_factory=Resources)
    batch_rows: int = 262_144
    buffer_timeout: Duration = "5ms"
    heartbeat_timeout: Duration = "3s"
    orphan_timeout: Duration = "5min"
    restore: str = "latest"
    allow_non_restored_state: bool = False
    allow_repeated_output: bool = False
    detached: bool = False

    def __post_init__(self) -> None:
        if not JOB_NAME.fullmatch(self.name):
            raise ConfigError(f"job name {self.name!r}: use 1 to 128 of A-Z a-z 0-9 _ . -")
        if not 1 <= self.max_parallelism <= MAX_PARALLELISM:
            raise ConfigError(f"max_parallelism {self.max_parallelism} is not in 1..{MAX_PARALLELISM}")
        if not 1 <= self.parallelism <= self.max_parallelism:
            raise ConfigError(f"parallelism {self.parallelism} is not in 1..max_parallelism ({self.max_parallelism})")
        if self.runtime not in ("ray", "local"):
            raise ConfigError(f"runtime {self.runtime!r}: 'ray' or 'local'")
        if not 1 <= self.batch_rows <= 4_194_304:
            raise ConfigError(f"batch_rows {self.batch_rows} is not in 1..4194304")
