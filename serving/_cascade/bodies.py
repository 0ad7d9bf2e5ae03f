"""What is kept of an answer of the cascade, as plain JSON."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from serving._cascade.route import RungName
from serving._items import Answer
from serving._live.checks import Checked, Found

if TYPE_CHECKING:
    from serving._cascade.flow import Given


class Kept(NamedTuple):
    """The part of an answer that is the same for all who get it."""

    answer: Answer
    rung: RungName
    checked: Checked


def body_of(given: "Given") -> dict[str, Any]:
    """As it is kept."""
    assert given.answer is not None, "what is kept is an answer"
    checked = asdict(given.checked) | {"findings": [list(one) for one in given.checked.findings]}
    return {"answer": given.answer.model_dump(), "rung": given.rung, "checked": checked}


def read_body(body: dict[str, Any]) -> Kept:
    """What was kept; its key has the form's number, so that its form is known."""
    findings = tuple(Found(*one) for one in body["checked"]["findings"])
    checked = Checked(**(body["checked"] | {"findings": findings}))
    return Kept(Answer(**body["answer"]), body["rung"], checked)
