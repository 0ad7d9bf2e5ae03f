"""Whether the teacher itself must learn the window: its errors there against its usual level.

A student can only become as good as the texts it learns from. So the teacher answers the window's
prompts, and its slot errors (which need no reference) are compared with those of its calibration
answers; on data without records, its chrF to the gold with that to the calibration references. The
two sides are different prompts, so each is resampled by itself (Efron and Tibshirani 1993, "An
Introduction to the Bootstrap", 8.3). Only a proven loss above the limit calls for another teacher.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from serving.slots import SlotSchema, check_answer, is_record, parse_record
from stages import _io
from stages._params.retrain import Retrain

if TYPE_CHECKING:
    from stages._scores import Score, Statistics

Verdict = Literal["must_learn", "good_enough", "unclear", "not_measured"]
ASKED = ("id", "prompt", "context", "slots")
Row = dict[str, Any]
Answer = tuple[Row, str]
"""A row with its prompt and slots, and what the teacher says to it."""


@dataclass(frozen=True)
class Level:
    """The teacher on the window and on calibration."""

    verdict: Verdict
    reason: str
    metric: str | None = None
    window: Mapping[str, Any] | None = None
    """Score with interval on the window's prompts."""
    calibration: Mapping[str, Any] | None = None
    loss: Mapping[str, Any] | None = None
    """How much worse it is on the window, with its interval, and the limit."""
    prompts: int = 0
    wrong_gold: tuple[str, ...] = ()
    """Rows with gold that it gets wrong, by id: what it should learn first."""

    def to_dict(self) -> dict[str, Any]:
        """The form in which reports carry it."""
        return asdict(self)


def difference(window: "Statistics", usual: "Statistics", settings: Retrain, seed: int) -> "Score":
    """The window's score less the usual one, both resampled by themselves."""
    from stages._scores import Score, bootstrap_weights, percentiles

    sides = [
        one.combine(bootstrap_weights(len(one.rows), settings.resamples, place) @ one.rows)
        for one, place in ((window, seed), (usual, seed + 1))
    ]
    low, high = percentiles(sides[0] - sides[1], settings.confidence)
    points = [float(one.combine(one.rows.sum(axis=0))) for one in (window, usual)]
    return Score(points[0] - points[1], low, high, f"difference|{window.signature}")


def judge(loss: "Score", limit: float) -> tuple[Verdict, str]:
    """What a loss with its interval says about a limit."""
    told = f"{loss.score:.4g} [{loss.low:.4g}, {loss.high:.4g}] against {limit:.4g}"
    if loss.low > limit:
        return "must_learn", f"it is worse on the window by {told}"
    if loss.high <= limit:
        return "good_enough", f"its loss on the window is {told}"
    return "unclear", f"its loss on the window is {told}: too few prompts to tell"


@dataclass(frozen=True)
class Sides:
    """A metric on the window's prompts and on calibration's."""

    metric: str
    limit: float
    sign: float
    """1 where more is worse, -1 where less is."""
    window: "Statistics"
    usual: "Statistics"
    wrong_gold: tuple[str, ...] = ()


def compare(
    window: Sequence[Answer],
    usual: Sequence[Answer],
    gold: Mapping[str, Sequence[str]],
    schema: SlotSchema | None,
    settings: Retrain,
    seed: int,
) -> Level:
    """The teacher's level on the window, by slot errors where there are records, else on gold.

    Args:
        usual: calibration prompts with their references, and its answers.
        gold: references of the window's rows by id.
    """
    from stages._scores import Score, bootstrap_weights, corpus_score

    sides = (
        by_slots(window, usual, gold, schema, settings)
        if schema is not None
        else by_gold(window, usual, gold, settings)
    )
    if sides is None:
        return Level("not_measured", "no prompts to compare: records, or else gold, are lacking")
    change = difference(sides.window, sides.usual, settings, seed)
    low, high = sorted((sides.sign * change.low, sides.sign * change.high))
    loss = Score(sides.sign * change.score, low, high, change.signature)
    verdict, reason = judge(loss, sides.limit)
    window_score, usual_score = (
        corpus_score(
            one,
            bootstrap_weights(len(one.rows), settings.resamples, seed),
            settings.confidence,
        ).to_dict()
        for one in (sides.window, sides.usual)
    )
    shown, prompts = loss.to_dict() | {"limit": sides.limit}, len(sides.window.rows)
    figures = (sides.metric, window_score, usual_score, shown, prompts, sides.wrong_gold)
    return Level(verdict, reason, *figures)


def by_slots(
    window: Sequence[Answer],
    usual: Sequence[Answer],
    gold: Mapping[str, Sequence[str]],
    schema: SlotSchema,
    settings: Retrain,
) -> Sides | None:
    """Slot errors per slot of all prompts that are records; None where a side has none."""
    from stages._scores import slot_statistics

    asked = [[a for a in side if a[0].get("slots")] for side in (window, usual)]
    if not all(asked):
        return None
    checks = [[check_answer(text, row["slots"], schema) for row, text in side] for side in asked]
    pairs = zip(asked[0], checks[0], strict=True)
    wrong = tuple(row["id"] for (row, _), check in pairs if row["id"] in gold and check.errors)
    metric, limit = "slot_error_rate", settings.teacher_slot_error_rate_rise
    statistics = [slot_statistics(one)[metric] for one in checks]
    return Sides(metric, limit, 1.0, statistics[0], statistics[1], wrong)


def by_gold(
    window: Sequence[Answer],
    usual: Sequence[Answer],
    gold: Mapping[str, Sequence[str]],
    settings: Retrain,
) -> Sides | None:
    """chrF of all prompts that have references; None where a side has none."""
    from stages._scores import chrf_statistics

    asked = [a for a in window if gold.get(a[0]["id"])]
    if not asked or not usual:
        return None
    sides = (
        chrf_statistics([text for _, text in asked], [gold[row["id"]] for row, _ in asked]),
        chrf_statistics([text for _, text in usual], [row["references"] for row, _ in usual]),
    )
    wrong = far_from_gold([row["id"] for row, _ in asked], *sides, settings.teacher_chrf_fall)
    return Sides("chrf", settings.teacher_chrf_fall, -1.0, *sides, wrong)


def far_from_gold(
    ids: Sequence[str], window: "Statistics", usual: "Statistics", limit: float
) -> tuple[str, ...]:
    """Rows whose own score is more than `limit` below the usual one, the farthest first."""
    scores = window.combine(window.rows)
    least = float(usual.combine(usual.rows.sum(axis=0))) - limit
    return tuple(ids[place] for place in scores.argsort(kind="stable") if scores[place] < least)


def measure_teacher(root: Path, window: Path, settings: Retrain, seed: int) -> Level:
    """Ask the teacher the window's prompts, those with gold first, and compare.

    Raises:
        StillhouseError: the window cannot be read, or models/teacher is not what its contract says.
    """
    from serving.contract import read_contract
    from stages._windows.gold import read_gold

    folder = root / "models/teacher"
    if read_contract(folder).engine == "endpoint":
        return Level("not_measured", "it is an endpoint, which costs money to ask")
    gold = read_gold(window).references
    rows = choose_rows(window, gold, settings.teacher_prompts, seed)
    if not rows:
        return Level("not_measured", "the window has no prompt with text")
    schema_data = _io.read_json(root / "data/prepared/slots.json")
    schema = SlotSchema.from_dict(schema_data) if schema_data else None
    return compare(ask(folder, rows), read_usual(root), gold, schema, settings, seed)


def choose_rows(window: Path, gold: Mapping[str, Sequence[str]], most: int, seed: int) -> list[Row]:
    """At most so many rows with text, each prompt once, those with gold first."""
    from stages._windows.reading import read_window, sample_rows

    judged = [row for row in read_window(window).rows(ASKED) if row["id"] in gold] if gold else []
    others, _ = sample_rows(window, 2 * most, seed, ASKED)
    once: dict[tuple[str, str | None], Row] = {}
    for row in (*judged, *others):
        if row["prompt"]:
            once.setdefault((row["prompt"], row["context"]), row)
    return [with_record(row) for row in list(once.values())[:most]]


def with_record(row: Row) -> Row:
    """The row with the slots of its prompt, where that is a record and nobody gave any."""
    if row.get("slots") or not is_record(row["prompt"]):
        return row
    return row | {"slots": parse_record(row["prompt"])}


def ask(folder: Path, rows: Sequence[Row], batch: int = 64) -> list[Answer]:
    """The teacher's answers."""
    from serving.completion import Request
    from serving.predictor import load

    predictor, answers = load(folder), list[Answer]()
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        requests = [Request(r["prompt"], r.get("slots"), r.get("context")) for r in part]
        answers += zip(part, (one.text for one in predictor.answer(requests)), strict=True)
    return answers


def read_usual(root: Path) -> list[Answer]:
    """Calibration prompts with the teacher's answers, as the answer stage left them."""
    examples = _io.read_jsonl(root / "data/prepared/calibration.jsonl")
    answers = _io.read_jsonl(root / "data/answers/teacher.calibration.jsonl")
    texts = {answer["id"]: answer["text"] for answer in answers}
    return [(example, texts[example["id"]]) for example in examples if example["id"] in texts]
