"""Report: everything that was found out, on one page, and the model card.

Reads   named reports of the other stages (INPUTS below; each may be missing), data/prepared/
        slots.json, and benchmarks/serve_load.json, which is measured apart from the pipeline
Writes  reports/report/index.html (one file, no script, nothing from elsewhere), model_card.md
        (Hugging Face format), pareto.csv, loss_budget.csv and batching.csv (for `dvc plots show`)
Run     python -m stages.report

The same reports give the same bytes. What is not there is told as absent, with the reason. Nothing
is computed that another stage reports: intervals are theirs.
"""

from pathlib import Path
from typing import Any

from serving.slots import SlotSchema
from stages import _io
from stages._params import Params
from stages._report import curves, losses, quality
from stages._report.examples import sides_of
from stages._report.licences import Choices
from stages._report.page import render_card, render_page, tell_parts
from stages._report.reading import Facts, Missing, read_facts, read_lines
from stages._stage import print_line, run_stage

REPORTS = Path("reports")
INPUTS = {
    "counts": REPORTS / "prepare/counts.json",
    "baseline": REPORTS / "baseline/validation.json",
    "teacher": REPORTS / "teacher/teacher.json",
    "label": REPORTS / "label/label.json",
    "distill": REPORTS / "distill",
    "quantize": REPORTS / "quantize",
    "detectors": REPORTS / "detectors/detectors.json",
    "evaluate": REPORTS / "evaluate",
    "ladder": REPORTS / "ladder/ladder.json",
    "benchmark": REPORTS / "benchmark",
    "decision": REPORTS / "select/decision.json",
    "route": REPORTS / "route/calibration.json",
    "release": REPORTS / "package/release.json",
    "drift": REPORTS / "drift/drift.json",
    "load": Path("benchmarks/serve_load.json"),
    "slots": Path("data/prepared/slots.json"),
}
OUTPUTS = {"reports": REPORTS / "report"}


def report(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    """Write page, card and tables; returns how many parts were told and how many are absent."""
    facts = read_facts(inputs)
    facts = _read_answers(facts, inputs["evaluate"])
    parts = tell_parts(facts, params.report, params.seed, _read_schema(facts))
    page = render_page(parts, facts, params.report.title)
    _io.write_text(outputs["reports"] / "index.html", page)
    chosen = Choices(params.report, params.prepare, params.teacher, params.distill)
    _io.write_text(outputs["reports"] / "model_card.md", _card(facts, chosen))
    for name, text in _tables(facts).items():
        _io.write_text(outputs["reports"] / name, text)
    absent = {name: part["absent"] for name, part in parts.items() if "absent" in part}
    for name, reason in absent.items():
        print_line(f"{name}: not told: {reason}")
    examples = parts["examples"]
    return {
        "parts": len(parts) - len(absent),
        "absent": len(absent),
        "examples": len(examples.get("worst", ())) + len(examples.get("drawn", ())),
        "page_kb": len(page.encode()) / 1e3,
    }


def _read_answers(facts: Facts, folder: Path) -> Facts:
    """The facts with the lines of those whose answers are shown."""
    try:
        return read_lines(facts, folder, sides_of(facts))
    except Missing:
        return facts


def _read_schema(facts: Facts) -> SlotSchema | None:
    data = facts.get("slots")
    return SlotSchema.from_dict(data) if data else None


def _card(facts: Facts, chosen: Choices) -> str:
    try:
        return render_card(facts, chosen)
    except Missing as missing:
        return f"# {chosen.report.title}\n\nThere is no model to tell of: {missing}.\n"


def _tables(facts: Facts) -> dict[str, str]:
    """What `dvc plots show` draws; the heads alone where there is nothing to draw."""
    makers = {"pareto.csv": quality, "loss_budget.csv": losses, "batching.csv": curves}
    found = {}
    for name, maker in makers.items():
        try:
            found[name] = maker.as_csv(facts)
        except Missing:
            found[name] = f"{maker.CSV_HEAD}\n"
    return found


def main() -> None:
    """Run the stage on the project's own files."""
    run_stage(report, __doc__, INPUTS, OUTPUTS)


if __name__ == "__main__":
    main()
