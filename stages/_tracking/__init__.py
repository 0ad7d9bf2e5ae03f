"""MLflow records what happened: where the runs are kept, and how the recorder writes them.

The only package that imports MLflow, and it does so inside functions: a stage talks to it through
`_run` and `_recorder`, in whose process (`python -m stages._tracking`) MLflow is loaded.

MLflow may be checked with its own tools at any time; nothing here is ever an input of a stage.
"""

from stages._tracking.store import prepare_store, shown_uri, tracking_uri

__all__ = ["prepare_store", "shown_uri", "tracking_uri"]
