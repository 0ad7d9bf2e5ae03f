"""What frozen windows add to the prepared data: prompts with gold to the splits, others to a pool.

A window's rows are what people asked of the service. Those with references (gold.jsonl, added by
people later) become examples like all others, marked with their window, so that every score can be
told for the old data and for each window. The others have no reference; the teacher answers them.

Nothing that was there before changes: a window's prompt that copies one of the splits, exactly or
nearly, is left out, never the other way round. So with `gold: held_out` training and validation
stay byte for byte, and DVC keeps the teacher. No prompt is on two sides.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from serving.errors import StillhouseError
from serving.slots import SlotSchema
from stages import _io
from stages._params.prepare import Prepare, WindowUse
from stages._prepared import (
    HELD_OUT,
    SPLITS,
    Example,
    Groups,
    Split,
    family,
    make_example,
    near_copies,
    with_slots,
)
from stages._privacy import PersonalData
from stages._sources import Rejection, Row

ASKED = ("id", "prompt", "context", "slots")
GOLD = "gold.jsonl"
Families = dict[str, list[Row]]
"""Rows by what they ask; those of one family differ in order, spelling or reference."""


@dataclass(frozen=True)
class TurnedAway:
    """A window's row that is not used; told without its text."""

    file: str
    line: int
    """Number of the row in the window or its sample; of gold.jsonl its line."""
    reason: Literal[
        "asked_already", "gold_line", "near_copy", "no_text", "repeated_in_window", "text_too_long"
    ]
    detail: str
    reference: int | None = None


Turned = list[Rejection | TurnedAway]


@dataclass
class Taken:
    """What all windows add."""

    splits: dict[Split, list[Example]] = field(
        default_factory=lambda: {split: [] for split in SPLITS}
    )
    prompts: list[Example] = field(default_factory=list)
    """Without references, for the teacher."""
    rejected: list[dict[str, Any]] = field(default_factory=list)
    """As lines of rejected.jsonl."""
    counts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Per window: rows by what became of them."""


@dataclass(frozen=True)
class Source:
    """How the rows of any window become examples."""

    settings: Prepare
    schema: SlotSchema | None
    personal: PersonalData
    seed: int


@dataclass
class Known:
    """What has its place already, a row for each: the splits, then window after window."""

    families: set[str]
    train: list[Row]
    held_out: list[Row]


def take_windows(
    windows: Mapping[str, WindowUse], folder: Path, groups: Groups, source: Source
) -> Taken:
    """Examples and prompts of every window that params.yaml names, in its order.

    Args:
        folder: data/windows.
        groups: the splits as they are without windows; they stay so.

    Raises:
        StillhouseError: a window is absent, damaged, or not the one that was meant.
    """
    taken = Taken()
    if not windows:
        return taken
    firsts = {split: [rows[0] for rows in groups.rows[split].values()] for split in SPLITS}
    held_out = [row for split in HELD_OUT for row in firsts[split]]
    known = Known({family(r) for r in (*firsts["train"], *held_out)}, firsts["train"], held_out)
    for name, use in windows.items():
        check_window(folder / name, name, use)
        _take(name, use, folder / name, known, source, taken)
    return taken


def check_window(folder: Path, name: str, use: WindowUse) -> None:
    """The window must be the one that params.yaml means, gold included.

    Raises:
        StillhouseError: it is another one, or absent.
    """
    from stages._windows.reading import read_window  # pyarrow

    found = read_window(folder).info["content_sha256"]
    gold = _io.sha256_file(folder / GOLD) if (folder / GOLD).is_file() else None
    pairs = (("rows", use.content_sha256, found), ("gold", use.gold_sha256, gold))
    for what, meant, there in pairs:
        if meant not in (None, there):
            raise StillhouseError(
                f"{folder}: its {what} have the SHA-256 {str(there)[:12]}, but "
                f"prepare.windows.{name} means {str(meant)[:12]}. Restore the window, or retrain "
                f"on what is there: make retrain"
            )


def cut_gold(families: Iterable[str], use: WindowUse, salt: str) -> dict[Split, list[str]]:
    """Families by split, by their hash and the window's shares; held_out: in two parts alone."""
    order = sorted(families, key=lambda one: sha256(f"{salt}\x1f{one}".encode()).digest())
    shares = use.shares
    if use.gold == "held_out":
        part = shares.calibration / max(shares.calibration + shares.test, 1e-12)
        count = round(part * len(order))
        return {"calibration": order[:count], "test": order[count:]}
    cut: dict[Split, list[str]] = {}
    start = 0
    for split in HELD_OUT:
        count = round(getattr(shares, split) * len(order))
        cut[split] = order[start : start + count]
        start += count
    return {"train": order[start:], **cut}


def _take(
    name: str, use: WindowUse, folder: Path, known: Known, source: Source, taken: Taken
) -> None:
    turned: Turned = []
    gold, ids = _gold_families(folder, source, turned)
    _leave_out(gold, known, turned)
    cut = cut_gold(gold, use, f"{source.seed}\x1f{name}")
    _leave_near_out(gold, cut, known, source.settings, turned)
    for split, families in cut.items():
        side = known.train if split == "train" else known.held_out
        side += [gold[one][0] for one in families]
        taken.splits[split] += [_mark(gold[one], name) for one in families]
    known.families |= set(gold)
    asked, rows = _asked_families(folder, use, ids, source, turned)
    _leave_out(asked, known, turned)
    _leave_copies_out(asked, list(asked), known.held_out, source.settings, turned)
    known.families |= set(asked)
    taken.prompts += [_mark(same, name) | {"references": []} for same in asked.values()]
    told = [source.personal.clean(r) if isinstance(r, Rejection) else r for r in turned]
    taken.rejected += [dict(vars(one)) for one in told]
    reasons = Counter(one.reason for one in turned)
    taken.counts[name] = {
        "rows": rows,
        "rows_with_gold": len(ids),
        "gold": {split: len(cut.get(split, [])) for split in SPLITS},
        "prompts": len(asked),
        "rejected_by_reason": dict(sorted(reasons.items())),
    }


def _gold_families(
    folder: Path, source: Source, turned: Turned
) -> tuple[Families, Collection[str]]:
    """Rows with references by family, and the ids of all rows that have any."""
    from stages._windows.gold import read_gold
    from stages._windows.reading import read_window

    gold, families = read_gold(folder), Families()
    file = (folder / GOLD).as_posix()
    turned += [TurnedAway(file, r["line"], "gold_line", r["reason"]) for r in gold.rejected]
    rows = read_window(folder).rows(ASKED) if gold.references else ()
    for number, row in enumerate(rows, start=1):
        if texts := gold.references.get(row["id"]):
            texts = list(dict.fromkeys(text.strip() for text in texts))
            _add(families, row, number, texts, folder, source, turned)
    return families, gold.references.keys()


def _asked_families(
    folder: Path, use: WindowUse, with_gold: Collection[str], source: Source, turned: Turned
) -> tuple[Families, int]:
    """Rows without references by family, of at most `use.prompts` rows, and all rows there are."""
    from stages._windows.reading import sample_rows

    rows, summary = sample_rows(folder, use.prompts, source.seed, ASKED)
    families: Families = {}
    for number, row in enumerate(rows, start=1):
        if row["id"] not in with_gold:
            _add(families, row, number, [""], folder, source, turned)
    return families, summary["rows"]


def _add(
    families: Families,
    row: Mapping[str, Any],
    number: int,
    references: Sequence[str],
    folder: Path,
    source: Source,
    turned: Turned,
) -> None:
    """Put a row into its family, once per reference (an empty one: none), or say why not."""
    file, prompt = folder.as_posix(), (row["prompt"] or "").strip()
    if not prompt:
        turned.append(TurnedAway(file, number, "no_text", "the service kept no clear text"))
        return
    if (size := max(map(len, (prompt, *references)))) > source.settings.max_chars:
        turned.append(TurnedAway(file, number, "text_too_long", f"{size:,} characters"))
        return
    slots, context = row["slots"] or None, row["context"] or None
    found = Row(file, number, None, prompt, "", slots, context, None)
    made = with_slots(found, source.schema)
    if isinstance(made, Rejection):
        turned.append(made)
        return
    looked = [source.personal.look(replace(made, reference=text)) for text in references]
    same = families.setdefault(family(looked[0]), [])
    said = {other.reference for other in same}
    if fresh := [one for one in looked if one.reference not in said]:
        same += fresh
    else:
        turned.append(TurnedAway(file, number, "repeated_in_window", "asked by an earlier row"))


def _leave_out(families: Families, known: Known, turned: Turned) -> None:
    """Take out what the splits or another window ask already."""
    for one in [one for one in families if one in known.families]:
        _drop(families, one, "asked_already", "the prepared data asks the same", turned)


def _leave_near_out(
    gold: Families,
    cut: dict[Split, list[str]],
    known: Known,
    settings: Prepare,
    turned: Turned,
) -> None:
    """Take out near copies across sides: held-out ones of training prompts, and the reverse."""
    measured = [one for split in HELD_OUT for one in cut.get(split, [])]
    _leave_copies_out(gold, measured, known.train, settings, turned)
    others = [*known.held_out, *(gold[one][0] for one in measured if one in gold)]
    _leave_copies_out(gold, cut.get("train", []), others, settings, turned)
    for split, families in cut.items():
        cut[split] = [one for one in families if one in gold]


def _leave_copies_out(
    families: Families,
    names: Sequence[str],
    others: Sequence[Row],
    settings: Prepare,
    turned: Turned,
) -> None:
    rows = [families[name][0] for name in names]
    similarities = (settings.near_duplicate_similarity, settings.near_duplicate_record_similarity)
    for match in near_copies(rows, others, *similarities):
        name, detail = names[match.candidate_index], f"similarity {match.similarity:.2f}"
        _drop(families, name, "near_copy", f"{detail} to a prompt of the other side", turned)


def _drop(
    families: Families,
    name: str,
    reason: Literal["asked_already", "near_copy"],
    detail: str,
    turned: Turned,
) -> None:
    places = dict.fromkeys((row.file, row.line) for row in families.pop(name))
    turned += [TurnedAway(*place, reason, detail) for place in places]


def _mark(rows: Sequence[Row], window: str) -> Example:
    """One example of a family's rows, in the words of the first one."""
    same = [replace(rows[0], reference=row.reference) for row in rows]
    return make_example(same) | {"window": window}
