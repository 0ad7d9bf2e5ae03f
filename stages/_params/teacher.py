"""Section `teacher`: the model to learn from, in one of three forms."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages._params.base import Section
from stages._params.models import DecoderShape, Generation, Pretrained, Training


class Scratch(Section):
    """A teacher trained from nothing on the prepared data."""

    vocabulary: int = Field(1536, ge=300)
    """Tokens of the byte-level BPE [count]."""
    shape: DecoderShape = DecoderShape()
    """Shape of the decoder."""


class EndpointTeacher(Section):
    """An OpenAI-compatible server."""

    base_url: str
    """Up to and without /chat/completions, such as https://host/v1."""
    model: str
    """Name of the model there."""
    revision: str | None = None
    """What the operator calls this version; goes into the label manifest."""
    api: Literal["chat", "completions"] = "chat"
    """Which of the two interfaces."""
    api_key_env: str | None = None
    """Environment variable that holds the key; the key itself never goes into a file."""
    template: str = "{prompt}"
    """Text around the prompt, with {prompt} in it."""
    max_prompt_chars: int = Field(20_000, ge=1)
    """Longest prompt sent [characters]."""
    timeout_s: float = Field(60.0, gt=0.0)
    """Time for one request [s]."""
    max_retries: int = Field(6, ge=0)
    """Further attempts after a failure that may pass [count]."""
    concurrency: int = Field(8, ge=1)
    """Requests under way at once [count]."""
    price_per_1k_prompt_tokens_usd: float = Field(0.0, ge=0.0)
    """Price of the input [USD per 1,000 tokens]."""
    price_per_1k_completion_tokens_usd: float = Field(0.0, ge=0.0)
    """Price of the output [USD per 1,000 tokens]."""


class Prompting(Section):
    """Choice of template and examples for a teacher that is prompted, on validation."""

    templates: tuple[str, ...] = Field(min_length=1, strict=False)
    """Texts with {prompt}, {shots} where examples go and {context} where a row's context does; each
    stands where the model's own template has its prompt."""
    shots: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1, strict=False)
    """Numbers of training examples to show [count], retrieved as the baseline does; each is tried
    with every template that has {shots}."""
    validation_prompts: int = Field(100, ge=10)
    """Validation prompts that every variant answers, the first ones of the split [count]."""

    @model_validator(mode="after")
    def _templates_work(self) -> "Prompting":
        problems = [
            f"{template!r} needs {{prompt}} once and {{shots}} and {{context}} at most once"
            for template in self.templates
            if template.count("{prompt}") != 1
            or max(template.count("{shots}"), template.count("{context}")) > 1
        ]
        if max(self.shots) > 0 and not any("{shots}" in text for text in self.templates):
            problems.append(f"shots {list(self.shots)}: no template has a place for {{shots}}")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class Teacher(Section):
    """The model to learn from."""

    source: Literal["scratch", "pretrained", "endpoint"] = "scratch"
    """Where it comes from."""
    scratch: Scratch = Scratch()
    """Of source scratch."""
    pretrained: Pretrained | None = None
    """Of source pretrained."""
    endpoint: EndpointTeacher | None = None
    """Of source endpoint."""
    prompting: Prompting | None = None
    """Choice of prompt on validation, for source endpoint and for pretrained with tuning none."""
    training: Training = Training()
    """How it is trained."""
    generation: Generation = Generation()
    """How it answers when it is evaluated or asked in production."""

    @model_validator(mode="after")
    def _source_is_described(self) -> "Teacher":
        if self.source != "scratch" and getattr(self, self.source) is None:
            raise ValueError(f"source {self.source} needs teacher.{self.source}")
        return self

    @model_validator(mode="after")
    def _endpoints_have_no_beams(self) -> "Teacher":
        how = self.generation
        if self.source == "endpoint" and (
            how.method == "beam" or (how.method == "greedy" and how.answers > 1)
        ):
            raise ValueError(
                f"source endpoint has no beams, found generation.method {how.method} with answers "
                f"{how.answers}; set generation.answers: 1, or method sample with several"
            )
        return self

    @model_validator(mode="after")
    def _trained_teachers_keep_their_prompt(self) -> "Teacher":
        tuning = self.pretrained.tuning if self.pretrained else "none"
        trained = self.source == "scratch" or (self.source == "pretrained" and tuning != "none")
        if trained and self.prompting is not None:
            how = "scratch" if self.source == "scratch" else f"pretrained with tuning {tuning}"
            raise ValueError(
                f"prompting goes with source endpoint, or pretrained with tuning none; found "
                f"{how}: a trained teacher is asked as it was trained, remove prompting"
            )
        return self
