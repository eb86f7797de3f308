"""The Nexmark benchmark (https://github.com/nexmark/nexmark): data, and q0 to q22 as flinkray jobs with the answers they must have.

One short file a query: `SQL` is the query in DuckDB's dialect, over views `bid`, `auction`, `person` and `side_input` with naive UTC times; what it gives
is the job's final state. `build` is the job. `KEY` are the columns by which later rows of the job replace earlier ones (none: rows are only added).
"""
