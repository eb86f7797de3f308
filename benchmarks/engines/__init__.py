"""Engines that `benchmarks/run.py` measures side by side, each a script of its own process: `python SCRIPT '{"queries": [...], ...}'`.

The request holds `queries`, `files` (paths by stream: bid, auction, person, side_input), `parallelism`, `warmups` and `repeat`, and what an engine
knows besides (`checkpoints`). For each query a script prints one line `{"query": ..., "seconds": [one number per run]}`, with `rows` (of the answer)
where it is known; and `{"query": ..., "error": ...}` where it failed. `QUERIES` in each script says what it can do, in its own words; what its
seconds are is said there, too.
"""
