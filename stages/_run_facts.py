"""Facts of a pipeline run, for the report on a pull request: `make facts`.

Reads   params.yaml, dvc.yaml and the metrics it names, reports/select/decision.json, and every
        stage's run.json
Writes  scratch/pull_request/facts.json: metrics, params, budgets, and what each stage took
Run     python -m stages._run_facts --since 2026-11-22T08:00:00Z

The file is all that leaves the job which runs a pull request's code; stages/_pull_request.py, which
runs elsewhere with the right to comment, takes it for data that a stranger wrote.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from serving.errors import StillhouseError
from stages import _io
from stages._params import read_yaml
from stages._profile import MARK
from stages._provenance import git_state
from stages._stage import print_line

SCHEMA_VERSION = 1
FACTS = Path("scratch/pull_request/facts.json")
DECISION = Path("reports/select/decision.json")


def gather(root: Path, since: datetime, budget_s: float | None) -> dict[str, Any]:
    """Everything the report says of one run.

    Args:
        since: with its zone; a stage that began later ran, the others came from the cache.
        budget_s: what all stages together may take [s]; None: as long as they like.

    Raises:
        StillhouseError: DVC fails, or a file that it names is damaged.
    """
    stages = list(stage_facts(root, since))
    decision = _io.read_json(root / DECISION) if (root / DECISION).is_file() else {}
    return {
        "schema_version": SCHEMA_VERSION,
        "commit": git_state(root).commit,
        "profile": profile(root),
        "params": flatten(read_yaml(root / "params.yaml")),
        "committed_params": flatten(_committed(root) or {}),
        "metrics": metrics(root),
        "winner": decision.get("winners", {}).get("cpu"),
        "budgets": [*budgets(decision), *_time_budget(stages, budget_s)],
        "stages": stages,
    }


def profile(root: Path) -> str:
    """Name of the profile that lies over params.yaml; `default` where none does."""
    first = (root / "params.yaml").read_text(encoding="utf-8").split("\n", 1)[0]
    return first.removeprefix(MARK).split(" ", 1)[0] if first.startswith(MARK) else "default"


def metrics(root: Path) -> dict[str, float]:
    """What `dvc metrics show` prints: `<folder>.<path in the file>` → figure."""
    shown = json.loads(_dvc(root, "metrics", "show", "--json"))
    files = shown.get("", {}).get("data", {})
    found = {Path(name).parent.name: file.get("data", {}) for name, file in files.items()}
    return {
        name: float(value)
        for name, value in flatten(found).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def flatten(tree: Any, name: str = "") -> dict[str, Any]:
    """Leaves of mappings and lists by their dotted path."""
    pairs: Iterator[tuple[Any, Any]]
    if isinstance(tree, Mapping) and tree:
        pairs = iter(tree.items())
    elif isinstance(tree, list) and any(isinstance(item, dict | list) for item in tree):
        pairs = iter(enumerate(tree))
    else:
        return {name: tree}
    dotted = f"{name}." if name else ""
    return {k: v for key, value in pairs for k, v in flatten(value, f"{dotted}{key}").items()}


def budgets(decision: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The gates of every candidate that may win: what was measured against what is allowed."""
    for candidate in decision.get("candidates", []):
        for gate in candidate.get("gates", []):
            yield {
                "candidate": candidate["name"],
                "budget": gate["gate"],
                "value": gate["value"],
                "limit": gate["threshold"],
                "verdict": gate["verdict"],
            }


def _time_budget(stages: list[dict[str, Any]], limit: float | None) -> Iterator[dict[str, Any]]:
    """What making every output took, whenever it was made; the cache hides no slow stage."""
    took = sum(stage["seconds"] for stage in stages)
    verdict = "pass" if limit is None or took <= limit else "fail"
    yield {
        "candidate": "pipeline",
        "budget": "seconds",
        "value": took,
        "limit": limit,
        "verdict": verdict,
    }


def stage_facts(root: Path, since: datetime) -> Iterator[dict[str, Any]]:
    """Each stage's name, whether it ran, and what it took when it last did [s]."""
    names = _dvc(root, "stage", "list", "--name-only").split()
    records = {}
    for path in sorted((root / "reports").glob("**/run.json")):
        with suppress(KeyError, TypeError, StillhouseError):  # another program's file
            record = _io.read_json(path)
            records[record["dvc_stage"]] = (record["started_at"], float(record["seconds"]))
    for name in names:
        if name in records:
            started, seconds = records[name]
            ran = datetime.fromisoformat(started) >= since
            yield {"stage": name, "state": "ran" if ran else "cached", "seconds": seconds}


def _dvc(root: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)  # noqa: S603
    if done.returncode != 0:
        told = " ".join(done.stderr.split())
        raise StillhouseError(f'"dvc {" ".join(arguments)}" failed: {told}')
    return done.stdout


def _committed(root: Path) -> Any:
    """params.yaml as it is in Git, without a profile; None outside of a checkout."""
    command = ["git", "show", "HEAD:./params.yaml"]
    shown = subprocess.run(command, cwd=root, capture_output=True, text=True)  # noqa: S603
    return YAML(typ="safe", pure=True).load(shown.stdout) if shown.returncode == 0 else None


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def main() -> None:
    """Gather the facts of the project in the present folder."""
    parser = argparse.ArgumentParser(
        prog="python -m stages._run_facts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--since", type=_moment, required=True, metavar="TIME", help="when the run began"
    )
    parser.add_argument(
        "--budget-s", type=float, metavar="SECONDS", help="what all stages may take together"
    )
    arguments = parser.parse_args()
    try:
        facts = gather(Path.cwd(), arguments.since, arguments.budget_s)
        _io.write_json(FACTS, facts)
    except StillhouseError as error:
        sys.exit(f"error: facts: {error}")
    print_line(f"{FACTS}: {len(facts['metrics'])} metrics, {len(facts['stages'])} stages")


if __name__ == "__main__":
    main()
