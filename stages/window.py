"""Window: freeze answered requests of the service into data/windows/<id>, which never changes.

Reads   data/live/date=*/*.parquet, the service's records (docs/live.md)
Writes  data/windows/<id>/: rows.parquet, window.json (what it rests on), rejected.jsonl (each file
        or row group that could not be used, and why); docs/windows.md has the format
Run     python -m stages.window --first 2026-11-15 --last 2026-11-21

No DVC stage: it takes what the world has sent. The id follows from the rows, so freezing the same
rows again does nothing. Files are read in batches, twice: which rows there are, then those; where
there are more than --max-rows, a sample that follows from their ids is taken, and the rest counted.
"""

import argparse
import re
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from serving._live.files import live_files
from serving._live.spool import SUFFIX, spool_folder
from serving._live.texts import Keeper, Key, read_key
from serving.errors import StillhouseError
from stages import _io
from stages._stage import print_line
from stages._windows.choosing import MOST_ROWS, Asked

if TYPE_CHECKING:
    from stages._windows.freezing import Frozen

LIVE = Path("data/live")
WINDOWS = Path("data/windows")
PARAMS = Path("params.yaml")
NAMED = re.compile(r"(?m)^(drift:[ \t]*\n(?:[ #].*\n|\n)*?  window: )[^\s#]+")


def window(
    live: Path, windows: Path, asked: Asked, keys: Mapping[str, Key] | None = None
) -> "Frozen":
    """Freeze the asked rows of a folder of live records, and say what was used and what was not.

    Args:
        keys: for sealed texts, by their ids.

    Raises:
        StillhouseError: there are no records, none can be used, or no key opens any text.
    """
    from stages._windows.freezing import freeze
    from stages._windows.live import LiveRows

    if not live_files(live):
        raise StillhouseError(
            f"{live} has no records (found {_describe_spools(live)}). Serve with "
            f'STILLHOUSE_LIVE_FOLDER={live}, then run "python -m serving.live_files {live}".'
        )
    rows = LiveRows(live, asked, keys or {})
    frozen = freeze(windows, rows)
    for line in describe(frozen, rows.rejected):
        print_line(line)
    if _spools(live):
        print_line(f'  not in it: {_describe_spools(live)}; "python -m serving.live_files {live}"')
    print_line(
        f'Next: drift.window: {frozen.folder.name} (--compare sets it), then "dvc repro drift"'
    )
    return frozen


def compare_next(params: Path, name: str) -> None:
    """Name a window in params.yaml as the one that the drift stage compares; the rest stays.

    Raises:
        StillhouseError: there is no such line.
    """
    text = params.read_text(encoding="utf-8") if params.is_file() else ""
    changed, lines = NAMED.subn(rf"\g<1>{name}", text)
    if not lines:
        raise StillhouseError(
            f'{params} has no line "  window: …" in its section drift. Write it, with {name}.'
        )
    _io.write_text(params, changed)


def describe(frozen: "Frozen", rejected: list[dict[str, object]]) -> list[str]:
    """What a person needs to know of a window, a line each."""
    info, others = frozen.info, []
    for name, told in (
        ("duplicates", "with an id that came before"),
        ("left_out", "beyond the asked number"),
        ("outside", "of other days"),
    ):
        others += [f"{info[name]:,} {told}"] if info[name] else []
    done = "frozen" if frozen.new else "there already, nothing done"
    lines = [
        f"window {info['id']}: {done}",
        f"  {info['rows']:,} rows, {info['rows_with_text']:,} with text, of {len(info['sources'])} "
        f"files, {info['first']} to {info['last']}",
    ]
    lines += [f"  not in it: {', '.join(others)}"] if others else []
    for one in rejected[:5]:
        place = one["file"] if one["row_group"] is None else f"{one['file']}[{one['row_group']}]"
        lines.append(f"  rejected: {place}, {one['rows'] or 'all'} rows: {one['reason']}")
    lines += [f"  and {len(rejected) - 5} more in rejected.jsonl"] if len(rejected) > 5 else []
    return [*lines, f"  {frozen.folder}/"]


def read_keys(paths: list[Path]) -> dict[str, Key]:
    """Keys by their ids, each from a file with its base64.

    Raises:
        StillhouseError: a file is absent or holds none, or `cryptography` is not installed.
    """
    keys = []
    for path in paths:
        try:
            text = path.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise StillhouseError(
                f"the key file {path} cannot be read ({type(error).__name__}). Name a file that "
                f"holds a key in base64."
            ) from None
        keys.append(read_key(text, str(path)))
        Keeper("clear", None, keys[-1])  # says at once where `cryptography` is missing
    return {key.id: key for key in keys}


def _spools(live: Path) -> list[Path]:
    return list(spool_folder(live).glob(f"*{SUFFIX}*"))


def _describe_spools(live: Path) -> str:
    return f"{len(_spools(live))} spools that are not Parquet yet"


def main() -> None:
    """Freeze what the command line asks for."""
    asked = _parse_arguments()
    try:
        wanted = Asked(asked.first, asked.last, asked.last_rows, asked.max_rows)
        frozen = window(asked.live, asked.windows, wanted, read_keys(asked.key_file))
        if asked.compare:
            compare_next(PARAMS, frozen.folder.name)
    except StillhouseError as error:
        sys.exit(f"error: window: {error}")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m stages.window",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--first", type=_day, metavar="DAY", help="first day in UTC, such as 2026-11-15")
    add("--last", type=_day, metavar="DAY", help="last day in UTC, included")
    add("--last-rows", type=int, metavar="N", help="only the newest rows")
    add("--max-rows", type=int, metavar="N", default=MOST_ROWS, help="most rows (%(default)s)")
    add(
        "--key-file",
        type=Path,
        action="append",
        default=[],
        help="a key of sealed texts in base64; may be given several times. The window then holds "
        "these texts in clear, in a folder that is the owner's alone",
    )
    add("--compare", action="store_true", help="name it in params.yaml as drift.window, too")
    add("--live", type=Path, default=LIVE, help="the service's records (%(default)s)")
    add("--windows", type=Path, default=WINDOWS, help="where windows go (%(default)s)")
    return parser.parse_args()


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected YYYY-MM-DD") from None


if __name__ == "__main__":
    main()
