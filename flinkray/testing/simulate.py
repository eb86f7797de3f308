"""`python -m flinkray.testing.simulate`; `flinkray.testing.simulate` is the function."""

from __future__ import annotations

import sys

from flinkray.testing.simulation.cli import main

if __name__ == "__main__":
    sys.exit(main())
