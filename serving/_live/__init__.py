"""Quality of the answers that are given: checks, uncertainty, shadows, series and records.

What the entry does with every answer once a model has made it. Standard library only, but for
`cryptography` (sealed texts) and `pyarrow` (Parquet files), which are imported where they are used.
"""
