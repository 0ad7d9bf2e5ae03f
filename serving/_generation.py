"""Token ids in, token ids and log-probabilities out: the generation of the `transformers` engine.

Greedy and sampled answers come from the loop below, beams from the library's `generate`. The loop
is there because streaming and answering are then the same code, samples do not depend on what else
is in the batch, finished rows leave it, and log-probabilities need no [steps, rows, vocabulary]
array.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from serving._cache import new_cache
from serving._decoding import Decoding
from serving._transformers_model import generation_config

# Largest float32 [rows, positions, vocabulary] array of a rescoring pass: 64 MB.
RESCORED_LOGITS = 16_000_000


@torch.inference_mode()
def steps(
    model: Any,
    ends: frozenset[int],
    decoding: Decoding,
    prompts: Sequence[list[int]],
    chances: Tensor | None,
    gone: Callable[[int], bool] | None = None,
) -> Iterator[list[tuple[int, int, float]]]:
    """Generate; each step gives (row, token, log-probability) of every row still running.

    `chances` [rows, steps] decides each draw; its rows may be a multiple of the prompts', then
    every prompt is answered that many times. Without it the likeliest token is taken. A row that is
    `gone` makes no more tokens.
    """
    ids, mask = _pad_left(prompts, model.device)
    length = ids.shape[1] + decoding.max_new_tokens
    cache = new_cache(model.config, decoding.cache, length)
    logits = _forward(model, ids, mask, (mask.cumsum(1) - 1).clamp(min=0), cache)
    copies = 1 if chances is None else len(chances) // len(prompts)
    if copies > 1:
        # Every kind of cache can be put in another order; only the dynamic one can repeat rows.
        cache.reorder_cache(torch.arange(len(ids), device=ids.device).repeat_interleave(copies))
        logits, mask = (t.repeat_interleave(copies, dim=0) for t in (logits, mask))
    running = list(range(len(logits)))
    for step in range(decoding.max_new_tokens):
        if chances is None:
            tokens = logits.argmax(-1)
        else:
            tokens = draw(logits, chances[running, step], decoding)
        logprobs = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
        chosen = tokens.tolist()
        yield list(zip(running, chosen, logprobs.tolist(), strict=True))
        keep = [row for row, token in enumerate(chosen) if token not in ends]
        if gone:
            keep = [row for row in keep if not gone(running[row])]
        if not keep or step + 1 == decoding.max_new_tokens:
            return
        if len(keep) < len(running):
            chosen_rows = torch.tensor(keep, device=model.device)
            cache.reorder_cache(chosen_rows)
            tokens, mask = tokens[chosen_rows], mask[chosen_rows]
            running = [running[row] for row in keep]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        logits = _forward(model, tokens[:, None], mask, mask.sum(1, keepdim=True) - 1, cache)


def _forward(model: Any, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
    """Float32 logits [rows, vocabulary] of the last position."""
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits: Tensor = output.logits[:, -1].float()
    return logits


def draw(logits: Tensor, chances: Tensor, decoding: Decoding) -> Tensor:
    """Tokens [rows] by inverting the cumulative distribution at `chances` [rows].

    Nucleus sampling (Holtzman et al., 2020): the likeliest tokens until they reach `top_p`.
    """
    ordered, tokens = (logits / decoding.temperature).softmax(-1).sort(-1, descending=True)
    kept = ordered * (ordered.cumsum(-1) - ordered < decoding.top_p)
    reached = kept.cumsum(-1)
    place = (reached <= chances[:, None] * reached[:, -1:]).sum(-1, keepdim=True)
    last = (kept > 0).sum(-1, keepdim=True) - 1  # rounding may point past the end
    return tokens.gather(1, torch.minimum(place, last))[:, 0]


@torch.inference_mode()
def beams(
    model: Any,
    ends: frozenset[int],
    decoding: Decoding,
    prompts: Sequence[list[int]],
    count: int,
) -> list[list[int]]:
    """The `count` best beams of each prompt, best first, cut after their end token.

    The search of a prompt stops when as many beams have ended as are kept, as the `ctranslate2`
    engine's does: five times as fast as searching on for a likelier one, which on the built-in
    data was found longer and at fault more often (docs/log.md).
    """
    ids, mask = _pad_left(prompts, model.device)
    settings = generation_config(
        ends,
        do_sample=False,
        num_beams=decoding.beams,
        early_stopping=True,
        num_return_sequences=count,
        length_penalty=decoding.length_penalty,
        max_new_tokens=decoding.max_new_tokens,
        disable_compile=True,  # of a static cache on CUDA: every batch has another shape
    )
    cache = new_cache(model.config, decoding.cache, ids.shape[1] + decoding.max_new_tokens)
    sequences = model.generate(
        ids, attention_mask=mask, generation_config=settings, past_key_values=cache
    )
    return [_cut(row, ends) for row in sequences[:, ids.shape[1] :].tolist()]


def _cut(tokens: list[int], ends: frozenset[int]) -> list[int]:
    places = [place for place, token in enumerate(tokens) if token in ends]
    return tokens[: places[0] + 1] if places else tokens


def token_logprobs(
    model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> list[list[float]]:
    """Log-probability [nats] of each answer token after its prompt, in one forward pass."""
    longest = max((len(p) + len(a) for p, a in zip(prompts, answers, strict=True)), default=0)
    rows = max(1, RESCORED_LOGITS // max(1, longest * model.config.vocab_size))
    scored: list[list[float]] = []
    for start in range(0, len(prompts), rows):
        part = slice(start, start + rows)
        scored += _rescore(model, prompts[part], answers[part])
    return scored


@torch.inference_mode()
def _rescore(
    model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> list[list[float]]:
    rows = [[*p, *a] for p, a in zip(prompts, answers, strict=True)]
    # Padding on the right needs no mask: under causal attention nothing looks at it.
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=model.device)
    first = min(map(len, prompts))  # no answer starts before this position
    output = model(ids[:, :-1], use_cache=False, logits_to_keep=width - first)
    logits, targets = output.logits.float(), ids[:, first:, None]
    scores = (logits.gather(2, targets)[:, :, 0] - logits.logsumexp(-1)).tolist()
    return [
        row[len(prompt) - first : len(prompt) - first + len(answer)]
        for row, prompt, answer in zip(scores, prompts, answers, strict=True)
    ]


def _pad_left(prompts: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both [rows, longest]; the padding's id does not matter."""
    width = max(map(len, prompts))
    ids = [[0] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
