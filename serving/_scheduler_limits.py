"""What may wait for the model, how big a micro-batch is, and how time is shared."""

from dataclasses import dataclass

from serving._micro_batches import Order


@dataclass(frozen=True)
class Limits:
    """Bounds of the scheduler; the defaults suit a small model on a CPU."""

    batch_tokens: int = 8192
    """Most tokens of a micro-batch: rows x (longest prompt + room for the longest answer)."""
    max_rows: int = 32
    """Most rows of a micro-batch; beams and samples take one each."""
    max_waiting: int = 256
    """Most items that wait [count]."""
    max_waiting_tokens: int = 262_144
    """Most tokens that wait, room for the answers included; one item alone may be above."""
    max_streams: int = 8
    """Most streams under way at once; each has keys and values of its own [count]."""
    stream_share: float = 0.25
    """Between two micro-batches streams run for this share of the first one's time, and at least
    one step each."""
    urgent_s: float = 0.5
    """An item whose deadline is no further away goes first."""
    gather_s: float = 0.002
    """Longest wait for as many items as the micro-batch before had, from the oldest's arrival;
    callers who were answered together come back together."""
    settings: int = 16
    """Distinct decoding settings that are kept [count]."""
    order: Order = "length"
    """first_in_first_out is for comparison."""
