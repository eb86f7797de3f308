"""Where compiled kernels are kept. Imports no numba, so that it can be asked cheaply whether anything is to be compiled."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from flinkray.config import flinkray_home

_HERE = Path(__file__).parent
_INLINED = ("bits.py", "accumulate.py", "index_kernels.py")


def use_cache_folder() -> Path:
    """The folder, made if need be, and told to numba: site-packages may be read-only, and all processes of a machine share what one of
    them compiled. numba checks only a kernel's own file for changes, not the files of functions that it calls, so the folder's name
    carries a digest of the files whose functions are inlined in others."""
    inlined = b"".join((_HERE / name).read_bytes() for name in _INLINED)
    default = os.path.join(flinkray_home(), "kernels", hashlib.sha256(inlined).hexdigest()[:12])
    folder = Path(os.environ.setdefault("NUMBA_CACHE_DIR", default))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def complete_marker(group: str) -> Path:
    """A file that is there once every kernel of the group, of these very sources, has been compiled."""
    elsewhere = (path for folder in ("connectors", "expressions") for path in sorted(_HERE.parent.glob(f"{folder}/*_kernels.py")))
    sources = [*sorted(_HERE.glob("*.py")), *elsewhere]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    return use_cache_folder() / f"complete-{group}-{digest}"
