"""What a release is made of: every evaluated model, checked, with what it was made from.

variant → student → labels → teacher → data, each link by the digest that the next one is bound to:
a contract's digest for models, the index of the labels, the hash of the training data.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from serving.contract import Contract, digest, read_contract
from serving.errors import StillhouseError
from stages import _io
from stages._params import Params
from stages._provenance import dvc_md5

STUDENT, TEACHER = "student", "teacher"
LABELS = Path("data/labels/index.json")
REPORTS = Path("reports")
VARIANTS = "variants"  # folder of what was made of the student
SHOWN = 12  # characters of a digest that tell it apart

Facts = dict[str, str]


def read_evaluation(root: Path, candidate: str) -> dict[str, Any]:
    """A candidate's scores.

    Raises:
        StillhouseError: it was not evaluated.
    """
    report: dict[str, Any] = _io.read_json(root / REPORTS / "evaluate" / f"{candidate}.json")
    return report


def describe_candidates(params: Params, root: Path) -> dict[str, Facts]:
    """Every candidate of `answer.candidates`: folder, digest, size and lineage as text, by name.

    Raises:
        StillhouseError: models that are not what was evaluated, or were not evaluated; all of them.
    """
    found, problems = {}, []
    for name in params.answer.candidates:
        folder = params.answer.folder(name)
        try:
            contract = read_contract(root / folder)
            report = read_evaluation(root, name)
        except StillhouseError as error:
            problems.append(str(error))
            continue
        shipped, scored = digest(root / folder), report["model"].get("sha256")
        if shipped != scored:
            problems.append(
                f"{folder} holds {shipped[:SHOWN]}, but {name} was evaluated as "
                f'{str(scored)[:SHOWN]}. Run "dvc repro".'
            )
        found[name] = _facts(params, root, name, contract, report)
    if problems:
        raise StillhouseError(" ".join(problems))
    return found


def _facts(
    params: Params, root: Path, name: str, contract: Contract, report: Mapping[str, Any]
) -> Facts:
    folder = params.answer.folder(name)
    model, links = report["model"], dict(_links(params, root, name))
    links["data"] = contract.data_hash
    facts = {
        "candidate": name,
        "folder": folder.as_posix(),
        "model_sha256": digest(root / folder),
        "dvc_md5": dvc_md5(root / folder),
        "engine": contract.engine,
        "scheme": (contract.quantization or {}).get("scheme"),
        "parameters": model.get("parameters"),
        "size_mb": round(model["size_mb"], 3),
        "base_model": contract.base_model,
        "base_revision": contract.base_revision,
        "params_hash": contract.params_hash,
        "test_sha256": report["data"]["sha256"],
        **{f"{link}_sha256": sha256 for link, sha256 in links.items()},
        "lineage": " → ".join(
            [name, *(f"{link} {sha256[:SHOWN]}" for link, sha256 in links.items())]
        ),
        **_made_by(root, name),
    }
    return {key: str(value) for key, value in facts.items() if value is not None}


def _links(params: Params, root: Path, name: str) -> Iterator[tuple[str, str]]:
    """What a model was made from, nearest first, and the digest it is bound to; data apart."""
    if params.answer.folder(name).parent.name == VARIANTS:
        yield STUDENT, digest(root / params.answer.folder(STUDENT))
        name = STUDENT
    report = root / REPORTS / "distill" / name / "distill.json"
    if not report.is_file():
        return  # learned from the data alone
    training = _io.read_json(report)
    if training["recipe"]["method"] != "sft":
        labels = _io.read_json(root / LABELS)
        yield "labels", _io.sha256_file(root / LABELS)
        yield TEACHER, labels["manifest"]["teacher_sha256"]
    elif training["init"] == "prune":  # cut out of the teacher, then taught by references
        yield TEACHER, digest(root / "models" / TEACHER)


def _made_by(root: Path, name: str) -> Facts:
    """Run and commit that made a model, from the run.json beside its report."""
    places = [REPORTS / stage / name / "run.json" for stage in ("quantize", "distill")]
    for place in (*places, REPORTS / name / "run.json"):
        if (root / place).is_file():
            record = _io.read_json(root / place)
            return {key: record[key] for key in ("run_id", "git_commit") if record.get(key)}
    return {}
