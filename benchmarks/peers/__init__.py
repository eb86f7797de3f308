"""Engines that flinkray is measured beside, each a script of its own process: `python SCRIPT '{"queries": [...], ...}'`.

The request holds `queries` (q0 q1 q2 q5 q7 q11 sum), `files` (paths) or `folder` (PyFlink), `parallelism` and `repeat`. For each query a
script prints one line `{"query": ..., "seconds": [one number per run]}`. What the seconds are is said in each script.
"""
