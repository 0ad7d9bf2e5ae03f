"""The pool as the detectors take it: answered, tabulated and encoded once, and kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._drift_draws import Places, Row, draw_pool, draw_training, unanswered
from serving.completion import Request
from serving.contract import digest
from serving.errors import StillhouseError
from serving.slots import SlotSchema
from stages import _io
from stages._drift.comparing import Side
from stages._drift.features import Table, tabulate
from stages._drift.reference import winner_rows
from stages._drift.vectors import Encoder
from stages._drift.vocabulary import learn
from stages._kept_vectors import Vectors, encode_texts
from stages._progress import report_progress

BATCH = 64
ANSWER = ("finish_reason", "confidence", "mean_logprob", "min_logprob")


@dataclass(frozen=True)
class Pool:
    """All rows with their columns and vectors."""

    table: Table
    vectors: Vectors
    places: dict[str, Places]
    embedded: int
    """Rows of a side that have vectors, the first ones."""

    def side(self, places: Places) -> Side:
        """The rows at `places` as one side of a comparison."""
        table = self.table.take(places)
        texts = table.texts[: self.embedded] if self.vectors else []
        return Side(table, {text: self.vectors[text] for text in texts})


def open_pool(
    seed: int,
    schema: SlotSchema,
    encoder: Encoder | None,
    embedded: int,
    winner: Path | None,
    kept: Path,
) -> Pool:
    """The pool; vectors and answers that were made before are read.

    Args:
        seed: of the project's training split, which says what is new.
        winner: a model folder that answers all rows; None: nobody does.
        kept: folder for vectors and answers.
    """
    examples, places = draw_pool()
    training = learn(draw_training(seed), schema)
    rows = answered(examples, winner, schema, kept) if winner else unanswered(examples)
    table = tabulate(rows, training, None)
    vectors: Vectors = encode_texts(table.texts, encoder, kept, encoder.name) if encoder else {}
    return Pool(table, vectors, places, embedded)


def winner_of(path: Path) -> Path:
    """Folder of the CPU winner that models/winner.json names.

    Raises:
        StillhouseError: it names none.
    """
    winner = _io.read_json(path).get("cpu")
    if not winner:
        raise StillhouseError(f'{path} names no winner for the CPU. Run "dvc repro select".')
    return path.parent.parent / str(winner["folder"])


def answered(
    examples: Sequence[Row], winner: Path, schema: SlotSchema, kept: Path
) -> list[dict[str, Any]]:
    """Rows with the winner's answers, checked as the service checks them."""
    from serving.predictor import load

    sha256 = digest(winner)
    path = kept / f"answers-{sha256[:16]}-{len(examples)}.jsonl"
    if not path.is_file():
        predictor = load(winner)
        _io.write_jsonl(path, _ask(predictor.answer, examples))
    answers = {row["id"]: row for row in _io.read_jsonl(path)}
    return winner_rows(examples, answers, sha256, schema)


def _ask(
    answer: Callable[[Sequence[Request]], Sequence[Any]], examples: Sequence[Row]
) -> list[Row]:
    progress, found = report_progress("answer the pool", len(examples)), list[Row]()
    for start in range(0, len(examples), BATCH):
        part = examples[start : start + BATCH]
        requests = [Request(one["prompt"], one["slots"], None) for one in part]
        for example, one in zip(part, answer(requests), strict=True):
            found.append(
                {"id": example["id"], "text": one.text, **{n: getattr(one, n) for n in ANSWER}}
            )
        progress(len(found))
    return found
