"""The traditional model: TF-IDF retrieval of the closest training record, answered in its words.

A prompt is answered with what a person wrote for a similar one. Where the data has a slot schema,
retrieval looks at the record's structure (which slots, which closed-class values, which units), the
found answers are re-lexicalised with the asked record's values, and the candidate with the fewest
slot errors wins; without a schema the closest prompt's answer is taken as it stands. A calibrated
classifier says how likely the answer is good.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from serving._classifier import Classifier
from serving._retrieval import Entry, Index, load_index, retrieval_text
from serving.completion import Completion, Request
from serving.contract import Contract
from serving.errors import StillhouseError
from serving.slots import SlotCheck, SlotSchema, check_answer, parse_record, relexicalise

POOL = 200  # nearest prompts whose records are compared slot by slot
FEATURE_NAMES = (
    "similarity",  # of the chosen answer's prompt to the asked one, 0..1
    "best_similarity",
    "margin",  # best similarity minus the last competitor's
    "neighbour_coverage",  # share of the asked slots that the chosen record has
    "slot_error_rate",  # of the chosen answer against the asked record
    "asked_slots",
    "prompt_words",
    "unseen_terms",  # share of the prompt's retrieval terms outside the vocabulary
    "answer_words",
    "agreement",  # mean word overlap (Jaccard) of the answer with its competitors
)


@dataclass(frozen=True)
class Candidate:
    """One possible answer and why it might be a good one."""

    text: str
    similarity: float
    entry: Entry
    check: SlotCheck | None


def find_candidates(
    index: Index, requests: Sequence[Request], count: int, leave_out: Sequence[int] | None = None
) -> list[list[Candidate]]:
    """The competing answers of each request, best first.

    Args:
        count: answers that compete per request, from the nearest prompts on.
        leave_out: for each request the training row that must not answer it (itself), so that
            training prompts can be answered as if they were new.
    """
    slots = [request_slots(request, index.schema) for request in requests]
    texts = [
        retrieval_text(request.prompt, record, index.schema, request.context)
        for request, record in zip(requests, slots, strict=True)
    ]
    wanted = min(max(POOL, count) + (leave_out is not None), len(index.entries))
    distances, rows = index.neighbours.kneighbors(index.vectoriser.transform(texts), wanted)
    found = []
    for number, record in enumerate(slots):
        own = -1 if leave_out is None else leave_out[number]
        pairs = zip(rows[number], 1.0 - distances[number], strict=True)
        near = [(int(row), float(similarity)) for row, similarity in pairs if row != own]
        near.sort(key=lambda pair: -pair[1])
        if record is not None and index.schema is not None:
            unfit = {
                row: _mismatch(record, index.entries[row].slots, index.schema) for row, _ in near
            }
            near.sort(key=lambda pair: unfit[pair[0]])  # stable: the nearest first among equals
        found.append(_rank(index, near, record, count))
    return found


def _mismatch(asked: Mapping[str, str], known: Mapping[str, str] | None, schema: SlotSchema) -> int:
    """Slots that an answer to `known` must leave out, add, or (a flag) say the wrong way round."""
    known = known or {}
    turned = [
        slot
        for slot in asked.keys() & known.keys()
        if slot in schema.slots
        and schema.slots[slot]["kind"] == "flag"
        and asked[slot] != known[slot]
    ]
    return len(asked.keys() ^ known.keys()) + len(turned)


def _rank(
    index: Index, near: Sequence[tuple[int, float]], record: Mapping[str, str] | None, count: int
) -> list[Candidate]:
    answers = (
        (reference, similarity, index.entries[row])
        for row, similarity in near
        for reference in index.entries[row].references
    )
    candidates = [
        _candidate(reference, similarity, entry, record, index.schema)
        for reference, similarity, entry in islice(answers, count)
    ]
    return sorted(candidates, key=lambda c: (c.check.errors if c.check else 0, -c.similarity))


def _candidate(
    reference: str,
    similarity: float,
    entry: Entry,
    record: Mapping[str, str] | None,
    schema: SlotSchema | None,
) -> Candidate:
    if record is None or schema is None or entry.slots is None:
        return Candidate(reference, similarity, entry, None)
    text = relexicalise(reference, entry.slots, record, schema)
    return Candidate(text, similarity, entry, check_answer(text, record, schema))


def request_slots(request: Request, schema: SlotSchema | None) -> Mapping[str, str] | None:
    """The request's record: as given, parsed from the prompt, or None without a schema."""
    if schema is None:
        return None
    record = request.slots if request.slots is not None else parse_record(request.prompt)
    if unknown := sorted(record.keys() - schema.slots.keys()):
        raise StillhouseError(
            f"slots {', '.join(unknown)} are not in the schema {schema.name}; "
            f"it has {', '.join(schema.slots)}. Leave them out."
        )
    return record


def confidence_features(
    index: Index, request: Request, candidates: Sequence[Candidate]
) -> list[float]:
    """The numbers the confidence is computed from, in the order of `FEATURE_NAMES`."""
    best = candidates[0]
    slots = request_slots(request, index.schema)
    asked = set(slots or ())
    text = retrieval_text(request.prompt, slots, index.schema, request.context)
    terms = index.vectoriser.build_analyzer()(text)
    unseen = sum(term not in index.vectoriser.vocabulary_ for term in terms)
    words = set(best.text.lower().split())
    overlaps = [_jaccard(words, set(other.text.lower().split())) for other in candidates[1:6]]
    similarities = [candidate.similarity for candidate in candidates]
    return [
        best.similarity,
        max(similarities),
        max(similarities) - min(similarities),
        len(asked & set(best.entry.slots or ())) / len(asked) if asked else 1.0,
        best.check.error_rate if best.check else 0.0,
        float(len(asked)),
        float(len(request.prompt.split())),
        unseen / len(terms) if terms else 1.0,
        float(len(best.text.split())),
        sum(overlaps) / len(overlaps) if overlaps else 0.0,
    ]


def _jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b) if a | b else 1.0


class BaselinePredictor:
    """The baseline behind the interface that all engines share."""

    def __init__(self, folder: Path, contract: Contract) -> None:
        schema = contract.slot_schema
        self.contract = contract
        self.index = load_index(folder, SlotSchema.from_dict(schema) if schema else None)
        self.classifier = Classifier.load(folder / "classifier.safetensors")
        self.candidates: int = contract.decoding["candidates"]

    def answer(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer a batch: one search for all, then each request's candidates compete."""
        if not requests:
            return []
        found = find_candidates(self.index, requests, self.candidates)
        pairs = list(zip(requests, found, strict=True))
        features = [confidence_features(self.index, request, c) for request, c in pairs]
        confidences = self.classifier.probabilities(np.asarray(features))
        return [
            Completion(
                text=candidates[0].text,
                prompt_tokens=len(request.prompt.split()),
                completion_tokens=len(candidates[0].text.split()),
                finish_reason="stop",
                confidence=float(confidence),
            )
            for (request, candidates), confidence in zip(pairs, confidences, strict=True)
        ]

    def stream(self, request: Request) -> Iterator[str]:
        """Yield the answer whole: retrieval has no pieces."""
        yield self.answer([request])[0].text
