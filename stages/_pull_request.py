"""The report on a pull request, as Markdown: `make pr-report`.

Reads   facts.json of the pull request's run and of its base (stages/_run_facts.py)
Writes  scratch/pull_request/comment.md
Run     python3 -m stages._pull_request --head facts.json --base base/facts.json

The facts come from code that nobody has reviewed, so they are data: a file of a bounded size, of
which only what has the right type is shown. Text stands in code spans, which hold no links, no
mentions and no markup, and the whole is bounded too. Only the standard library is imported, so that
the job with the right to comment installs nothing.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from serving.errors import StillhouseError
from stages import _io

COMMENT = Path("scratch/pull_request/comment.md")
MARKER = "<!-- stillhouse: pipeline report -->"
"""First line of the comment, by which it is found again."""
MAX_BYTES = 1_000_000
MAX_ROWS = 30
MAX_TEXT = 80
MAX_CHARACTERS = 60_000
"""GitHub takes 65,536 in a comment."""
VERDICTS = {"pass": "pass", "fail": "**fail**", "inconclusive": "inconclusive"}
NOTHING = "–"

Facts = Mapping[str, Any]


def read_facts(path: Path | None) -> Facts | None:
    """A run's facts; None where there are none to be had.

    Raises:
        StillhouseError: the file is too large or no facts.
    """
    if path is None or not path.is_file():
        return None
    if path.stat().st_size > MAX_BYTES:
        raise StillhouseError(f"{path} has more than {MAX_BYTES} bytes, which no run's facts have.")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise StillhouseError(f"{path} is not JSON.") from None
    if not isinstance(facts, dict) or facts.get("schema_version") != 1:
        raise StillhouseError(f"{path} holds no facts of a run (make facts writes them).")
    return facts


def render(head: Facts | None, base: Facts | None, outcome: str, link: str = "") -> str:
    """The comment: marker, outcome, then metrics, params, budgets and stages, base against head.

    Args:
        outcome: how the run ended, in GitHub's words: success, failure, …
        link: address of the run.
    """
    about = f"[pipeline-smoke]({link})" if link else "pipeline-smoke"
    lines = [MARKER, f"### {about}: {code(outcome)}", ""]
    if head is None:
        lines.append("The run left no facts, so there is nothing to compare; its log says why.")
    else:
        lines += [_compared(head, base), ""]
        for part in (_metrics, _params, _budgets, _stages):
            lines += [*part(head, base or {}), ""]
    text = "\n".join(lines)
    if len(text) > MAX_CHARACTERS:
        text = text[:MAX_CHARACTERS].rsplit("\n", 1)[0] + "\n\nThe rest is left out."
    return text.rstrip() + "\n"


def code(value: Any) -> str:
    """`value` as a code span that stays one, in a table too; long text is cut."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    shown = "".join(c if c.isprintable() else " " for c in text[: MAX_TEXT + 1])
    shown = shown.replace("`", "'").replace("|", "¦")  # what would end the span, or the cell
    if len(text) > MAX_TEXT:
        shown = shown[: MAX_TEXT - 1] + "…"
    return f"`{shown}`" if shown.strip() else NOTHING


def _compared(head: Facts, base: Facts | None) -> str:
    said = f"Profile {code(head.get('profile'))}, commit {code(_commit(head))}"
    if base is None:
        return f"{said}; there is no earlier run on the default branch to compare with."
    return f"{said}, compared with {code(_commit(base))} of the default branch."


def _commit(facts: Facts) -> str:
    return str(facts.get("commit"))[:12]


def _metrics(head: Facts, base: Facts) -> Iterator[str]:
    """Those that differ, the winner's first."""
    mine, theirs = _numbers(head, "metrics"), _numbers(base, "metrics")
    winner = f".{head.get('winner')}."
    names = sorted(mine | theirs, key=lambda name: (winner not in name, name))
    changed = [name for name in names if mine.get(name) != theirs.get(name)]
    yield f"**Metrics**: {len(changed)} of {len(names)} changed" if base else "**Metrics**"
    rows = (
        [code(name), number(theirs.get(name)), number(mine.get(name)), _change(mine, theirs, name)]
        for name in changed
    )
    yield from table(["metric", "base", "this", "change"], rows)


def _change(mine: Mapping[str, float], theirs: Mapping[str, float], name: str) -> str:
    if name not in mine or name not in theirs:
        return NOTHING
    return f"{mine[name] - theirs[name]:+.4g}"


def _params(head: Facts, base: Facts) -> Iterator[str]:
    """Params as committed; of the profile those alone that the committed ones do not show."""
    rows, of_profile = [], []
    if base:
        rows = _differences(_mapping(head, "committed_params"), _mapping(base, "committed_params"))
        shown = {row[0] for row in rows}
        used = _differences(_mapping(head, "params"), _mapping(base, "params"))
        of_profile = [
            [f"{row[0]} (profile {code(head.get('profile'))})", *row[1:]]
            for row in used
            if row[0] not in shown
        ]
    count = len(rows) + len(of_profile)
    yield f"**Params**: {count} changed" if base else "**Params**: nothing to compare with"
    yield from table(["param", "base", "this"], [*rows, *of_profile])


def _differences(mine: dict[str, Any], theirs: dict[str, Any]) -> list[list[str]]:
    absent = object()

    def shown(value: Any) -> str:
        return NOTHING if value is absent else code(value)

    return [
        [code(name), shown(theirs.get(name, absent)), shown(mine.get(name, absent))]
        for name in sorted(mine | theirs)
        if mine.get(name, absent) != theirs.get(name, absent)
    ]


def _budgets(head: Facts, base: Facts) -> Iterator[str]:
    """What fails stands first, then what the winner keeps."""
    winner = head.get("winner")
    before = {_budget_name(b): b for b in _records(base, "budgets")}
    found = sorted(
        _records(head, "budgets"),
        key=lambda b: (b.get("verdict") == "pass", b.get("candidate") != winner),
    )
    kept = sum(budget.get("verdict") == "pass" for budget in found)
    yield f"**Budgets**: {kept} of {len(found)} kept"
    rows = (
        [
            code(name := _budget_name(budget)),
            number(budget.get("limit")),
            number(before.get(name, {}).get("value")),
            number(budget.get("value")),
            VERDICTS.get(str(budget.get("verdict")), NOTHING),
        ]
        for budget in found
    )
    yield from table(["budget", "limit", "base", "this", "verdict"], rows)


def _budget_name(budget: Mapping[str, Any]) -> str:
    return f"{budget.get('candidate')}: {budget.get('budget')}"


def _stages(head: Facts, base: Facts) -> Iterator[str]:
    before = {str(s.get("stage")): s.get("seconds") for s in _records(base, "stages")}
    found = _records(head, "stages")
    ran = [stage for stage in found if stage.get("state") == "ran"]
    yield f"**Stages**: {len(ran)} of {len(found)} ran, the others came from the cache"
    rows = (
        [
            code(name := str(stage.get("stage"))),
            "ran" if stage in ran else "cached",
            number(before.get(name)),
            number(stage.get("seconds")),
        ]
        for stage in found
    )
    yield from table(["stage", "", "base [s]", "this [s]"], rows)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A Markdown table of at most MAX_ROWS rows, folded away; nothing where there is no row."""
    found = list(rows)
    if not found:
        return
    yield "<details><summary>Show</summary>"
    yield ""
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for row in found[:MAX_ROWS]:
        yield f"| {' | '.join(row)} |"
    if found[MAX_ROWS:]:
        yield ""
        yield f"{len(found) - MAX_ROWS} more are in the run's artefact."
    yield ""
    yield "</details>"


def number(value: Any) -> str:
    """A figure in four digits; a dash for what is none."""
    return f"{value + 0:,.4g}" if _is_number(value) else NOTHING  # + 0: no -0


def _is_number(value: Any) -> bool:
    """Python's json reads NaN and numbers too large for a float, too."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e15 and not math.isnan(value)


def _mapping(facts: Facts, key: str) -> dict[str, Any]:
    value = facts.get(key)
    return value if isinstance(value, dict) else {}


def _numbers(facts: Facts, key: str) -> dict[str, float]:
    return {name: value for name, value in _mapping(facts, key).items() if _is_number(value)}


def _records(facts: Facts, key: str) -> list[dict[str, Any]]:
    value = facts.get(key)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def main() -> None:
    """Render the facts named on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m stages._pull_request",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--head", type=Path, required=True, help="facts of the pull request's run")
    parser.add_argument("--base", type=Path, help="facts of the default branch's last run")
    parser.add_argument("--outcome", default="success", help="how the run ended")
    parser.add_argument("--link", default="", help="address of the run")
    arguments = parser.parse_args()
    try:
        text = render(
            read_facts(arguments.head),
            read_facts(arguments.base),
            arguments.outcome,
            arguments.link,
        )
    except StillhouseError as error:
        # told in the comment too: its reader has no other log
        text = (
            f"{MARKER}\n### pipeline-smoke\n\nThe run's facts cannot be used: {code(str(error))}\n"
        )
    _io.write_text(COMMENT, text)
    sys.stdout.write(f"{COMMENT}: {len(text)} characters\n")


if __name__ == "__main__":
    main()
