"""The route: which models answer in which order, and how sure each must be. models/route.json.

The stage `route` writes the file, bound to the digests of the models that its thresholds were
calibrated for; a service that holds other models refuses it. Standard library only.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast, get_args

from serving.errors import StillhouseError

SCHEMA_VERSION = 1
ROUTE_NAME = "route.json"
AGAIN = 'Run "dvc repro route" to make it again.'

RungName = Literal["baseline", "student", "teacher"]
Place = Literal["local", "remote"]
Score = Literal["confidence", "mean_logprob", "min_logprob", "checked"]
ErrorKind = Literal["slots", "similarity", "either"]
Otherwise = Literal["abstain", "answer"]

RUNGS: tuple[RungName, ...] = get_args(RungName)
"""In the order in which they are tried."""


@dataclass(frozen=True)
class Rung:
    """One model of the cascade."""

    name: RungName
    place: Place
    """remote: prompts leave this deployment, so none with personal data may go there."""
    threshold: float | None
    """An answer that scores this or more is accepted; None accepts any (the last rung only)."""
    score: Score
    """Of the answer's first choice; higher is surer. checked: serving/_cascade/scoring.py."""
    model_sha256: str
    """Digest of the contract of the model that the threshold belongs to."""


@dataclass(frozen=True)
class Price:
    """What a rung's answer costs; the parts add up [USD]."""

    usd_per_hour: float = 0.0
    """Of the machine, charged for the seconds that it computes."""
    usd_per_request: float = 0.0
    usd_per_million_prompt_tokens: float = 0.0
    usd_per_million_completion_tokens: float = 0.0

    def cost(self, seconds: float, prompt_tokens: float, completion_tokens: float) -> float:
        """Price of one answer, or of an average one [USD]."""
        read = prompt_tokens * self.usd_per_million_prompt_tokens
        written = completion_tokens * self.usd_per_million_completion_tokens
        return seconds / 3600.0 * self.usd_per_hour + self.usd_per_request + (read + written) / 1e6


@dataclass(frozen=True)
class Route:
    """models/route.json."""

    rungs: tuple[Rung, ...]
    """In the order in which they are tried; at least one."""
    otherwise: Otherwise
    """Where no rung is sure: no answer, or the last local answer, marked as unsure."""
    alpha: float
    """Largest share of wrong answers among those that a rung accepts."""
    delta: float
    """Probability that a calibration promises too much, over all rungs together."""
    error: ErrorKind
    """What a wrong answer is: any slot error, too little similarity to every reference, or either
    of the two."""
    prices: Mapping[RungName, Price]
    sha256: str
    """Of the file: part of the key of whatever is kept of its answers."""
    params_hash: str = ""
    """Of the stage's params section and the seed."""
    data_hash: str = ""
    """SHA-256 of the calibration prompts."""
    unmet: Mapping[RungName, str] = field(default_factory=dict)
    """Rungs that were asked for and left out, with the reason."""


def read_route(path: Path) -> Route:
    """Read and check a route file.

    Raises:
        StillhouseError: the file is missing or not JSON, a newer schema, unknown or missing
            fields, or wrong values, all of them in one line.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise StillhouseError(f'{path} is missing. Run "dvc repro route" to make it.') from None
    except OSError as error:
        raise StillhouseError(f"{path} cannot be read: {error.strerror}.") from None
    try:
        data = json.loads(content)
    except ValueError as error:  # also bytes that are no text
        raise StillhouseError(f"{path} is not JSON ({error}). {AGAIN}") from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if type(version) is not int or version < 1:
        raise StillhouseError(f"{path} has no schema_version. {AGAIN}")
    if version > SCHEMA_VERSION:
        raise StillhouseError(
            f"{path} has schema version {version}, this program reads up to {SCHEMA_VERSION}. "
            f"Update Stillhouse."
        )
    if problems := find_mistakes(data):
        raise StillhouseError(f"{path}: {'; '.join(problems)}. {AGAIN}")
    return _parse(data, hashlib.sha256(content).hexdigest())


def route_content(route: Route) -> dict[str, Any]:
    """What the file holds of `route`: everything but its own digest."""
    content = asdict(route) | {"rungs": [asdict(rung) for rung in route.rungs]}
    del content["sha256"]
    return {"schema_version": SCHEMA_VERSION, **content}


def check_route(route: Route, digests: Mapping[RungName, str]) -> None:
    """Refuse thresholds that belong to other models than those that are there.

    Args:
        digests: the digest of each rung's model (`serving.contract.digest`).

    Raises:
        StillhouseError: a rung's model is another one or missing; every mismatch in one line.
    """
    wrong = [
        f"{rung.name} was calibrated as {rung.model_sha256[:12]}, here is "
        f"{digests[rung.name][:12] if rung.name in digests else 'no such model'}"
        for rung in route.rungs
        if digests.get(rung.name) != rung.model_sha256
    ]
    if wrong:
        raise StillhouseError(
            f"The route's thresholds are not for these models: {'; '.join(wrong)}. "
            f'Run "dvc repro route" for the present models, or serve those it was made for.'
        )


def find_mistakes(data: Mapping[str, Any]) -> list[str]:
    """What is wrong with a route file's content, a phrase each; empty where nothing is."""
    wanted = {item.name for item in fields(Route)} - {"sha256"} | {"schema_version"}
    problems = _differing_fields(data, wanted, "")
    if problems:
        return problems
    for name, choices in (("otherwise", Otherwise), ("error", ErrorKind)):
        if data[name] not in get_args(choices):
            problems.append(f"{name} must be one of {', '.join(get_args(choices))}")
    problems += [
        f"{name} must be a number from 0 to 1"
        for name in ("alpha", "delta")
        if not (_is_number(data[name]) and 0.0 <= data[name] <= 1.0)
    ]
    problems += [
        f"{name} must be a text"
        for name in ("params_hash", "data_hash")
        if not isinstance(data[name], str)
    ]
    unmet = data["unmet"]
    if not (isinstance(unmet, dict) and all(isinstance(why, str) for why in unmet.values())):
        problems.append("unmet must give each rung's reason")
    return [*problems, *_rung_mistakes(data["rungs"]), *_price_mistakes(data["prices"])]


def _rung_mistakes(rungs: Any) -> list[str]:
    if not (isinstance(rungs, list) and rungs and all(isinstance(one, dict) for one in rungs)):
        return ["rungs must be a list of at least one rung"]
    problems = []
    for place, rung in enumerate(rungs):
        where, last = f"rungs[{place}]", place == len(rungs) - 1
        if differing := _differing_fields(rung, {item.name for item in fields(Rung)}, where):
            problems += differing
            continue
        for name, choices in (("name", RungName), ("place", Place), ("score", Score)):
            if rung[name] not in get_args(choices):
                problems.append(f"{where}.{name} must be one of {', '.join(get_args(choices))}")
        if rung["threshold"] is None and not last:
            problems.append(f"{where}.threshold may be null in the last rung only")
        if rung["threshold"] is not None and not _is_number(rung["threshold"]):
            problems.append(f"{where}.threshold must be a finite number or null")
        if not re.fullmatch(r"[0-9a-f]{64}", str(rung["model_sha256"])):
            problems.append(f"{where}.model_sha256 must be a SHA-256")
    names = [rung.get("name") for rung in rungs]
    if not problems and names != [name for name in RUNGS if name in names]:
        problems.append(f"rungs must stand in the order {', '.join(RUNGS)}, each once")
    return problems


def _price_mistakes(prices: Any) -> list[str]:
    if not (isinstance(prices, dict) and all(isinstance(one, dict) for one in prices.values())):
        return ["prices must give each rung's price"]
    known = {item.name for item in fields(Price)}
    problems = [f"prices.{name} is no rung" for name in prices if name not in RUNGS]
    for name, price in prices.items():
        problems += _differing_fields(price, known, f"prices.{name}")
        problems += [
            f"prices.{name}.{part} must be a number of at least 0"
            for part, value in price.items()
            if part in known and not (_is_number(value) and value >= 0.0)
        ]
    return problems


def _differing_fields(data: Mapping[str, Any], wanted: set[str], where: str) -> list[str]:
    dot = f"{where}." if where else ""
    unknown = [f"{dot}{name} is unknown" for name in sorted(data.keys() - wanted)]
    return unknown + [f"{dot}{name} is missing" for name in sorted(wanted - data.keys())]


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def _parse(data: Mapping[str, Any], sha256: str) -> Route:
    rungs = cast(Sequence[dict[str, Any]], data["rungs"])
    others = ("otherwise", "alpha", "delta", "error", "params_hash", "data_hash", "unmet")
    return Route(
        rungs=tuple(Rung(**rung) for rung in rungs),
        prices={name: Price(**price) for name, price in data["prices"].items()},
        sha256=sha256,
        **{name: data[name] for name in others},
    )
