"""The cascade's models, read: answers to the calibration prompts, contracts, speed and prices."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serving._cascade.route import ErrorKind, Place, Price, RungName
from serving.contract import Contract, digest, read_contract
from serving.endpoint_settings import read_settings
from serving.errors import StillhouseError
from serving.slots import SlotSchema
from stages import _io
from stages._comparison import best_requests_per_s
from stages._params import Params
from stages._params.route import Asked, Scored
from stages._routing import Candidate
from stages._wrong_answers import Example, find_likeness, find_slot_errors, find_wrong


def choose_error(
    params: Params, examples: Sequence[Example], schema: SlotSchema | None
) -> ErrorKind:
    """What makes an answer wrong.

    Raises:
        StillhouseError: there is nothing to compare the answers with.
    """
    wanted = params.route.error
    records = schema is not None and all("slots" in example for example in examples)
    referenced = all(example.get("references") for example in examples)
    if wanted in ("slots", "either") and not records:
        raise StillhouseError(
            f"route.error is {wanted}, but the data has no records. Set prepare.slot_schema, or "
            "route.error to similarity."
        )
    if wanted == "slots" or (wanted == "auto" and records and not referenced):
        return "slots"
    if empty := [example["id"] for example in examples if not example.get("references")]:
        raise StillhouseError(
            f"{len(empty)} of {len(examples)} calibration prompts have no reference (first: "
            f"{empty[0]!r}), so that nothing says which answers are wrong. Give each a reference."
        )
    return "either" if wanted == "either" or (wanted == "auto" and records) else "similarity"


def read_candidates(
    params: Params,
    inputs: Mapping[str, Path],
    examples: Sequence[Example],
    error: ErrorKind,
    schema: SlotSchema | None,
) -> dict[RungName, Candidate]:
    """Baseline, winner on the CPU and teacher, with their answers to the calibration prompts.

    Raises:
        StillhouseError: what answered, what select chose or what was measured is not what a folder
            holds; all of it in one line.
    """
    winner = _io.read_json(inputs["winner"]).get("cpu")
    if not winner:
        raise StillhouseError(
            f'{inputs["winner"]} names no winner for the CPU. Run "dvc repro select".'
        )
    sources: dict[RungName, tuple[str, Path]] = {
        "baseline": ("baseline", params.answer.folder("baseline")),
        "student": (winner["candidate"], Path(winner["folder"])),
        "teacher": ("teacher", params.answer.folder("teacher")),
    }
    contracts = {rung: read_contract(folder) for rung, (_, folder) in sources.items()}
    reports = {rung: _benchmark(inputs["benchmark"], name) for rung, (name, _) in sources.items()}
    _check_models(inputs["answers"], sources, reports, winner["model_sha256"])
    wanted = contracts["student"].slot_schema  # the service checks every rung's answers with it
    served = SlotSchema.from_dict(wanted) if wanted else None
    found: dict[RungName, Candidate] = {}
    for rung, (name, folder) in sources.items():
        answers = align(inputs["answers"] / f"{name}.calibration.jsonl", examples)
        settings: Asked = getattr(params.route.rungs, rung) or Asked()
        rate = best_requests_per_s(reports[rung])
        errors, likeness = (
            find_slot_errors(examples, answers, schema),
            find_likeness(examples, answers),
        )
        found[rung] = Candidate(
            name=rung,
            sha256=digest(folder),
            place=_place(settings, contracts[rung]),
            answers=answers,
            wrong=find_wrong(error, errors, likeness, params.route.similarity_floor),
            score=settings.score if isinstance(settings, Scored) else None,
            price=_price(settings, contracts[rung], folder, reports[rung]),
            seconds=1.0 / rate if rate else None,
            slot_errors=errors,
            suspect=errors if served == schema else find_slot_errors(examples, answers, served),
            likeness=likeness,
        )
    return found


def align(path: Path, examples: Sequence[Example]) -> list[dict[str, Any]]:
    """The answers in the order of the prompts.

    Raises:
        StillhouseError: a prompt has none, or there are others.
    """
    answers = {row["id"]: row for row in _io.read_jsonl(path)}
    missing = sum(example["id"] not in answers for example in examples)
    if missing or len(answers) != len(examples):
        raise StillhouseError(
            f"{path} has {len(answers)} answers for {len(examples)} prompts, {missing} prompts "
            f'have none. Run "dvc repro answer" to answer the present calibration split.'
        )
    return [answers[example["id"]] for example in examples]


def _check_models(
    answers: Path,
    sources: Mapping[RungName, tuple[str, Path]],
    reports: Mapping[RungName, Mapping[str, Any]],
    chosen: str,
) -> None:
    """What answered, was measured and was chosen must be what each folder holds."""
    wrong = []
    for rung, (name, folder) in sources.items():
        present = digest(folder)
        named = {
            "answered": _io.read_json(answers / f"{name}.model.json").get("sha256"),
            "benchmarked": reports[rung].get("model_sha256", present),
            "chosen": chosen if rung == "student" else present,
        }
        wrong += [
            f"{name} was {how} as {str(other)[:12]}, its folder holds {present[:12]}"
            for how, other in named.items()
            if other != present
        ]
    if wrong:
        raise StillhouseError(
            f"Thresholds need answers of the present models: {'; '.join(wrong)}. "
            f'Run "dvc repro" to answer, measure and choose again.'
        )


def _benchmark(folder: Path, name: str) -> dict[str, Any]:
    """What was measured of a candidate; empty where nothing was."""
    path = folder / f"{name}.json"
    report: dict[str, Any] = _io.read_json(path) if path.is_file() else {}
    return report


def _place(settings: Asked, contract: Contract) -> Place:
    if settings.place != "auto":
        return settings.place
    return "remote" if contract.engine == "endpoint" else "local"


def _price(settings: Asked, contract: Contract, folder: Path, report: Mapping[str, Any]) -> Price:
    """The price of the params; else an endpoint's per token, or a machine's per hour."""
    if settings.price is not None:
        return Price(**settings.price.model_dump())
    if contract.engine == "endpoint":
        endpoint = read_settings(folder)
        return Price(
            usd_per_million_prompt_tokens=1e3 * endpoint.price_per_1k_prompt_tokens_usd,
            usd_per_million_completion_tokens=1e3 * endpoint.price_per_1k_completion_tokens_usd,
        )
    return Price(usd_per_hour=report.get("hourly_price_usd", 0.0))
