"""What teacher and students share: shapes, training, generation and pretrained models."""

from typing import Literal

from pydantic import Field

from stages._params.base import Section, Share


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
    """Answers that compete for each prompt [count]; an answer that ended beats one cut off, then
    the fewest slot errors win. Under greedy, with a slot schema, only where its own answer was cut
    off or has slot errors: that and as many beams."""
    max_new_tokens: int = Field(96, ge=1)
    """Longest answer [tokens], end token included."""


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
    """none: as it is, a teacher's only; full: all weights; lora: an adapter, merged afterwards;
    qlora: the same over weights in 4 bits (Dettmers et al. 2023, arXiv:2305.14314)."""
    adapter: Adapter = Adapter()
    """Of lora and qlora."""
    template: str | None = None
    """Text around the prompt, with {prompt} in it; null: the model's chat template, or the prompt
    and a line break where there is none."""
    system: str | None = None
    """System message, where the chat template has a place for one."""
