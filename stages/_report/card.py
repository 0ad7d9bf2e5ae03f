"""The model card in Hugging Face's format: the report's facts for whoever is given the model alone.

Format: https://huggingface.co/docs/hub/model-cards (front matter, model-index). The front matter is
made by huggingface_hub, so that the hub can read it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages._params.models import Pretrained
from stages._params.prepare import Hub
from stages._report.licences import Choices, Licences, find_licences
from stages._report.losses import tell_losses
from stages._report.models import Model, find_winner, list_models
from stages._report.overview import tell_headline
from stages._report.quality import MEASURES, tell_quality
from stages._report.reading import Facts, Missing
from stages._report.telling import millions, plain, whole

LIBRARIES = {"transformers": "transformers", "ctranslate2": "ctranslate2"}
TASK = "text-generation"
SLOT_LIMIT = (
    "The slot check sees which values are said, not of what: an answer that swaps two values of "
    "one kind passes."
)
Report = Mapping[str, Any]


def tell_card(facts: Facts, chosen: Choices) -> dict[str, Any]:
    """What the template of the card shows.

    Raises:
        Missing: nothing was evaluated or decided, so there is no model to tell of.
    """
    winner = find_winner(facts)
    licences = find_licences(chosen)
    return {
        "front_matter": front_matter(chosen, winner, licences),
        "title": chosen.report.title,
        "winner": winner,
        "size": millions(winner.parameters),
        "sha256": (winner.evaluation.get("model") or {}).get("sha256") or "unknown",
        "licences": licences,
        "teacher": _teacher(facts, chosen),
        "data": _data(facts, chosen, winner),
        "recipe": _recipe(facts, chosen.base),
        "tiles": tell_headline(facts)["tiles"],
        "quality": tell_quality(facts),
        "losses": _or_none(tell_losses, facts),
        "ladder": facts.get("ladder"),
        "release": facts.get("release"),
        "limits": find_limits(facts, chosen, winner),
    }


def front_matter(chosen: Choices, winner: Model, licences: Licences) -> str:
    """The card's YAML head, scores as a model-index."""
    from huggingface_hub import EvalResult, ModelCardData

    data = winner.evaluation["data"]
    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=data["name"],
            dataset_name=data["name"],
            dataset_split="test",
            metric_type=measure.key,
            metric_name=f"{measure.title} ({score.get('signature', 'no signature')})",
            metric_value=round(float(score["score"]), 4),
        )
        for measure in MEASURES
        if (score := winner.score(measure.key))
    ]
    base, hub = chosen.base, _hub(chosen)
    engine = (winner.evaluation.get("model") or {}).get("engine")
    card = ModelCardData(
        language=chosen.report.language,
        license=licences.model.name,
        library_name=LIBRARIES.get(str(engine)),
        pipeline_tag=TASK,
        tags=["stillhouse", "distillation", "data-to-text"],
        # ids of the hub: a local folder and data of one's own have none
        base_model=base.model if base and base.revision else None,
        datasets=[hub.name] if hub else None,
        metrics=[result.metric_type for result in results],
        eval_results=results,
        model_name=chosen.report.title,
        teacher_license=licences.teacher.name,
        data_license=licences.data.name,
    )
    return str(card.to_yaml(line_break="\n"))


def find_limits(facts: Facts, chosen: Choices, winner: Model) -> list[str]:
    """What a user must not rely on, each from a report."""
    limits = [f"It was measured on the test split of {winner.evaluation['data']['name']} alone."]
    if chosen.prepare.source == "incidents":
        limits.append("That data is generated: people's own wording may score otherwise.")
    if score := winner.score("slot_error_rate"):
        rate = plain(100 * score["score"])
        told = f"It makes {rate} slot errors (values missing, wrong or added) per 100 values asked."
        limits += [told, SLOT_LIMIT]
    ladder = facts.get("ladder")
    if ladder and ladder["verdict"] != "distilled":
        limits.append(
            f"That distilling beats plain training is not shown (verdict: {ladder['verdict']})."
        )
    if noisy := [model.name for model in list_models(facts) if model.noisy]:
        limits.append(f"The machine was busy while it measured {', '.join(noisy)}.")
    drift = facts.get("drift")
    planted = drift and drift["rests_on"]["window"].get("planted")
    if drift and drift["verdict"] == "drift" and not planted:
        limits.append("The last window of traffic differed from what it was measured on.")
    return limits


def _teacher(facts: Facts, chosen: Choices) -> dict[str, Any]:
    settings, report = chosen.teacher, facts.get("teacher") or {}
    name = {
        "scratch": "A decoder trained from scratch on the same data",
        "pretrained": settings.pretrained and f"`{name_of(settings.pretrained)}`",
        "endpoint": settings.endpoint and f"`{settings.endpoint.model}`, behind an endpoint",
    }[settings.source]
    revision = getattr(getattr(settings, settings.source), "revision", None)
    return {
        "name": name,
        "revision": revision,
        "size": millions(report.get("parameters")),
    }


def _data(facts: Facts, chosen: Choices, winner: Model) -> dict[str, Any]:
    counts = facts.get("counts") or {"prompts": {}, "rows_used": {}}
    return {
        "name": winner.evaluation["data"]["name"],
        "hub": _hub(chosen),
        "test_sha256": winner.evaluation["data"]["sha256"],
        "prompts": {split: whole(n) for split, n in counts["prompts"].items()},
        "rows": {split: whole(n) for split, n in counts["rows_used"].items()},
        "labels": facts.get("label"),
        "windows": list(chosen.prepare.windows),
    }


def _hub(chosen: Choices) -> Hub | None:
    """The hub's data set; None where the data are others, or a folder of one's own."""
    hub = chosen.prepare.hub if chosen.prepare.source == "hub" else None
    return hub if hub and hub.revision else None


def name_of(model: Pretrained) -> str:
    """The hub's id, or a local folder's name: its path says nothing elsewhere."""
    return model.model if model.revision else Path(model.model).name


def _recipe(facts: Facts, base: Pretrained | None) -> Report | None:
    """How the student was trained, and from which model's weights."""
    run = (facts.get("distill") or {}).get("student")
    if run is None:
        return None
    tokens = millions(run["training_tokens"])
    return {**run, "training_tokens": tokens, "base": base and name_of(base)}


def _or_none(tell: Any, facts: Facts) -> Any:
    """A part of the card that may be missing."""
    try:
        return tell(facts)
    except Missing:
        return None
