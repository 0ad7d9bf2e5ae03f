"""The recorder process: `_recorder.start_recorder` starts it with a listening socket."""

import os
import socket
import sys
from pathlib import Path

from serving.errors import StillhouseError
from stages._recorder import one_line, serve
from stages._tracking.runs import RunRecorder
from stages._tracking.store import Store, prepare_store


def main() -> None:
    """Be the recorder that `_recorder.start_recorder` starts: a listening socket and a project."""
    descriptor, root = sys.argv[1:]
    listening = socket.socket(fileno=int(descriptor))
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")  # the answers say what went wrong
    store: Store | StillhouseError
    try:
        store = prepare_store(Path(root))
    except Exception as error:  # whatever it is, the stages are told and go on without tracking
        store = StillhouseError(one_line(error))
    serve(listening, lambda: RunRecorder(store))
    os._exit(0)  # all is written down; taking thousands of modules apart would cost a second


if __name__ == "__main__":
    main()
