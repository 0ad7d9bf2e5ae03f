"""One lane of `make repro`: brings one stage after the other up to date, in a process of its own.

DVC takes a second to import and reads its files anew for each call, so a lane imports it once and
calls its command line. Names of stages come as lines from the file descriptor that is the only
argument; what DVC and the stage say goes to standard output, and after it a line of `END` and
DVC's exit code.

Run     by stages/_lanes.py
"""

import os
import sys
from contextlib import suppress

from dvc.cli import main as dvc

END = "\x1e"  # ASCII's record separator, which no stage prints at the start of a line


def main(names: int) -> None:
    """Run `dvc repro --single-item` for each line of the file descriptor `names`."""
    with os.fdopen(names, encoding="utf-8") as lines:
        for line in lines:
            # Other lanes hold DVC's lock while they read and write dvc.lock: a second or two.
            code = dvc(["--wait-for-lock", "repro", "--single-item", line.strip()])
            sys.stderr.flush()
            sys.stdout.write(f"{END}{code}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):  # while it waits for a name
        main(int(sys.argv[1]))
