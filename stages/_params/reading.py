"""Reads params.yaml and reports every mistake of a file at once, with the nearest known name."""

import difflib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from serving.errors import StillhouseError
from stages._params.base import Section
from stages._params.params import Params


def load_params(path: Path) -> Params:
    """Read and check a params file.

    Raises:
        StillhouseError: the file is absent or not YAML, or any field is wrong; all mistakes are in
            the one message, a line each.
    """
    return check_params(read_yaml(path), path)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping as plain data; duplicate keys are mistakes.

    Raises:
        StillhouseError: the file is absent, not UTF-8, not YAML or not a mapping.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        data = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StillhouseError(
            f"{path} is missing. Check its path, and run from the project root."
        ) from None
    except OSError as error:
        raise StillhouseError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise StillhouseError(
            f"{path} is not UTF-8 (byte {error.start}). Save it as UTF-8."
        ) from None
    except YAMLError as error:
        reason = " ".join(str(error).split())
        raise StillhouseError(f"{path} is not YAML: {reason}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise StillhouseError(f"{path}: expected sections, found {type(data).__name__}.")
    return data


def check_params(data: dict[str, Any], path: Path) -> Params:
    """Validate `data`; `path` is named in the errors."""
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        lines = [_describe(mistake) for mistake in error.errors()]
        count = f"{len(lines)} mistake" + ("s" if len(lines) > 1 else "")
        raise StillhouseError("\n  ".join([f"{path} has {count}:", *lines])) from None


def _describe(mistake: Any) -> str:
    where = ".".join(str(part) for part in mistake["loc"])
    if mistake["type"] == "extra_forbidden":
        known = _known_keys(mistake["loc"][:-1])
        near = difflib.get_close_matches(str(mistake["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        return f"{where}: unknown key; {hint}"
    message = mistake["msg"].removeprefix("Value error, ")
    found = "" if mistake["type"] in ("value_error", "missing") else f", found {mistake['input']!r}"
    hint = _nearest_choice(mistake)
    return f"{where or 'file'}: {message}{found[:120]}{hint}"


def _nearest_choice(mistake: Any) -> str:
    choices = str(mistake.get("ctx", {}).get("expected", "")).replace(" or ", ", ").split(", ")
    near = difflib.get_close_matches(f"'{mistake['input']}'", choices, n=1)
    return f"; did you mean {near[0]}?" if near and mistake["type"] == "literal_error" else ""


def _known_keys(loc: tuple[Any, ...]) -> list[str]:
    """Field names of the section at `loc`; empty where it is not a section."""
    section: Any = Params
    for part in loc:
        if section is None or part not in section.model_fields:
            return []
        section = _section_class(section.model_fields[part].annotation)
    return list(section.model_fields) if section is not None else []


def _section_class(annotation: Any) -> type[Section] | None:
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, Section)), None)
