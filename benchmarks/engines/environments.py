"""Virtual environments of the engines whose dependencies clash with flinkray's: `python benchmarks/engines/environments.py [flink spark bytewax pathway]`.

They lie at ~/.cache/flinkray-bench/NAME-VERSION (FLINKRAY_BENCH_CACHE changes the folder), 0.3 to 1.5 GB each. Flink and Spark need Java 17 (Flink: or
11) on the PATH, and Flink a Python of 3.9 to 3.12, looked for as this one, then python3.12 to python3.9.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Environment:
    """What pip installs, and what it needs besides."""

    version: str
    packages: tuple[str, ...]
    java: bool = False
    newest_python: tuple[int, int] = (3, 13)


ENVIRONMENTS = {
    "flink": Environment("2.3.0", ("apache-flink==2.3.0",), java=True, newest_python=(3, 12)),
    "spark": Environment("4.3.0", ("pyspark==4.3.0",), java=True),
    "bytewax": Environment("0.21.1", ("bytewax==0.21.1", "pyarrow"), newest_python=(3, 12)),
    "pathway": Environment("0.33.0", ("pathway==0.33.0",)),
}


def folder(name: str) -> Path:
    cache = Path(os.environ.get("FLINKRAY_BENCH_CACHE") or Path.home() / ".cache" / "flinkray-bench")
    return cache / f"{name}-{ENVIRONMENTS[name].version}"


def python(name: str) -> str | None:
    """The interpreter that has the engine, or None."""
    there = (folder(name) / "installed").exists() and (not ENVIRONMENTS[name].java or shutil.which("java"))
    return str(folder(name) / "bin" / "python") if there else None


def install(name: str) -> str:
    """Make the environment where it is missing; its interpreter. Raises RuntimeError, CalledProcessError."""
    environment = ENVIRONMENTS[name]
    if environment.java and shutil.which("java") is None:
        raise RuntimeError(f"{name} needs Java 17 on the PATH (Debian: apt-get install openjdk-17-jre-headless)")
    if not (folder(name) / "installed").exists():
        shutil.rmtree(folder(name), ignore_errors=True)
        subprocess.run([_base_python(environment), "-m", "venv", str(folder(name))], check=True)
        subprocess.run([str(folder(name) / "bin" / "python"), "-m", "pip", "install", "--quiet", *environment.packages], check=True)
        (folder(name) / "installed").touch()  # an interrupted installation is begun again
    return str(folder(name) / "bin" / "python")


def _base_python(environment: Environment) -> str:
    if sys.version_info[:2] <= environment.newest_python:
        return sys.executable
    newest = environment.newest_python[1]
    for minor in range(newest, 8, -1):
        found = shutil.which(f"python3.{minor}")
        if found:
            return found
    raise RuntimeError(f"{', '.join(environment.packages)} needs a Python of 3.9 to 3.{newest}; none is on the PATH")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or ENVIRONMENTS:
        print(install(chosen))
