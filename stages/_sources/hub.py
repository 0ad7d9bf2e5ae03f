"""Read a Hugging Face data set, or a local folder in one of its formats."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serving.errors import StillhouseError
from stages._sources.csv import column_position
from stages._sources.fetch import expand, home_path
from stages._sources.records import parsed_slots, record_items
from stages._sources.rows import (
    DEFAULT_LIMITS,
    SHOWN,
    Counts,
    Limits,
    Place,
    RecordError,
    Rejection,
    Row,
    SlotParser,
    refuse_no_records,
    rejection,
    shown,
    tally,
)


def _check_hub_name(name: str, revision: str | None) -> None:
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        raise StillhouseError(
            f"prepare.hub.name is {shown(name)}: expected a folder that exists or owner/name."
        )
    if not re.fullmatch("[0-9a-f]{40}", revision or ""):
        raise StillhouseError(
            f"prepare.hub.revision is {shown(revision)}: expected the 40 hexadecimal digits of a "
            f"commit of {name}, because names of branches move. Its page lists the commits."
        )


def _open_hub(name: str, revision: str | None, hub_split: str, folder: Path) -> Any:
    """Records of a folder (`save_to_disk`, or parquet, csv or jsonl files) or of a hub data set."""
    local = folder.is_dir()
    if not local:
        _check_hub_name(name, revision)
    import datasets

    if not local:
        return datasets.load_dataset(name, revision=revision, split=hub_split)
    if (folder / "dataset_dict.json").is_file():
        return datasets.load_from_disk(str(folder))[hub_split]
    if (folder / "state.json").is_file():
        alone = datasets.load_from_disk(str(folder))
        if hub_split != str(alone.split or "train"):  # else one set could be train and test at once
            raise KeyError(f"the folder holds one data set, {alone.split or 'train'}")
        return alone
    # Streamed, because reading it whole would first copy it into the user's cache.
    return datasets.load_dataset(str(folder), split=hub_split, streaming=True)


def _hub_error(name: str, hub_split: str, error: Exception) -> StillhouseError:
    reason = " ".join(str(error).split())[:SHOWN] or type(error).__name__
    if isinstance(error, KeyError | ValueError):
        step = "Check the split's name and the files; broken rows need the source csv or jsonl"
    else:
        step = "Go online with run.offline: false, or name a local folder in prepare.hub.name"
    return StillhouseError(f"{name}, split {hub_split!r}, cannot be read ({reason}). {step}.")


def _hub_records(
    name: str, revision: str | None, hub_split: str, root: Path
) -> Iterator[dict[str, Any]]:
    # Any exception: the libraries below raise their own, pyarrow's, httpx's and the hub's errors.
    try:
        yield from _open_hub(name, revision, hub_split, root / home_path(expand(name)))
    except StillhouseError:
        raise
    except ImportError:
        raise StillhouseError(
            "Source hub needs the package datasets. Install the train extra."
        ) from None
    except Exception as error:
        raise _hub_error(name, hub_split, error) from None


def read_hub(
    name: str,
    revision: str | None,
    split: str | None = None,
    *,
    hub_split: str,
    prompt_column: str,
    response_column: str,
    parse_slots: SlotParser | None = None,
    root: Path = Path(),
    counts: Counts | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Iterator[Row | Rejection]:
    """Stream a Hugging Face data set, or a local folder in such a format; runs no code of it.

    Args:
        name: a folder (from `root`; it goes first) or a data set, owner/name.
        revision: commit of the data set, 40 hexadecimal digits; a folder has none.
        split: our name of the split.
        hub_split: its name there; a single `save_to_disk` data set that names none is "train".
        prompt_column: column with the prompt.
        response_column: column with one reference, or a list of them.
        parse_slots: as in `read_csv`.
        root: where relative folders start.
        counts: filled while the generator runs; `line` of a row is the record's number, from 1.
        limits: longest text; records are not measured.

    Raises:
        StillhouseError: no revision, offline, no such data set, split or column, or no record.
    """
    counts = counts if counts is not None else Counts()
    before = counts.records
    file = f"{name}@{revision[:12]}/{hub_split}" if revision else f"{name}/{hub_split}"
    for number, record in enumerate(_hub_records(name, revision, hub_split, root), start=1):
        if number == 1:
            for column, parameter in ((prompt_column, "prompt"), (response_column, "response")):
                column_position(column, list(record), parameter, file)
        prompt, answer = record.get(prompt_column), record.get(response_column)
        key = "references" if isinstance(answer, list) else "reference"
        place = Place(file, number, split)
        try:
            slots = parsed_slots(prompt, parse_slots)
            items = record_items(
                {"prompt": prompt, key: answer, "slots": slots}, place, limits, counts
            )
        except RecordError as error:
            items = [rejection(place, error)]
        yield from tally(items, counts)
    refuse_no_records(counts, before, file)
