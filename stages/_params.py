"""What a person may change: one frozen, typed class per section of params.yaml.

`load_params(path)` is the only reader of params.yaml. It reports every mistake of a file at once,
with the nearest known name, before any work starts. Fields are documented where they stand; the
same text reaches editors through `docs/params.schema.json` (`make schema`).
"""

import difflib
import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from serving.errors import StillhouseError

Share = Annotated[float, Field(ge=0.0, le=1.0)]
"""A share of something, between 0 and 1."""


class Section(BaseModel):
    """Base of every section: immutable, unknown keys are mistakes, no silent type changes."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )


class Run(Section):
    """Where and how wide the stages run."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the neural stages; auto takes CUDA where there is one."""
    threads: int = Field(2, ge=1)
    """Compute threads per process [count]; part of what makes a run repeatable bit by bit."""
    offline: bool = True
    """True keeps every Hugging Face library off the network (HF_HUB_OFFLINE)."""


class SourceFile(Section):
    """One raw file."""

    path: str
    """Path from the project root, absolute, with $VARIABLES, or a file:// or https:// URL."""
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """Hexadecimal SHA-256 of the file: demanded for URLs, and what lets DVC see a change of a file
    outside data/raw."""


class SourceFiles(Section):
    """The raw files of a csv or jsonl source; splits without a file are cut from train."""

    train: SourceFile
    """Training pairs."""
    validation: SourceFile | None = None
    """Development set, for tuning and early stopping."""
    calibration: SourceFile | None = None
    """Set for thresholds; cut from train when absent: a given development set stays whole."""
    test: SourceFile | None = None
    """Test set, read by evaluate only."""


class Columns(Section):
    """Column names of a csv or hub source."""

    prompt: str = "prompt"
    """Column with the prompt."""
    response: str = "response"
    """Column with one reference answer; rows that share a prompt become several references."""


class Hub(Section):
    """A data set on the Hugging Face hub, or a local folder in its format."""

    name: str
    """Data set id (owner/name) or a path to a local folder."""
    revision: str | None = None
    """Commit of the data set; demanded unless `name` is a local folder."""
    splits: dict[Literal["train", "validation", "calibration", "test"], str] = {"train": "train"}
    """Our splits by the names they have there; those not named are cut from train."""


class Incidents(Section):
    """Size of the built-in data."""

    train_prompts: int = Field(6000, ge=10)
    """Training prompts [count]."""
    train_references: int = Field(2, ge=1)
    """References per training prompt [count]."""
    validation_prompts: int = Field(300, ge=10)
    """Validation prompts [count]."""
    calibration_prompts: int = Field(500, ge=10)
    """Calibration prompts [count]."""
    test_prompts: int = Field(640, ge=10)
    """Test prompts [count]; evidence asks for at least 600."""
    held_out_references: int = Field(5, ge=1)
    """References per held-out prompt [count]; evidence asks for at least 4."""


class SplitShares(Section):
    """Shares of the prompt groups that become a held-out split when the source gives none."""

    validation: Share = 0.05
    """Share of the prompts for validation."""
    calibration: Share = 0.05
    """Share of the prompts for calibration."""
    test: Share = 0.1
    """Share of the prompts for test."""

    @model_validator(mode="after")
    def _leave_training_data(self) -> "SplitShares":
        total = self.validation + self.calibration + self.test
        if total >= 1.0:
            raise ValueError(f"the held-out shares sum to {total:g}; nothing is left to train on")
        return self


class Prepare(Section):
    """Raw data → train, validation, calibration and test."""

    source: Literal["incidents", "csv", "jsonl", "hub"] = "incidents"
    """Where the data comes from; incidents is generated and needs no file."""
    incidents: Incidents = Incidents()
    """Size of the built-in data."""
    files: SourceFiles | None = None
    """Raw files of a csv or jsonl source."""
    columns: Columns = Columns()
    """Column names of a csv or hub source."""
    hub: Hub | None = None
    """Data set of a hub source."""
    encoding: str = "utf-8"
    """Text encoding of csv files."""
    delimiter: str = Field(",", min_length=1, max_length=1)
    """Character between the columns of csv files."""
    slot_schema: str | None = None
    """YAML file that says how slots are said; absent for data without records."""
    split: SplitShares = SplitShares()
    """Shares cut from train for the splits that the source does not give."""
    near_duplicate_similarity: float = Field(0.6, gt=0.0, le=1.0)
    """Jaccard similarity of word 3-shingles from which a training prompt counts as a copy of a
    held-out one; one word changed in sixteen leaves 0.67."""
    near_duplicate_record_similarity: float = Field(1.0, gt=0.0, le=1.0)
    """The same for records, over slot-value pairs. One slot of n changed leaves (n-1)/(n+1), and
    answering such a record is what the test asks for, so by default only equal ones are copies."""
    max_chars: int = Field(20_000, ge=1)
    """Longest prompt or reference [characters]; a longer row is rejected."""
    max_line_bytes: int = Field(1_000_000, ge=1)
    """Longest line of a raw file [bytes]; a longer one is rejected without being held in memory."""
    personal_data: Literal["report", "scrub", "off"] = "report"
    """Count personal data per kind, replace it by its kind, or do not look."""

    @model_validator(mode="after")
    def _source_is_described(self) -> "Prepare":
        if self.source in ("csv", "jsonl") and self.files is None:
            raise ValueError(f"source {self.source} needs prepare.files.train.path")
        if self.source == "hub" and self.hub is None:
            raise ValueError("source hub needs prepare.hub.name")
        return self


class Baseline(Section):
    """The traditional model: TF-IDF retrieval and a calibrated confidence."""

    candidates: int = Field(10, ge=1)
    """Training answers that compete for one prompt, from the nearest prompts on [count]."""
    max_features: int = Field(50_000, ge=10)
    """Largest TF-IDF vocabulary [count]."""
    index: Literal["float32", "float16", "int8"] = "float32"
    """How the index's weights are stored (benchmarks/baseline.py compares them)."""
    classifier: Literal["auto", "logistic_regression", "random_forest"] = "auto"
    """Model of the confidence; auto takes the better Brier score on validation."""
    good_chrf: float = Field(60.0, ge=0.0, le=100.0)
    """An answer counts as good for the confidence model when it has no slot error and at least
    this chrF against its references [chrF points]."""
    confidence_rows: int = Field(1000, ge=50)
    """Training prompts answered without themselves to train the confidence model [count]."""
    max_prompt_chars: int = Field(20_000, ge=1)
    """Longest prompt that the served baseline accepts [characters]."""
    jobs: int = Field(2, ge=1)
    """Processes that answer chunks of a large batch [count]."""


class DecoderShape(Section):
    """Shape of a Llama-type decoder."""

    layers: int = Field(4, ge=1)
    """Decoder layers [count]."""
    width: int = Field(160, ge=8)
    """Width of the residual stream [channels]."""
    heads: int = Field(5, ge=1)
    """Attention heads [count]; must divide the width."""
    kv_heads: int = Field(5, ge=1)
    """Key-value heads [count]; must divide the heads."""
    feed_forward: int = Field(448, ge=8)
    """Width inside the feed-forward layers [neurons]."""
    positions: int = Field(512, ge=16)
    """Longest prompt and answer together [tokens]."""


class Training(Section):
    """How a model is trained."""

    steps: int = Field(600, ge=1)
    """Optimizer steps [count]."""
    batch_tokens: int = Field(2048, ge=16)
    """Tokens of one optimizer step, padding included [count]; rows are bucketed by length."""
    micro_batch_tokens: int | None = Field(None, ge=16)
    """Tokens that pass through the model at once [count]; null: the whole batch."""
    learning_rates: tuple[float, ...] = Field((0.002,), min_length=1, strict=False)
    """Peak learning rates; with several, each one trains for `sweep_share` of the steps first and
    the lowest validation loss wins."""
    sweep_share: Share = 0.2
    """Share of the steps that each learning rate of a sweep gets."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon orthogonalises the updates of hidden matrices: small decoders learn much sooner from it.
    It needs whole matrices, so sharded (FSDP) training takes adamw."""
    warmup_share: Share = 0.05
    """Share of the steps in which the learning rate rises; then it falls along a cosine."""
    value_noise: Share = 0.0
    """Share of the copied slot values that are made up, in prompt and reference alike; teaches
    copying values that were never seen. Of references only, not of a teacher's labels."""
    weight_decay: float = Field(0.01, ge=0.0)
    """Decoupled decay of hidden matrices."""
    clip_norm: float = Field(1.0, gt=0.0)
    """Largest norm of a step's gradient."""
    validations: int = Field(3, ge=1)
    """Times that the model answers validation prompts during training [count]; the best stays."""
    validation_prompts: int = Field(150, ge=1)
    """Validation prompts answered each time [count], the first ones of the split."""
    checkpoint_every_s: float = Field(30.0, ge=0.0)
    """Time between checkpoints for resuming [s]; changes no result."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of matrix products; auto takes bfloat16 where the processor has instructions for it."""
    attention: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"
    """Attention implementation of transformers."""


class Generation(Section):
    """How a model writes its answers."""

    method: Literal["greedy", "beam", "sample"] = "greedy"
    """greedy: likeliest token; beam: beam search; sample: drawn at random."""
    beams: int = Field(1, ge=1)
    """Beams kept by beam search [count]."""
    length_penalty: float = 1.0
    """Exponent of the length that divides a beam's log-probability; larger: longer answers."""
    temperature: float = Field(1.0, gt=0.0)
    """Divides the logits of `sample`."""
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    """`sample` draws from the likeliest tokens that together reach this probability."""
    answers: int = Field(1, ge=1)
    """Answers that compete for each prompt [count]; with slots the fewest slot errors win."""
    max_new_tokens: int = Field(160, ge=1)
    """Longest answer [tokens], end token included."""


class Scratch(Section):
    """A teacher trained from nothing on the prepared data."""

    vocabulary: int = Field(1536, ge=300)
    """Tokens of the byte-level BPE [count]."""
    shape: DecoderShape = DecoderShape()
    """Shape of the decoder."""


class Adapter(Section):
    """LoRA (Hu et al. 2021, arXiv:2106.09685)."""

    rank: int = Field(16, ge=1)
    """Rank of the update."""
    alpha: int = Field(32, ge=1)
    """Scale of the update is alpha / rank."""
    dropout: Share = 0.0
    """Dropout before the update."""
    modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Layers that get one; all-linear: all but the head."""


class Pretrained(Section):
    """A model in Hugging Face format."""

    model: str
    """Hub id (owner/name) or a local folder."""
    revision: str | None = None
    """Commit of the model; demanded unless `model` is a local folder."""
    tuning: Literal["none", "full", "lora", "qlora"] = "lora"
    """none: as it is; full: all weights; lora: an adapter, merged afterwards; qlora: the same over
    weights in 4 bits (Dettmers et al. 2023, arXiv:2305.14314)."""
    adapter: Adapter = Adapter()
    """Of lora and qlora."""
    template: str | None = None
    """Text around the prompt, with {prompt} in it; null: the model's chat template, or the prompt
    and a line break where there is none."""
    system: str | None = None
    """System message, where the chat template has a place for one."""


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

    templates: tuple[str, ...] = Field((), strict=False)
    """Texts with {prompt}, and {shots} where examples go; empty: no choice is made."""
    shots: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), strict=False)
    """Numbers of training examples to show [count], retrieved by the baseline."""
    validation_prompts: int = Field(100, ge=10)
    """Validation prompts that every variant answers [count]."""


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
    """Choice of prompt, for sources pretrained and endpoint."""
    training: Training = Training()
    """How it is trained."""
    generation: Generation = Generation()
    """How it answers when it is evaluated or asked in production."""

    @model_validator(mode="after")
    def _source_is_described(self) -> "Teacher":
        if self.source != "scratch" and getattr(self, self.source) is None:
            raise ValueError(f"source {self.source} needs teacher.{self.source}")
        return self


class Label(Section):
    """What the teacher writes for the student to learn from."""

    train_prompts: int | None = Field(None, ge=1)
    """Training prompts that are labelled, the first ones [count]; null: all."""
    pool_prompts: int = Field(2000, ge=0)
    """Prompts without references that are labelled too [count]: recombined training records, or
    the first ones of `pool_file`."""
    pool_file: str | None = None
    """JSON lines with a prompt each, in place of recombined records."""
    pool_value_noise: Share = 0.0
    """Share of the slot values of recombined records that are made up."""
    answers: int = Field(1, ge=1)
    """Answers kept per training prompt, the best ones that pass the filters [count]."""
    pool_answers: int = Field(1, ge=1)
    """The same per prompt of the pool."""
    gold: bool = True
    """Whether references get the teacher's distribution too (word-level distillation)."""
    generation: Generation = Generation()
    """How the answers are made; `answers` in it is the number that compete."""
    top_k: int = Field(16, ge=0)
    """Log-probabilities stored per token [count]; 0 for texts alone."""
    max_slot_errors: int | None = Field(0, ge=0)
    """Slot errors that an answer may have; null: not checked."""
    max_answer_tokens: int | None = Field(None, ge=1)
    """Longest answer to learn from [tokens]; null: any."""
    shard_prompts: int = Field(500, ge=1)
    """Prompts per shard: what a kill loses at most [count]."""


class Recipe(Section):
    """One student and how it learns."""

    method: Literal["sft", "seqkd", "logits", "on_policy"] = "logits"
    """sft: references; seqkd: the teacher's texts (Kim and Rush 2016, arXiv:1606.07947); logits:
    those and its distributions; on_policy: the student's own texts, judged by the teacher in
    memory, after a start by logits."""
    init: Literal["scratch", "prune", "pretrained"] = "prune"
    """Where the weights start: at random, cut out of the teacher, or in `distill.pretrained`."""
    sources: tuple[Literal["train", "pool", "gold"], ...] = Field(
        ("train", "pool", "gold"), min_length=1, strict=False
    )
    """Labels to learn from, of seqkd and logits."""
    alpha: Share = 0.5
    """Share of the divergence in the loss of logits; cross-entropy has the rest."""
    divergence: Literal["forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl"] = (
        "forward_kl"
    )
    """Divergence from the teacher (stages/_divergences.py)."""
    mix: Share = 0.1
    """beta of jsd, alpha of the skew divergences."""
    temperature: float = Field(1.0, gt=0.0)
    """Softens both distributions; the divergence is multiplied by its square (Hinton et al.)."""
    seed_offset: int = Field(0, ge=0)
    """Added to the seed: the same recipe again with other chance."""
    on_policy_steps: int = Field(100, ge=1)
    """Steps of the on-policy part, which replace as many of the others [count]."""
    on_policy_learning_rate: float = Field(1e-4, gt=0.0)
    """Peak learning rate of the on-policy part (AdamW)."""


class Distill(Section):
    """The students: one run per recipe, all of one shape and one budget."""

    recipes: dict[str, Recipe] = {"student": Recipe(), "control": Recipe(method="sft")}
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
    def _recipes_fit(self) -> "Distill":
        wrong = [n for n, r in self.recipes.items() if r.init == "pretrained"]
        if wrong and self.pretrained is None:
            raise ValueError(f"recipes {', '.join(wrong)} need distill.pretrained")
        if missing := {"student", "control"} - self.recipes.keys():
            raise ValueError(f"recipes lack {' and '.join(sorted(missing))}")
        return self


class Answer(Section):
    """How every candidate answers the calibration and test prompts."""

    candidates: tuple[str, ...] = Field(
        ("baseline", "teacher", "student", "control"), min_length=1, strict=False
    )
    """Models that answer and are evaluated: folders of models/."""

    batch_size: int = Field(256, ge=1)
    """Prompts handed to the predictor at once [count]."""


class Evaluate(Section):
    """Scores of every candidate on the test split."""

    metrics: tuple[
        Literal["bleu", "chrf", "slot_error_rate", "exact_match"],
        ...,
    ] = Field(("bleu", "chrf", "slot_error_rate", "exact_match"), strict=False)
    """Metrics to compute; slot_error_rate is left out where the data has no slot schema."""
    resamples: int = Field(1000, ge=100)
    """Bootstrap resamples over prompts [count]."""
    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    """Level of every interval."""
    reference: str = "baseline"
    """Candidate that all others are compared with, on the same prompts."""


class Ladder(Section):
    """Did distilling win?"""

    resamples: int = Field(1000, ge=100)
    """Bootstrap resamples over seeds and prompts [count]."""
    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    """Level of every interval."""


class Params(Section):
    """All of params.yaml, in pipeline order."""

    seed: int = Field(20, ge=0, lt=2**32)
    """Seed of every random choice."""
    run: Run = Run()
    prepare: Prepare = Prepare()
    baseline: Baseline = Baseline()
    teacher: Teacher = Teacher()
    label: Label = Label()
    distill: Distill = Distill()
    answer: Answer = Answer()
    evaluate: Evaluate = Evaluate()
    ladder: Ladder = Ladder()


def load_params(path: Path) -> Params:
    """Read and check a params file.

    Raises:
        StillhouseError: the file is absent or not YAML, or any field is wrong; all mistakes are in
            the one message, a line each.
    """
    return check_params(read_yaml(path), path)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping as plain data; duplicate keys are mistakes.

    Raises:
        StillhouseError: the file is absent, not UTF-8, not YAML or not a mapping.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        data = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StillhouseError(f"{path} is missing. Run from the project root.") from None
    except OSError as error:
        raise StillhouseError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise StillhouseError(
            f"{path} is not UTF-8 (byte {error.start}). Save it as UTF-8."
        ) from None
    except YAMLError as error:
        reason = " ".join(str(error).split())
        raise StillhouseError(f"{path} is not YAML: {reason}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise StillhouseError(f"{path}: expected sections, found {type(data).__name__}.")
    return data


def check_params(data: dict[str, Any], path: Path) -> Params:
    """Validate `data`; `path` is named in the errors."""
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        lines = [_describe(mistake) for mistake in error.errors()]
        count = f"{len(lines)} mistake" + ("s" if len(lines) > 1 else "")
        raise StillhouseError("\n  ".join([f"{path} has {count}:", *lines])) from None


def _describe(mistake: Any) -> str:
    where = ".".join(str(part) for part in mistake["loc"])
    if mistake["type"] == "extra_forbidden":
        known = _known_keys(mistake["loc"][:-1])
        near = difflib.get_close_matches(str(mistake["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        return f"{where}: unknown key; {hint}"
    message = mistake["msg"].removeprefix("Value error, ")
    found = "" if mistake["type"] in ("value_error", "missing") else f", found {mistake['input']!r}"
    hint = _nearest_choice(mistake)
    return f"{where or 'file'}: {message}{found[:120]}{hint}"


def _nearest_choice(mistake: Any) -> str:
    choices = str(mistake.get("ctx", {}).get("expected", "")).replace(" or ", ", ").split(", ")
    near = difflib.get_close_matches(f"'{mistake['input']}'", choices, n=1)
    return f"; did you mean {near[0]}?" if near and mistake["type"] == "literal_error" else ""


def _known_keys(loc: tuple[Any, ...]) -> list[str]:
    """Field names of the section at `loc`; empty where it is not a section."""
    section: Any = Params
    for part in loc:
        if section is None or part not in section.model_fields:
            return []
        section = _section_class(section.model_fields[part].annotation)
    return list(section.model_fields) if section is not None else []


def _section_class(annotation: Any) -> type[Section] | None:
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, Section)), None)


def params_hash(params: Params, section: str) -> str:
    """SHA-256 over the seed and one section: what a model folder's contract is bound to."""
    content = {"seed": params.seed, section: getattr(params, section).model_dump(mode="json")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def json_schema() -> dict[str, Any]:
    """JSON Schema of params.yaml, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Params.model_json_schema()}
