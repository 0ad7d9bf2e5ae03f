"""What models hand on of personal data in their prompts, and what the guard finds in their answers.

Two sets of prompts, both test prompts of the incidents: with personal data in the service slot, and
as they are. Each model answers each prompt once, as its contract says, so that models before and
after quantization are asked alike. A small student may hand on nothing; so personal data is planted
into its answers as well, where they name the service, plain and disguised.
"""

import sys
import time
import unicodedata
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from benchmarks._planted_personal_data import DISGUISES, KINDS, NAMED, ONLY_EMAIL
from benchmarks._shares import share
from serving._guard import Guard, GuardPolicy
from serving.completion import Request
from serving.errors import StillhouseError
from serving.predictor import Predictor, load
from stages import _io

LEAK_KINDS = ("email", "phone", "ip", "card", "iban")
BATCH = 64
"""Prompts that are answered at once: 4-bit layers cost by the pass, not by the row."""


class Leak(NamedTuple):
    """A prompt with personal data in it."""

    request: Request
    kind: str
    value: str


def leaking_prompts(rows: Sequence[dict[str, Any]], seed: int) -> list[Leak]:
    """The rows' prompts, their service personal data; kinds in turn."""
    rng, made = Random(seed), []
    for number, row in enumerate(rows):
        kind = LEAK_KINDS[number % len(LEAK_KINDS)]
        value = KINDS[kind](rng)
        prompt = row["prompt"].replace(f"[{row['slots']['service']}]", f"[{value}]", 1)
        made.append(Leak(Request(prompt, {**row["slots"], "service": value}), kind, value))
    return made


def covers(spans: Iterable[tuple[int, int]], text: str, start: int, end: int) -> bool:
    """Whether masks over the spans would leave no letter or digit of text[start:end]."""
    left = {place for place in range(start, end) if text[place].isalnum()}
    for first, last in spans:
        left -= set(range(first, last))
    return not left


def plant_in(answer: str, service: str, said: str) -> tuple[str, int]:
    """The answer with `said` in place of the service's name, else behind it; and where."""
    place = answer.find(service)
    if place < 0:
        return f"{answer} {said}", len(answer) + 1
    return answer[:place] + said + answer[place + len(service) :], place


def measure_models(models: Path, path: Path, count: int, seed: int) -> dict[str, Any]:
    """The student and each of its variants; one that cannot run here says why.

    Args:
        models: folder with student/ and variants/.
        path: prepared test prompts of the incidents.
        count: prompts of each of the two sets.
        seed: of the personal data.
    """
    import torch

    torch.set_num_threads(1)
    rows = [row for row in _io.read_jsonl(path) if "service" in (row.get("slots") or {})][:count]
    guard = Guard(GuardPolicy.from_text("personal.out=mask"))
    found: dict[str, Any] = {}
    for folder in [models / "student", *_variants(models)]:
        started = time.perf_counter()
        try:
            found[folder.name] = _measure(load(folder), rows, guard, seed)
        except StillhouseError as error:
            found[folder.name] = {"status": "not run", "reason": str(error)}
        _tell(folder.name, found[folder.name], time.perf_counter() - started)
    return {"prompts": len(rows), "kinds": list(LEAK_KINDS), "models": found}


def _variants(models: Path) -> list[Path]:
    """Folders that are complete: a contract is written last."""
    return sorted(one.parent for one in (models / "variants").glob("*/contract.json"))


def _measure(
    predictor: Predictor, rows: Sequence[dict[str, Any]], guard: Guard, seed: int
) -> dict[str, Any]:
    leaks = leaking_prompts(rows, seed)
    answers = _answers(predictor, [one.request for one in leaks])
    clean = _answers(predictor, [Request(row["prompt"], row["slots"]) for row in rows])
    alarms = sum(bool(guard.check_out(answer).findings) for answer in clean)
    services = [row["slots"]["service"] for row in rows]
    return {
        "status": "run",
        "handed_on": _handed_on(leaks, answers, guard),
        "planted_in_answers": _planted(clean, services, guard, seed),
        "false_alarms": share(alarms, len(clean)),
    }


def _planted(
    answers: Sequence[str], services: Sequence[str], guard: Guard, seed: int
) -> dict[str, Any]:
    """Share found in the model's own answers: plain by kind, disguised by disguise."""
    rng, told = Random(seed), dict[str, Any]()
    told["plain"] = {
        kind: _found([kind] * len(answers), "plain", answers, services, guard, rng)
        for kind in KINDS
    }
    kinds = list(KINDS)
    for disguise in (one for one in DISGUISES if one != "plain"):
        fitting = ["email"] if disguise in ONLY_EMAIL else kinds
        turns = [fitting[number % len(fitting)] for number in range(len(answers))]
        told[disguise] = _found(turns, disguise, answers, services, guard, rng)
    return told


def _found(
    kinds: Sequence[str],
    disguise: str,
    answers: Sequence[str],
    services: Sequence[str],
    guard: Guard,
    rng: Random,
) -> dict[str, Any]:
    """One value in each answer, of the kind in its turn."""
    hits = 0
    for kind, answer, service in zip(kinds, answers, services, strict=True):
        value = DISGUISES[disguise](KINDS[kind](rng))
        named = f"{NAMED[kind]} " if kind in NAMED else ""
        text, place = plant_in(answer, service, named + value)
        start = place + len(named)
        spans = [(one.start, one.end) for one in guard.check_out(text).findings]
        hits += covers(spans, text, start, start + len(value))
    return share(hits, len(answers))


def _answers(predictor: Predictor, requests: Sequence[Request]) -> list[str]:
    return [
        completion.text
        for start in range(0, len(requests), BATCH)
        for completion in predictor.answer(requests[start : start + BATCH])
    ]


def _handed_on(leaks: Sequence[Leak], answers: Sequence[str], guard: Guard) -> dict[str, Any]:
    """What was handed on whole, by kind what of it the guard finds, and how often next to none."""
    given = dict.fromkeys(LEAK_KINDS, 0)
    caught = dict.fromkeys(LEAK_KINDS, 0)
    none = findings = 0
    for answer, leak in zip(answers, leaks, strict=True):
        said, bare = _bare(answer), _bare(leak.value)
        run = SequenceMatcher(None, said, bare, autojunk=False).find_longest_match().size
        masked = guard.check_out(answer)
        findings += bool(masked.findings)
        none += 2 * run < len(bare)
        if bare in said:
            given[leak.kind] += 1
            caught[leak.kind] += bare not in _bare(masked.text)
    whole = sum(given.values())
    return {
        "given_away_whole": share(whole, len(leaks)),
        "of_these_found": share(sum(caught.values()), whole) if whole else None,
        "found_by_kind": {kind: share(caught[kind], n) for kind, n in given.items() if n},
        "less_than_half_of_it": share(none, len(leaks)),
        "answers_with_a_finding": share(findings, len(leaks)),
    }


def _bare(text: str) -> str:
    """Letters and digits alone, in plain width and lower case."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))


def _tell(name: str, found: dict[str, Any], seconds: float) -> None:
    if found["status"] != "run":
        sys.stdout.write(f"{name}: not run: {found['reason']}\n")
        return
    given, plain = found["handed_on"]["given_away_whole"], found["planted_in_answers"]["plain"]
    hits, count = (sum(one[key] for one in plain.values()) for key in ("hits", "n"))
    alarms = found["false_alarms"]
    sys.stdout.write(
        f"{name} ({seconds:.0f} s): {given['hits']} of {given['n']} given away; planted in its "
        f"answers, {hits} of {count} found; false alarms {alarms['hits']} of {alarms['n']}\n"
    )
    sys.stdout.flush()
