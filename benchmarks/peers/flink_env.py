"""PyFlink's own virtual environment, since what it depends on clashes with Ray's: `python benchmarks/peers/flink_env.py` makes it (0.9 GB).

It lies at ~/.cache/flinkray-bench/flink-VERSION (FLINKRAY_BENCH_CACHE changes the folder). PyFlink needs Java 11 or 17 on the PATH and a
Python of 3.9 to 3.12, looked for as this one, then python3.12 to python3.9.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

VERSION = "2.3.0"
PYTHONS = ((3, 12), (3, 11), (3, 10), (3, 9))


def folder() -> Path:
    return Path(os.environ.get("FLINKRAY_BENCH_CACHE") or Path.home() / ".cache" / "flinkray-bench") / f"flink-{VERSION}"


def python() -> str | None:
    """The interpreter that has PyFlink, or None."""
    return str(folder() / "bin" / "python") if (folder() / "installed").exists() and shutil.which("java") else None


def install() -> str:
    """Make the environment where it is missing; its interpreter. Raises RuntimeError, CalledProcessError."""
    if shutil.which("java") is None:
        raise RuntimeError("PyFlink needs Java 11 or 17 on the PATH (Debian: apt-get install openjdk-17-jre-headless)")
    if not (folder() / "installed").exists():
        shutil.rmtree(folder(), ignore_errors=True)
        subprocess.run([_base_python(), "-m", "venv", str(folder())], check=True)
        pip = [str(folder() / "bin" / "python"), "-m", "pip", "install", "--quiet", f"apache-flink=={VERSION}"]
        subprocess.run(pip, check=True)
        (folder() / "installed").touch()  # an interrupted installation is begun again
    return str(folder() / "bin" / "python")


def _base_python() -> str:
    if sys.version_info[:2] in PYTHONS:
        return sys.executable
    for major, minor in PYTHONS:
        found = shutil.which(f"python{major}.{minor}")
        if found:
            return found
    raise RuntimeError("PyFlink needs a Python of 3.9 to 3.12; none is on the PATH")


if __name__ == "__main__":
    print(install())
