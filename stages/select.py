"""Select: who may ship, and who of those does, from reports alone.

Reads   reports/evaluate/ and reports/benchmark/ (a file per candidate), releases/current.json,
        the contracts of the student's and the variants' model folders
Writes  models/winner.json (candidate, folder and digest, per device),
        reports/select/decision.json (gates, Pareto front, retention, incumbent, reason),
        reports/select/comparison.json and .md (traditional model, students and LLM, with costs)
Run     python -m stages.select

Only the student and its variants can win. Each must pass every gate of params.yaml; "inconclusive"
is not a pass. Where the model that serves is a candidate (incumbent, after make retrain), there are
gates against it too, on the old prompts and on each window's. Of those that pass, the least by the
first objective wins. If none passes, the stage says why for each, writes no winner and fails.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serving.contract import digest, read_contract
from serving.errors import StillhouseError
from stages import _io
from stages._comparison import as_markdown, describe, describe_api, with_costs
from stages._coverage import float32_bytes, weight_bytes
from stages._decision import SCORES, Decision, Retraining, decide, describe_gates
from stages._forgetting import INCUMBENT, incumbent_gates, slices_of
from stages._gates import Gate
from stages._params import Params
from stages._releases import read_current
from stages._retention import Bootstrap, Measured, check_pairs, measure, quality_gates, retention
from stages._scores import bootstrap_weights
from stages._selection import Contender, Device, figures_of, machine_gates, machine_of
from stages._stage import print_line, run_stage

REFERENCE = "student"  # the unquantized student
VARIANTS = "variants"  # folder of its variants
ROLES = {"baseline": "traditional", "student": "student", "teacher": "LLM"}
INPUTS = {
    "evaluate": Path("reports/evaluate"),
    "benchmark": Path("reports/benchmark"),
    "current": Path("releases/current.json"),
}
OUTPUTS = {"winner": Path("models/winner.json"), "reports": Path("reports/select")}
DEVICES: tuple[Device, ...] = ("cpu", "cuda")

Report = dict[str, Any]


def select(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    """Choose a winner per device; returns the number of candidates that passed.

    Raises:
        StillhouseError: none passed on the CPU; what was measured is not what would be shipped;
            candidates were evaluated on different prompts.
    """
    outputs["winner"].unlink(missing_ok=True)  # none stays from a run that ended otherwise
    settings = params.select
    names = list(params.answer.candidates)
    able = [name for name in names if is_eligible(params, name)]
    measured = read_evaluations(inputs["evaluate"], names, able)
    benchmarks = read_benchmarks(inputs["benchmark"])
    check_digests(params, measured, benchmarks)
    _write_comparison(params, measured, benchmarks, outputs["reports"])
    reference = measured[REFERENCE]
    weights = bootstrap_weights(len(reference.lines), settings.resamples, params.seed)
    bootstrap = Bootstrap(weights, settings.confidence)
    retraining = judge_retraining(params, measured, able)
    gates = {n: quality_gates(settings.gates, reference, measured[n], bootstrap) for n in able}
    for name, more in (retraining.gates if retraining else {}).items():
        gates[name] += more
    contenders = {
        device: _contenders(params, device, measured, benchmarks, gates)
        for device in DEVICES
        if device == "cpu" or any(device in devices for devices in benchmarks.values())
    }
    decision = decide(settings, contenders, read_current(inputs["current"]), retraining)
    report = decision.to_dict() | {
        "reference": REFERENCE,
        "prompts": len(reference.lines),
        "retention": {
            name: retention(reference, measured[name], bootstrap)
            | {"size_ratio": size_ratio(params, name)}
            for name in able
            if name != REFERENCE
        },
    }
    report |= describe_retraining(retraining, reference)
    _io.write_json(outputs["reports"] / "decision.json", report)
    for line in (*describe_gates(contenders), decision.reason):
        print_line(line)
    _io.write_json(outputs["winner"], checked_winners(decision))
    return {
        f"passed_{device}": sum(contender.passed for contender in found)
        for device, found in contenders.items()
    }


def judge_retraining(
    params: Params, measured: Mapping[str, Measured], able: Sequence[str]
) -> Retraining | None:
    """What each candidate shows against the model that serves; None where that is no candidate."""
    incumbent, settings = measured.get(INCUMBENT), params.select
    if incumbent is None:
        return None
    drawn = (settings.resamples, settings.confidence, params.seed)
    limits = (settings.gates, settings.retrained)
    gates = {name: incumbent_gates(*limits, incumbent, measured[name], drawn) for name in able}
    return Retraining(incumbent.report["model"]["sha256"], gates)


def describe_retraining(retraining: Retraining | None, reference: Measured) -> dict[str, Any]:
    """Which model was compared with, and on how many prompts of each slice; empty without one."""
    if retraining is None:
        return {}
    slices = {name: len(places) for name, places in slices_of(reference.lines).items()}
    return {"retraining": {"incumbent_sha256": retraining.sha256, "prompts": slices}}


def checked_winners(decision: Decision) -> dict[str, Any]:
    """What ships per device: candidate, folder, digest.

    Raises:
        StillhouseError: none passed on the CPU, which always has a winner; or a winner's files are
            not those of its contract.
    """
    if decision.winners["cpu"] is None:
        raise StillhouseError(
            f"{decision.reason} Mend the candidate, give an inconclusive gate more test prompts, "
            f"or change select.gates in params.yaml."
        )
    winners: dict[str, Any] = {}
    for device in DEVICES:
        winner = decision.winners.get(device)
        if winner is not None:
            read_contract(Path(winner.folder))
        winners[device] = winner and winner.to_dict()
    return winners


def is_eligible(params: Params, name: str) -> bool:
    """Whether a candidate can win: the student and what was made of it alone.

    What the student drafts and the teacher verifies is the teacher's answer.
    """
    folder = params.answer.folder(name)
    if name != REFERENCE and folder.parent.name != VARIANTS:
        return False
    # a folder that is missing is told of later, with all else that is
    return not folder.is_dir() or read_contract(folder, check_files=False).engine != "speculative"


def read_evaluations(
    folder: Path, names: Sequence[str], able: Sequence[str]
) -> dict[str, Measured]:
    """What evaluate wrote of each candidate, with the statistics of those that are able to win.

    Raises:
        StillhouseError: one that is able to win was not evaluated, or one on other prompts.
    """
    found = [name for name in names if (folder / f"{name}.json").is_file()]
    needed = dict.fromkeys([REFERENCE, *able, *(name for name in names if name == INCUMBENT)])
    if missing := [name for name in needed if name not in found]:
        raise StillhouseError(
            f"{folder} has no evaluation of {', '.join(missing)} ({REFERENCE} is what every "
            f"variant is compared with). Name them in answer.candidates, then run "
            f'"dvc repro evaluate".'
        )
    measured = {}
    for name in found:
        report = _io.read_json(folder / f"{name}.json")
        lines = _io.read_jsonl(folder / f"{name}.jsonl")
        one = measure(name, report, lines) if name in able or name == INCUMBENT else None
        measured[name] = one or Measured(name, report, lines, {})
    for other in measured.values():
        check_pairs(measured[REFERENCE], other)
    return measured


def read_benchmarks(folder: Path) -> dict[str, dict[str, Report]]:
    """Benchmark reports by candidate and device; one file may hold several devices."""
    found: dict[str, dict[str, Report]] = {}
    for path in sorted(folder.glob("*.json")):
        report = _io.read_json(path)
        if isinstance(report, dict) and "device" in report:
            devices = report.pop("by_device", {report["device"]: {}})
            found[path.stem] = {device: {**report, **own} for device, own in devices.items()}
    return found


def size_ratio(params: Params, name: str) -> float | None:
    """Bytes of a variant's weight files over those of the student in float32."""
    float32 = float32_bytes(params.answer.folder(REFERENCE))
    return weight_bytes(params.answer.folder(name)) / float32 if float32 else None


def check_digests(
    params: Params,
    measured: Mapping[str, Measured],
    benchmarks: Mapping[str, Mapping[str, Report]],
) -> None:
    """What can win must be one model in evaluation, benchmark and folder, and the student or of it.

    Raises:
        StillhouseError: it is not; every candidate with such a mistake is named.
    """
    wrong = []
    able = [name for name in measured if is_eligible(params, name) or name == INCUMBENT]
    folders = {name: params.answer.folder(name) for name in able}
    contracts = {n: read_contract(folder, check_files=False) for n, folder in folders.items()}
    digests = {name: digest(folder) for name, folder in folders.items()}
    student = digests[REFERENCE]
    for name, shipped in digests.items():
        source = contracts[name].base_revision
        if name not in (REFERENCE, INCUMBENT) and source != student:
            wrong.append(f"{name} was made of {str(source)[:12]}, the student is {student[:12]}")
        found = {"evaluated": measured[name].report["model"].get("sha256")}
        for device, report in benchmarks.get(name, {}).items():
            found[f"benchmarked on {device}"] = report.get("model_sha256")
        wrong += [
            f"{name} was {where} as {str(sha256)[:12]}, its folder holds {shipped[:12]}"
            for where, sha256 in found.items()
            if sha256 != shipped
        ]
    if wrong:
        raise StillhouseError(
            f"What was measured is not what would be shipped: {'; '.join(wrong)}. "
            f'Run "dvc repro" to make and measure the present models.'
        )


def _contenders(
    params: Params,
    device: Device,
    measured: Mapping[str, Measured],
    benchmarks: Mapping[str, Mapping[str, Report]],
    gates: Mapping[str, Sequence[Gate]],
) -> list[Contender]:
    """Every evaluated candidate on one device, with all its gates where it can win there."""
    settings, found = params.select, []
    for name, side in measured.items():
        benchmark = benchmarks.get(name, {}).get(device)
        figures = figures_of(benchmark)
        model = side.report["model"]
        eligible = name in gates and (device == "cpu" or model["engine"] in settings.cuda_engines)
        machine = machine_gates(settings.gates, figures, settings.objectives[0])
        found.append(
            Contender(
                name=name,
                folder=params.answer.folder(name).as_posix(),
                sha256=model["sha256"],
                data_sha256=side.report["data"]["sha256"],
                scores={m: side.report[m] for m in SCORES if m in side.report},
                figures=figures,
                machine=machine_of(benchmark),
                gates=[*gates[name], *machine] if eligible else [],
                eligible=eligible,
                noisy=bool((benchmark or {}).get("machine", {}).get("noisy")),
                answered_on=str(model.get("device", device)).partition(":")[0],
            )
        )
    return found


def _write_comparison(
    params: Params,
    measured: Mapping[str, Measured],
    benchmarks: Mapping[str, Mapping[str, Report]],
    folder: Path,
) -> None:
    """The table of baseline, student, variants, teacher and an API, as JSON and as Markdown."""
    prices = params.select.prices
    source = "teacher" if "teacher" in measured else REFERENCE
    lines = measured[source].lines
    texts = [[line[key] for line in lines] for key in ("prompt", "output")]
    api = describe_api(texts[0], texts[1], source, prices)
    rows = []
    for name, devices in benchmarks.items():
        listed = name in measured
        if listed and name not in ROLES and params.answer.folder(name).parent.name != VARIANTS:
            continue  # control and rungs of the ladder
        role = ROLES.get(name, "student" if listed and is_eligible(params, name) else "other")
        for device, report in devices.items():
            evaluation = measured[name].report if listed else None
            row = describe(name, role, evaluation, {**report, "device": device})
            rows.append(with_costs(row, prices, api["cost_per_1k_requests_usd"] / 1000.0))
    order = list(measured)
    rows.sort(key=lambda row: order.index(row["name"]) if row["name"] in order else len(order))
    assumed = prices.model_dump(mode="json")
    _io.write_json(folder / "comparison.json", {"rows": rows, "api": api, "assumed": assumed})
    _io.write_text(folder / "comparison.md", as_markdown(rows, api, prices))


def main() -> None:
    """Run the stage on the project's own files."""
    run_stage(select, __doc__, INPUTS, OUTPUTS)


if __name__ == "__main__":
    main()
