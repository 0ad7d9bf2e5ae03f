"""Section `distill`: the students."""

from typing import Literal

from pydantic import Field, model_validator

from stages._params.base import Section, Share
from stages._params.models import DecoderShape, Generation, Pretrained, Training


class DifferentialPrivacy(Section):
    """DP-SGD (Abadi et al. 2016, arXiv:1607.00133): weights that hardly depend on any one prompt.

    The unit is a training prompt with all its references. Steps are in float32, and no slot values
    are made up: those come from other prompts.
    """

    epsilon: float = Field(ge=0.01, le=100.0)
    """Most that the weights may give away about one unit [nats]; the noise follows from it. Up to 1
    is strong, above 10 hardly a promise (Ponomareva et al. 2023, arXiv:2303.00654)."""
    delta: float | None = Field(None, gt=0.0, lt=1.0)
    """Probability that the promise does not hold; null: n^-1.1 for n units."""
    clip_norm: float = Field(1.0, gt=0.0)
    """Longest gradient of one unit, of its loss per token; a longer one is scaled down to it."""
    learning_rate: float | None = Field(None, gt=0.0)
    """Peak learning rate; null: that of `distill.training`, which must be a single one."""
    steps: int | None = Field(None, ge=1)
    """Optimizer steps [count]; null: as in `distill.training`. Each one takes of the budget."""
    batch_tokens: int | None = Field(None, ge=16)
    """Tokens that a step draws on average, padding not included [count]; null: as in
    `distill.training`. The noise of a step does not grow with it, so large ones learn more."""
    noise_seed: int | None = Field(None, ge=0)
    """Makes a run repeatable, for tests: who knows it can take the noise away again. null: a secret
    that is thrown away after the run."""


class Recipe(Section):
    """One student and how it learns."""

    method: Literal["sft", "seqkd", "logits", "on_policy"] = "logits"
    """sft: references; seqkd: the teacher's texts (Kim and Rush 2016, arXiv:1606.07947); logits:
    those and its distributions; on_policy: the student's own texts, judged by the teacher in
    memory, after a start by logits."""
    init: Literal["scratch", "prune", "pretrained"] = "prune"
    """Where the weights start: at random, cut out of the teacher, or in `distill.pretrained`."""
    sources: tuple[Literal["train", "pool", "gold"], ...] = Field(
        ("train", "pool"), min_length=1, strict=False
    )
    """Labels to learn from, of seqkd and logits; gold: the references with the teacher's
    distributions, where `label.gold` had them judged."""
    alpha: Share = 0.5
    """Share of the divergence in the loss of logits; cross-entropy has the rest. On the student's
    own texts the divergence is all."""
    divergence: Literal["forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl"] = (
        "forward_kl"
    )
    """Divergence from the teacher (stages/_divergences.py); on_policy has no skew ones."""
    mix: Share = 0.1
    """beta of jsd, alpha of the skew divergences."""
    temperature: float = Field(1.0, gt=0.0)
    """Softens both distributions; the divergence is multiplied by its square (Hinton et al.),
    not so on the student's own texts."""
    seed_offset: int = Field(0, ge=0)
    """Added to the seed: the same recipe again with other chance."""
    on_policy_steps: int = Field(100, ge=1)
    """Steps of the on-policy part, which replace as many of the others [count]."""
    on_policy_learning_rate: float = Field(1e-4, gt=0.0)
    """Peak learning rate of the on-policy part (AdamW). That part ignores `sources` (it answers the
    prompts of train and pool) and, of the training, optimizer, micro_batch_tokens, warmup_share,
    weight_decay and clip_norm; precision auto is float32 there on a CPU."""
    privacy: DifferentialPrivacy | None = None
    """Differential privacy for the training prompts; null: none."""

    @model_validator(mode="after")
    def _privacy_holds(self) -> "Recipe":
        if self.privacy is None:
            return self
        if self.method != "sft":
            raise ValueError(
                f"privacy needs method sft, found {self.method}; the teacher saw the prompts "
                f"without noise, and its labels tell of them"
            )
        if self.init == "prune":
            raise ValueError(
                "privacy needs init scratch or pretrained, found prune; the teacher's weights saw "
                "the prompts without noise"
            )
        return self

    @model_validator(mode="after")
    def _on_policy_has_the_divergence(self) -> "Recipe":
        if self.method == "on_policy" and self.divergence.startswith("skew"):
            raise ValueError(
                f"method on_policy needs divergence forward_kl, reverse_kl or jsd, found "
                f"{self.divergence}; choose one of them, or method logits"
            )
        return self


class Distill(Section):
    """The students: one run per recipe, all of one shape and one budget."""

    recipes: dict[str, Recipe] = Field({"student": Recipe(), "control": Recipe(method="sft")})
    """Students by name; `control` learns from references alone, plainly."""
    shape: DecoderShape = DecoderShape()
    """Shape of every student that is not pretrained."""
    pretrained: Pretrained | None = None
    """Of recipes with init pretrained."""
    training: Training = Training()
    """How every one of them is trained: same steps, batches and learning-rate sweep."""
    generation: Generation = Generation()
    """How they answer."""

    @model_validator(mode="after")
    def _students_are_trained(self) -> "Distill":
        if self.pretrained is not None and self.pretrained.tuning == "none":
            raise ValueError(
                "expected pretrained.tuning full, lora or qlora, found none; a student that is not "
                "trained cannot learn"
            )
        return self

    @model_validator(mode="after")
    def _recipes_fit(self) -> "Distill":
        wrong = [n for n, r in self.recipes.items() if r.init == "pretrained"]
        if wrong and self.pretrained is None:
            raise ValueError(f"recipes {', '.join(wrong)} need distill.pretrained")
        if missing := {"student", "control"} - self.recipes.keys():
            raise ValueError(f"recipes lack {' and '.join(sorted(missing))}")
        return self

    @model_validator(mode="after")
    def _privacy_has_one_learning_rate(self) -> "Distill":
        rates = self.training.learning_rates
        private = {name: r.privacy for name, r in self.recipes.items() if r.privacy}
        swept = [name for name, privacy in private.items() if privacy.learning_rate is None]
        if swept and len(rates) > 1:
            raise ValueError(
                f"recipes {', '.join(swept)} need a privacy.learning_rate; the sweep over "
                f"{len(rates)} of them would look at the prompts outside epsilon"
            )
        return self
