"""What the page asks of its service: its models, examples of prompts, what is switched on."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from serving._cascade.endpoint_teacher import EndpointTeacher
from serving._slots.records import render_record
from serving.contract import Contract, digest, read_contract

if TYPE_CHECKING:
    from serving._entry import Entry

EXAMPLES = 4
SLOTS = 3
"""Of an example [count]."""


def show_facts(entry: "Entry") -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of /page.json."""

    async def facts(_: Request) -> Response:
        return Response(json.dumps(facts_of(entry)), media_type="application/json")

    return facts


def facts_of(entry: "Entry") -> dict[str, Any]:
    """As JSON has them."""
    folder = entry.settings.student_folder()
    models = [_model("baseline", entry.settings.baseline), _model("student", folder)]
    rungs = entry.cascade.opened.route.rungs if entry.cascade else ()
    for rung in rungs:
        if rung.name == "teacher":
            where = _teacher(entry)
            models.append({"rung": "teacher", "engine": where, "digest": rung.model_sha256[:12]})
    thresholds = {rung.name: rung.threshold for rung in rungs}
    return {
        "service": "stillhouse",
        "models": [one | {"threshold": thresholds.get(one["rung"])} for one in models],
        "examples": examples_of(read_contract(folder, check_files=False)),
        "cascade": entry.cascade is not None,
        "keys": entry.keyed,
    }


def examples_of(contract: Contract) -> list[str]:
    """Records of values that the slot schema names; none without one."""
    slots = (contract.slot_schema or {}).get("slots", {})
    known = {name: list(one.get("values") or ()) for name, one in slots.items()}
    named = [(name, values) for name, values in known.items() if values]
    made = []
    for number in range(EXAMPLES if named else 0):
        chosen = [named[(number + place) % len(named)] for place in range(min(SLOTS, len(named)))]
        made.append(render_record({name: vs[number % len(vs)] for name, vs in chosen}))
    return list(dict.fromkeys(made))


def _teacher(entry: "Entry") -> str:
    """How the teacher is reached."""
    found = entry.cascade.opened.teacher if entry.cascade else None
    if found is None:
        return "not here"
    return "endpoint" if isinstance(found, EndpointTeacher) else "service"


def _model(rung: str, folder: Path) -> dict[str, Any]:
    engine = read_contract(folder, check_files=False).engine
    return {"rung": rung, "engine": engine, "digest": digest(folder)[:12]}
