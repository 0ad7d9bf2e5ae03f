"""Memory that a model needs, worked out from its shape. Pure; all sizes in MB of 10^6 bytes.

Training holds weights and gradients in float32 (4 + 4 bytes each), AdamW's two moments (8; Muon
takes less and is counted alike), what copies them (16: those on their way to a checkpoint, the
optimizer's temporaries, bfloat16), and the activations of one micro-batch: 34 bytes per token,
layer and channel in 16 bits (Korthikanti et al. 2022, arXiv:2205.05198, without the attention
scores, which scaled dot-product attention never stores), twice that here, since norms and residuals
stay in float32; and three float32 copies of as many logits as exist at once.

An adapter trains two thin matrices beside each square one. Under lora the rest is kept as it is
stored; under qlora matrices take about 0.52 bytes a weight (4 bits and their constants, quantized
themselves), embeddings and head are held in float32 (peft's prepare_model_for_kbit_training), and
activations are made again in backward: one layer's, and float32 inputs of all.

The copies, and what a process needs besides (Python, torch, validation answers), were measured, as
`peak_memory_mb` of the default run's run.json, and of a teacher of 12 layers, width 768 (three
steps of AdamW on a CPU); docs/report.md has the figures. On a GPU, checkpoints pass through the
computer's own memory, so there the estimate is too high.
"""

from dataclasses import dataclass
from typing import Literal

MB = 1e6
PROCESS_MB = 1400.0
COPY_MB = 600.0
"""Of each further thread that trains: an allocator and kernels of its own."""
ANSWERING_PROCESS_MB = 550.0
ANSWERING_COPY_MB = 75.0
"""Of each further thread that answers."""
WEIGHT, GRADIENT, MOMENTS, COPIES = 4, 4, 8, 16
"""Bytes of a trained weight."""
BF16 = 2
FOUR_BITS = 0.52
"""Bytes of a weight in NF4 with double quantization (Dettmers et al. 2023, arXiv:2305.14314)."""
ACTIVATION = 68
"""Bytes per token, layer and channel."""
LOGITS = 12
"""Bytes per token and entry of the vocabulary."""
LOSS_ROWS, LOSS_LOGITS = 512, 1_000_000
"""Positions, or logits where these are fewer, that a step has at once (stages/_learner.py)."""
JUDGED_ROWS = 4096
"""Positions whose logits exist at once while labels are judged (stages/_distributions.py)."""
Tuning = Literal["full", "lora", "qlora", "none"]


@dataclass(frozen=True)
class Shape:
    """A decoder as far as memory depends on it."""

    parameters: int
    layers: int
    width: int
    vocabulary: int
    kv_width: int
    """Channels of keys, and of values."""
    query_width: int
    """Channels of all heads."""
    feed_forward: int
    tied: bool = True
    """Whether the head is the embedding."""
    bf16: bool = False
    """Whether its weights are stored in bfloat16."""

    @property
    def embeddings(self) -> int:
        """Weights of embedding and head."""
        return self.vocabulary * self.width * (1 if self.tied else 2)

    def stored_bytes(self, tuning: Tuning) -> int:
        """Of a weight as it is written after tuning, and read again (stages/_pretrained)."""
        return BF16 if self.bf16 and tuning != "full" else WEIGHT


def decoder_shape(
    vocabulary: int,
    layers: int,
    width: int,
    heads: int,
    kv_heads: int,
    feed_forward: int,
    *,
    head: int | None = None,
    tied: bool = True,
    bf16: bool = False,
) -> Shape:
    """The shape of our own decoder (stages/_decoder.py): biases of q, k and v.

    Args:
        head: channels of a head; None: they share the width.
    """
    head = head or width // heads
    query_width, kv_width = head * heads, head * kv_heads
    attention = 2 * width * query_width + 2 * width * kv_width + query_width + 2 * kv_width
    layer = attention + 3 * width * feed_forward + 2 * width
    parameters = vocabulary * width * (1 if tied else 2) + layers * layer + width
    return Shape(
        parameters, layers, width, vocabulary, kv_width, query_width, feed_forward, tied, bf16
    )


def training_mb(
    shape: Shape, tokens: int, tuning: Tuning = "full", rank: int = 16, copies: int = 1
) -> float:
    """Peak of a process that trains.

    Args:
        tokens: of a micro-batch, padding included.
        rank: of an adapter, on all linear layers.
        copies: of the model that share a step's rows (serving/_threads.py).
    """
    trained = trained_weights(shape, tuning, rank)
    held = trained * (WEIGHT + GRADIENT + MOMENTS + COPIES) + base_bytes(shape, tuning)
    more = (copies - 1) * COPY_MB
    return PROCESS_MB + more + (held + activations(shape, tokens, tuning)) / MB


def trained_weights(shape: Shape, tuning: Tuning, rank: int) -> int:
    """All, none, or an adapter's: two thin matrices beside each of a layer's seven."""
    if tuning in ("full", "none"):
        return shape.parameters if tuning == "full" else 0
    sides = 2 * (shape.width + shape.query_width) + 2 * (shape.width + shape.kv_width)
    sides += 3 * (shape.width + shape.feed_forward)
    return rank * shape.layers * sides


def base_bytes(shape: Shape, tuning: Tuning) -> float:
    """Weights that are not trained."""
    match tuning:
        case "lora" | "none":
            return shape.stored_bytes(tuning) * shape.parameters
        case "qlora":
            matrices = shape.parameters - shape.embeddings
            return FOUR_BITS * matrices + WEIGHT * shape.embeddings
    return 0.0


def activations(shape: Shape, tokens: int, tuning: Tuning = "full") -> int:
    """What the backward pass needs of so many tokens [bytes]."""
    rows = min(tokens, max(LOSS_ROWS, LOSS_LOGITS // shape.vocabulary))
    channels = tokens * shape.width
    kept = channels * shape.layers * ACTIVATION
    if tuning == "none":
        return 0
    if tuning == "qlora":
        kept = channels * (shape.layers * WEIGHT + ACTIVATION)
    return kept + rows * shape.vocabulary * LOGITS


def answering_mb(
    shape: Shape, tokens: int, stored: int = WEIGHT, judged: int = 0, at_once: int = 1
) -> float:
    """Peak of a process that answers so many tokens at once, prompts and room for answers included.

    Args:
        tokens: of all batches that are answered side by side.
        stored: bytes of a weight, and of a key or value.
        judged: positions of a batch whose logits exist at once afterwards, when the cache is gone.
        at_once: batches side by side (serving/_threads.py).
    """
    cache = 2 * tokens * shape.layers * shape.kv_width * stored
    logits = at_once * judged * shape.vocabulary * LOGITS
    process = ANSWERING_PROCESS_MB + (at_once - 1) * ANSWERING_COPY_MB
    return process + (stored * shape.parameters + max(cache, logits)) / MB
