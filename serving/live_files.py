"""Turn the service's spools of live records into Parquet files, and remove old ones.

    python -m serving.live_files data/live --keep-days 30 --keep-mb 10240

Reads data/live/spool/, writes data/live/date=YYYY-MM-DD/. The service starts it now and then; by
hand it does the same, while the service runs or after. It needs no key: texts that are sealed stay
so. Ends with 0 when all is done or another process is doing it, with 1 and one line otherwise.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from serving._live.files import turn_spools
from serving._live.settings import MIB, LiveSettings

NICENESS = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, help="the folder of live records, data/live")
    parser.add_argument("--keep-days", type=_count, default=LiveSettings.keep_days)
    parser.add_argument("--keep-mb", type=_count, default=LiveSettings.keep_mb)
    asked = parser.parse_args(arguments)
    os.nice(NICENESS)
    try:
        done = turn_spools(asked.folder, asked.keep_days, asked.keep_mb * MIB)
    except ModuleNotFoundError as error:
        sys.stderr.write(f"{error}. Parquet files need it; the spools stay until it is there.\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{error}. Free or mend the disk and run it again; nothing is lost.\n")
        return 1
    if done is None:
        sys.stdout.write(f"another process is at it: {asked.folder}\n")
        return 0
    sys.stdout.write(
        f"{done.spools} spools, {done.records} records, {done.rejected} lines rejected, "
        f"{done.removed} files removed: {asked.folder}\n"
    )
    return 0


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
