"""Which models a canary must find: the release's records say, a person may name others."""

import re
from pathlib import Path
from typing import Any

from serving.errors import StillhouseError
from stages import _io
from stages._canary.arms import Expected

CURRENT = Path("releases/current.json")
CHALLENGER = Path("releases/challenger.json")
WINNER = Path("models/winner.json")
SHA256 = re.compile("[0-9a-f]{64}")


def expected_champion(root: Path, device: str, model: str | None, image: str | None) -> Expected:
    """What serves: the model in force, unless `model` names another.

    Raises:
        StillhouseError: nothing is in force on the device, or `model` is no digest.
    """
    if model is not None:
        return Expected(_checked(model), image)
    record = _io.read_json(root / CURRENT)
    found = _model((record.get("winners") or {}).get(device))
    if found is None:
        raise StillhouseError(
            f"{CURRENT} names no model in force on {device}, so there is no champion. Name one "
            f"with --champion-model, or release without a canary (docs/canary.md)."
        )
    return Expected(found, image or _image(record, device))


def expected_challenger(root: Path, device: str, model: str | None, image: str | None) -> Expected:
    """What wants to serve: the challenge, else the winner, unless `model` names another.

    Raises:
        StillhouseError: there is none on the device, or `model` is no digest.
    """
    if model is not None:
        return Expected(_checked(model), image)
    if (root / CHALLENGER).is_file():
        record = _io.read_json(root / CHALLENGER)
        found = _model((record.get("winners") or {}).get(device))
        image = image or _image(record, device)
    else:
        found = _model(_io.read_json(root / WINNER).get(device))
    if found is None:
        raise StillhouseError(
            f"there is no challenger on {device}. Run make challenge, or name a model with "
            f"--challenger-model."
        )
    return Expected(found, image)


def _model(winner: dict[str, Any] | None) -> str | None:
    return _checked(winner["model_sha256"]) if winner else None


def _image(record: dict[str, Any], device: str) -> str | None:
    found: str | None = (record.get("images") or {}).get(device, {}).get("image")
    return found


def _checked(model: str) -> str:
    if not SHA256.fullmatch(model):
        raise StillhouseError(
            f"{model[:80]!r} is no digest of a model (64 hexadecimal digits, as in models/"
            f"winner.json)."
        )
    return model
