"""Section `route`: which models the cascade asks, and how sure each must be."""

from typing import Annotated, Literal

from pydantic import Field

from stages._params.base import Section, Share

Usd = Annotated[float, Field(ge=0.0)]


class RungPrice(Section):
    """What a rung's answer costs; the parts add up."""

    usd_per_hour: Usd = 0.0
    """Of the machine, for the seconds that it computes [USD/h]."""
    usd_per_request: Usd = 0.0
    """Whatever the request [USD]."""
    usd_per_million_prompt_tokens: Usd = 0.0
    """Reading, in the model's own tokens [USD]."""
    usd_per_million_completion_tokens: Usd = 0.0
    """Writing [USD]."""


class Asked(Section):
    """A model of the cascade, whatever accepts its answers."""

    place: Literal["auto", "local", "remote"] = "auto"
    """remote: prompts leave the deployment, and those with personal data may not; auto: remote if
    it is an endpoint."""
    price: RungPrice | None = None
    """null: the hourly price that its benchmark states, or of an endpoint its price per token."""


class Scored(Asked):
    """A model whose answers are accepted where they score enough."""

    score: Literal["confidence", "mean_logprob", "min_logprob", "checked"] = "checked"
    """What says how sure it is of an answer: a calibrated probability (the baseline), the mean or
    least log-probability of its tokens (models that write), or checked: the least one, and behind
    all others where its answer says other than the record (without records the least one alone)."""


class Rungs(Section):
    """The models, in the order in which they are asked; null leaves one out."""

    baseline: Scored | None = Scored(score="confidence")
    """The traditional model."""
    student: Scored | None = Scored()
    """The winner on the CPU."""
    teacher: Asked | None = Asked()
    """Answers what nobody else is sure of; without it such a request is answered as `otherwise`
    says. Its answers are calibrated against all the same."""


class Route(Section):
    """Which models the cascade asks, and how sure each must be."""

    rungs: Rungs = Rungs()
    """The models, in the order in which they are asked."""
    otherwise: Literal["abstain", "answer"] = "answer"
    """Where nobody is sure: no answer, or the last local one, marked as unsure."""
    error: Literal["auto", "slots", "similarity", "either"] = "auto"
    """What makes an answer wrong: any slot error, too little similarity to every reference, or
    either of the two; auto: either where the data has records, else similarity."""
    similarity_floor: Share = 0.5
    """Least chrF (0..1) to the nearest reference of an answer that is not wrong."""
    alpha: float | None = Field(None, gt=0.0, le=1.0)
    """Largest share of wrong answers among those accepted; null: the teacher's own share, and
    `alpha_over_teacher` more."""
    alpha_over_teacher: float = Field(0.01, ge=0.0, le=1.0)
    """See `alpha`."""
    delta: float = Field(0.05, gt=0.0, lt=0.5)
    """Probability that a calibration promises too much, over all rungs together."""
