"""A tiny student and a tiny baseline, exported once for all tests that look at an export."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from service_models import PARAMS
from tiny_models import write_model
from toy import example, write_prepared

from stages import _io
from stages.baseline import baseline
from stages.export import export

LOCK = Path(__file__).parent.parent / "requirements/train.txt"
PROMPTS = 6
_PLACES: list[tempfile.TemporaryDirectory[str]] = []  # deleted with the process


@cache
def exported() -> tuple[Path, dict[str, Any]]:
    """The folder with student/, baseline/, calibration.jsonl and the export out/; its report."""
    _PLACES.append(tempfile.TemporaryDirectory())
    root = Path(_PLACES[-1].name)
    write_model(root / "student")
    write_prepared(root)
    inputs = {n: root / n for n in ("train.jsonl", "validation.jsonl", "slots.json")}
    baseline(PARAMS, inputs, {"model": root / "baseline", "reports": root / "reports"})
    pubs = [(n, f, d) for n in ("Zizzi", "Aromi") for f in ("fish", "pies") for d in ("yes", "no")]
    _io.write_jsonl(root / "calibration.jsonl", [example(*pub) for pub in pubs])
    winner = {"candidate": "student", "folder": str(root / "student")}
    _io.write_json(root / "winner.json", {"cpu": winner})
    return root, run(root, root / "out")


def run(root: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """Export what is below `root`; `changes` are arguments of the export."""
    given: dict[str, Any] = {"model": root / "student", "baseline": root / "baseline"}
    given |= {"winner": root / "winner.json", "calibration": root / "calibration.jsonl"}
    return export(out=out, **{**given, "lock": LOCK, "least": PROMPTS, **changes})
