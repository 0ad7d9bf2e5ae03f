"""Windows: answered requests of some days, frozen into one columnar folder that never changes.

`columns` says what a row is, `live` and `live_rows` make rows of the service's records, `choosing`
says which of them a window has, `content` hashes them, `freezing` writes the folder, `reading`
reads it in batches, `gold` what people added to it, `planting` changes prompts for the window that
the default graph compares. docs/windows.md.
"""
