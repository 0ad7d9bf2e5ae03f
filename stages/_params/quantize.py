"""Section `quantize`: smaller or faster variants of the student."""

from typing import Literal

from pydantic import Field, model_validator

from stages._params.base import Section, Share

BITSANDBYTES = ("int8", "nf4", "fp4")
SCHEMES = {
    "transformers": (*BITSANDBYTES, "bf16", "fp16"),
    "ctranslate2": (
        "float32",
        "float16",
        "bfloat16",
        "int16",
        "int8",
        "int8_float32",
        "int8_float16",
        "int8_bfloat16",
    ),
    "speculative": ("float32",),
}
# Settings that only some schemes of the transformers engine have.
SETTINGS = {
    "cache": SCHEMES["transformers"],
    "embeddings": BITSANDBYTES,
    "compute_dtype": BITSANDBYTES,
    "double_quantization": ("nf4", "fp4"),
    "block_size": ("nf4", "fp4"),
    "outlier_threshold": ("int8",),
}


class Pruning(Section):
    """A smaller student, cut before it is quantized; chosen by activations as in distillation."""

    layers: int | None = Field(None, ge=1)
    """Layers that stay [count]; null: all."""
    width: int | None = Field(None, ge=8)
    """Channels of the residual stream that stay [count]; null: all."""
    kv_heads: int | None = Field(None, ge=1)
    """Key-value heads that stay, each with the heads it serves [count]; null: all."""
    feed_forward: int | None = Field(None, ge=8)
    """Neurons inside each feed-forward layer that stay [count]; null: all."""

    @model_validator(mode="after")
    def _something_is_cut(self) -> "Pruning":
        if all(value is None for value in self.model_dump().values()):
            raise ValueError(
                "prune names nothing to cut; give layers, width, kv_heads or feed_forward, or null"
            )
        return self


class Recovery(Section):
    """Training of the variant towards the student's own distributions, before it is quantized.

    The weights are rounded as the scheme rounds them in every forward pass, and gradients pass the
    rounding unchanged (straight-through; Bengio et al. 2013, arXiv:1308.3432).
    """

    steps: int = Field(100, ge=1)
    """Optimizer steps (AdamW) [count]."""
    batch_tokens: int = Field(2048, ge=16)
    """Tokens of a step, padding included [count]."""
    learning_rate: float = Field(1e-3, gt=0.0)
    """Peak learning rate; falls along a cosine. For small students; large ones need far less."""
    value_noise: Share = 0.0
    """Share of the references' copied slot values that are made up, so that copying, which rounding
    hurts most, is trained back too (as `training.value_noise`)."""


class Variant(Section):
    """One way to make the student smaller or faster; null settings take the scheme's default."""

    engine: Literal["transformers", "ctranslate2", "speculative"] = "transformers"
    """What answers in production; the variant is measured with it. speculative (scheme float32) is
    the teacher with the student as its drafter: the teacher's answers, measured for their speed."""
    scheme: Literal[
        "int8",
        "nf4",
        "fp4",
        "bf16",
        "fp16",
        "float32",
        "float16",
        "bfloat16",
        "int16",
        "int8_float32",
        "int8_float16",
        "int8_bfloat16",
    ]
    """transformers: int8 (LLM.int8(), Dettmers et al. 2022, arXiv:2208.07339), nf4, fp4 (QLoRA,
    arXiv:2305.14314), bf16, fp16; ctranslate2: its compute types, of which int8 is a scheme too."""
    embeddings: Literal["int8", "keep"] | None = None
    """Of int8, nf4 and fp4: int8 (default) packs embeddings and a tied head in 8 bits by row, which
    bitsandbytes leaves; keep leaves them as they are."""
    compute_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of int8, nf4 and fp4: type of activations and of what stays unquantized (default float32)."""
    double_quantization: bool | None = None
    """Of nf4 and fp4: quantize the scales too. Its table of 1 kB per layer makes layers of fewer
    than some 30,000 weights larger (default false)."""
    block_size: Literal[32, 64, 128, 256, 512, 1024, 2048, 4096] | None = None
    """Of nf4 and fp4: weights that share a scale [count] (default 64)."""
    outlier_threshold: float | None = Field(None, ge=0.0)
    """Of int8: input columns with a magnitude above it stay in floating point (the paper's is 6).
    0 (default) has none, and then an answer does not depend on what else is in the batch."""
    cache: Literal["dynamic", "static", "quantized"] | None = None
    """Of engine transformers: how it keeps past keys and values in production, growing (default),
    reserved whole, or as 8-bit integers, which may change an answer; so it is measured with it."""
    prune: Pruning | None = None
    """Cut the student first; null: no."""
    recovery: Recovery | None = None
    """Train what quantizing or pruning lost; null: no."""

    @model_validator(mode="after")
    def _settings_fit_the_scheme(self) -> "Variant":
        if self.scheme not in SCHEMES[self.engine]:
            raise ValueError(
                f"engine {self.engine} has no scheme {self.scheme}; "
                f"it has {', '.join(SCHEMES[self.engine])}"
            )
        given = [n for n in SETTINGS if getattr(self, n) is not None]
        wrong = [
            n for n in given if self.engine != "transformers" or self.scheme not in SETTINGS[n]
        ]
        if wrong:
            raise ValueError(
                f"{', '.join(wrong)} do not go with engine {self.engine}, scheme {self.scheme}; "
                f"leave them out"
            )
        return self

    @model_validator(mode="after")
    def _a_drafter_is_the_student_as_it_is(self) -> "Variant":
        if self.engine == "speculative" and (self.prune or self.recovery):
            raise ValueError(
                "engine speculative takes the student as it is; leave prune and recovery out"
            )
        return self

    @model_validator(mode="after")
    def _recovery_has_something_to_recover(self) -> "Variant":
        if self.recovery and not self.prune and not self.is_low_precision:
            raise ValueError(
                f"recovery needs prune or a scheme of at most 8 bits, found {self.scheme}; "
                f"nothing is lost that training could bring back"
            )
        return self

    @property
    def is_low_precision(self) -> bool:
        """Whether weights have at most 8 bits."""
        return self.scheme in BITSANDBYTES or self.scheme.startswith("int8")


class Quantize(Section):
    """Smaller or faster variants of the student: one run and one model folder each."""

    variants: dict[str, Variant] = Field(
        {
            "int8": Variant(scheme="int8"),
            "nf4": Variant(scheme="nf4"),
            "ct2": Variant(engine="ctranslate2", scheme="float32"),
            "ct2_int8": Variant(engine="ctranslate2", scheme="int8"),
        }
    )
    """Variants by name, which is that of their folder in models/variants/."""
    min_coverage: Share = 0.95
    """Share of the parameters that a scheme of at most 8 bits must really have in 8 or 4 bits;
    biases and norms never are."""
    prompts: int = Field(32, ge=1)
    """Validation prompts that are answered before and after, to check the variant [count]."""
    max_new_tokens: int = Field(64, ge=1)
    """Longest answer of that check [tokens]; at most what the student may write."""

    @model_validator(mode="after")
    def _names_are_folders(self) -> "Quantize":
        taken = {"baseline", "teacher", "student", "control"}
        wrong = [n for n in self.variants if n in taken or not n.replace("_", "").isalnum()]
        if wrong:
            raise ValueError(
                f"variants {', '.join(map(repr, wrong))} need other names: letters, digits and _, "
                f"not a candidate's"
            )
        return self
