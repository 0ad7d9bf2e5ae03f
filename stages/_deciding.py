"""What a release needs of the decision it carries out, and why it refuses.

models/winner.json says who won and reports/select/decision.json why; both must be of the present
files, and the winners' folders must hold the very models that were judged.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from serving.contract import digest, read_contract
from serving.errors import StillhouseError
from stages import _io
from stages._provenance import git_state, uncommitted
from stages._recorder import one_line
from stages._releases import DEVICES, Device, Record, Winner, Winners, in_force, withdrawn

WINNER = Path("models/winner.json")
DECISION = Path("reports/select/decision.json")
SHOWN = 12  # characters of a digest that tell it apart


def read_winners(root: Path) -> Winners:
    """Who won, per device.

    Raises:
        StillhouseError: select chose nobody, or has not run.
    """
    if not (root / WINNER).is_file():
        raise StillhouseError(
            f"{WINNER} is missing: no candidate passed every gate, or select has not run. "
            f'Run "dvc repro select" and read why.'
        )
    found = _io.read_json(root / WINNER)
    if not isinstance(found, dict) or not found.get("cpu"):
        raise StillhouseError(f'{WINNER} names no winner for cpu. Run "dvc repro select".')
    return {device: found.get(device) for device in DEVICES}


def read_decision(root: Path, winners: Winners, chain: Sequence[Record]) -> dict[str, Any]:
    """Why they won.

    Raises:
        StillhouseError: failed gates, models other than those judged, or a decision against another
            incumbent; everything that is wrong in one line.
    """
    decision: dict[str, Any] = _io.read_json(root / DECISION)
    problems = [
        *_wrong_verdicts(decision, winners),
        *_wrong_folders(root, winners),
        *_wrong_incumbent(decision, chain),
    ]
    if problems:
        raise StillhouseError(f'{"; ".join(problems)}. Run "dvc repro" to decide anew.')
    return decision


def _wrong_verdicts(decision: Mapping[str, Any], winners: Winners) -> Iterator[str]:
    for device, winner in winners.items():
        named = decision.get("winners", {}).get(device)
        if named != (winner and winner["candidate"]):
            name = winner["candidate"] if winner else "nobody"
            yield f"{WINNER} names {name} for {device}, {DECISION} names {named or 'nobody'}"
        elif winner is not None:
            entries = decision.get("candidates", [])
            mine = [e for e in entries if (e["name"], e.get("device", device)) == (named, device)]
            yield from _wrong_verdict(mine[0] if mine else {}, winner, device)


def _wrong_verdict(verdict: Mapping[str, Any], winner: Winner, device: Device) -> Iterator[str]:
    name, sha256 = winner["candidate"], winner["model_sha256"]
    failed = verdict.get("failed", [])
    if failed or verdict.get("passed") is not True:
        told = ", ".join(gate["gate"] for gate in failed)
        yield f"{name} did not pass every gate on {device} ({told or 'no verdict'})"
    judged = verdict.get("model_sha256", sha256)
    if judged != sha256:
        yield f"{name} was judged as {judged[:SHOWN]}, not {sha256[:SHOWN]}"


def _wrong_folders(root: Path, winners: Winners) -> Iterator[str]:
    for winner in winners.values():
        if winner is None:
            continue
        try:
            read_contract(root / winner["folder"])
        except StillhouseError as error:
            yield str(error).removesuffix(".")
            continue
        found = digest(root / winner["folder"])
        if found != winner["model_sha256"]:
            yield (
                f"{winner['folder']} holds {found[:SHOWN]}, but {winner['candidate']} won as "
                f"{winner['model_sha256'][:SHOWN]}"
            )


def _wrong_incumbent(decision: Mapping[str, Any], chain: Sequence[Record]) -> Iterator[str]:
    number = (decision.get("incumbent") or {}).get("release")
    current = chain[-1]["release"] if chain else None
    if number != current:
        yield (
            f"the decision was made against {_name(number)}, but releases/current.json holds "
            f"{_name(current)}"
        )


def _name(number: int | None) -> str:
    return f"record {number}" if number else "no release"


def check_fresh(root: Path) -> None:
    """Refuse a decision whose code, params or data have changed since it was made.

    Raises:
        StillhouseError: `dvc status` names select or a stage before it.
    """
    if not (root / "dvc.yaml").is_file():
        return  # no pipeline, so nothing that could have changed
    command = [sys.executable, "-m", "dvc", "status", "--json", "--with-deps", "select"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)  # noqa: S603
    if done.returncode != 0:
        told = one_line(Exception(done.stderr))
        raise StillhouseError(f"dvc status failed, so nobody knows what is up to date: {told}")
    stale = json.loads(done.stdout)
    if stale:
        raise StillhouseError(
            f"The decision is out of date: {', '.join(sorted(stale))} would come out anew. "
            f'Run "make repro", commit dvc.lock, and release then.'
        )


def objections(
    root: Path,
    decision: Mapping[str, Any],
    winners: Winners,
    images: Mapping[Device, str],
    chain: Sequence[Record],
) -> list[str]:
    """Reasons against releasing that a person may overrule by giving theirs."""
    found = []
    changed = uncommitted(root, apart_from="releases")
    if changed is None or git_state(root).commit is None:
        found.append("there is no Git commit to find this release again by")
    elif changed:
        shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if changed[3:] else "")
        found.append(f"not committed: {shown}")
    if record := withdrawn(chain, winners, images):
        told = f": {record['reason']}" if record["reason"] else ""
        found.append(f"rollback {record['release']} took these models out of force{told}")
    serving = in_force(chain)
    for device in DEVICES:
        compared = (decision.get("incumbent") or {}).get(device) or {}
        if serving and compared.get("verdict") == "keep":
            found.append(
                f"on {device} select keeps release {serving['release']}: {compared['reason']}"
            )
    return found
