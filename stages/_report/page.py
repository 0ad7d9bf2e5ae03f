"""Page and model card from their templates. Answers are other people's text: autoescape is on.

One file without script; the browser gets a policy that lets nothing run and nothing load.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from serving.slots import SlotSchema
from stages._params.report import Report as Settings
from stages._report.card import tell_card
from stages._report.curves import tell_batching, tell_load, tell_training
from stages._report.examples import tell_examples
from stages._report.ladder import tell_ladder
from stages._report.licences import Choices
from stages._report.losses import tell_losses
from stages._report.overview import tell_headline, tell_overview
from stages._report.quality import tell_quality
from stages._report.reading import Facts, Missing
from stages._report.telling import whole
from stages._report.verdicts import tell_cascade, tell_decision, tell_detectors, tell_drift

TEMPLATES = Path(__file__).parent / "templates"
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)
TITLES = {
    "pipeline": "The pipeline at a glance",
    "quality": "Quality against cost and latency",
    "losses": "Loss budget",
    "ladder": "Distillation ladder",
    "examples": "Answers side by side",
    "training": "Training",
    "batching": "Batching",
    "load": "Load",
    "cascade": "Cascade",
    "detectors": "Can the measures see errors?",
    "drift": "Drift",
    "decision": "Decision record",
}
Tell = Callable[[Facts], Mapping[str, Any]]
PLAIN_PARTS: dict[str, Tell] = {
    "headline": tell_headline,
    "pipeline": tell_overview,
    "quality": tell_quality,
    "losses": tell_losses,
    "ladder": tell_ladder,
    "training": tell_training,
    "batching": tell_batching,
    "load": tell_load,
    "cascade": tell_cascade,
    "detectors": tell_detectors,
    "drift": tell_drift,
    "decision": tell_decision,
}


def tell_parts(
    facts: Facts, settings: Settings, seed: int, schema: SlotSchema | None
) -> dict[str, Mapping[str, Any]]:
    """Every part's content, or `absent` with the reason."""
    parts: dict[str, Tell] = {
        **PLAIN_PARTS,
        "examples": lambda facts: tell_examples(facts, settings, seed, schema),
    }
    return {name: _told(tell, facts) for name, tell in parts.items()}


def render_page(parts: Mapping[str, Mapping[str, Any]], facts: Facts, title: str) -> str:
    """The report."""
    page: str = (
        _environment()
        .get_template("page.html")
        .render(
            parts=parts,
            titles=TITLES,
            title=title,
            policy=POLICY,
            sources=facts.sources,
            absent=facts.absent,
        )
    )
    return page


def render_card(facts: Facts, chosen: Choices) -> str:
    """The model card.

    Raises:
        Missing: there is no model to tell of.
    """
    card: str = _environment().get_template("card.md").render(tell_card(facts, chosen))
    return card


def _told(tell: Tell, facts: Facts) -> Mapping[str, Any]:
    try:
        return tell(facts)
    except Missing as missing:
        return {"absent": str(missing)}


def _environment() -> Any:
    """Templates beside this file; an unknown name in one is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(("html",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["whole"] = whole
    return environment
