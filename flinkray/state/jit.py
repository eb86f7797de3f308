"""numba, with its compiled code kept where it can be written and found again.

Kernels import `njit` from here. The cache folder is set before numba is first imported: site-packages may be read-only, and all
processes of a machine share what one of them compiled.
"""

from __future__ import annotations

import os

from flinkray.config import flinkray_home

os.environ.setdefault("NUMBA_CACHE_DIR", os.path.join(flinkray_home(), "kernels"))
os.makedirs(os.environ["NUMBA_CACHE_DIR"], exist_ok=True)

from numba import njit  # noqa: E402

__all__ = ["njit"]
