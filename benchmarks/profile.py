"""Where each nanosecond of a row goes: `python benchmarks/profile.py q5 [--events 10000000] [--runtime ray] [--parallelism 2] [--rate 250] [--output FILE]`.

The query runs on Ray (or in one process, `--runtime local`) and waits before its first row until py-spy watches every TaskManager. Samples of all threads that
are at work, idle ones left out, become a flame graph (SVG; also as collapsed stacks, for other tools) and a table: what the innermost known
frame of each sample belongs to, as time of a CPU for each row of the input. Sampling stops the process for a moment, so that rates are a little lower than measured ones.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

if __name__ == "__main__":
    from nexmark.profiling import main

    sys.exit(main(__doc__))
else:  # a script in this folder, or a library that it uses, means Python's own module of this name (cProfile does)
    exec(compile(Path(sysconfig.get_path("stdlib"), "profile.py").read_text(), "profile.py", "exec"))
