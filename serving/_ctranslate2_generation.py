"""Tokens from a CTranslate2 generator: greedy, beams, samples, and scores of given tokens.

The vocabulary of our models is the ids themselves as text ("0", "1" …), so that no token's text can
be taken for another's; prompts are sent as such texts and ids come back.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving._answering import Answer
from serving._decoding import Decoding

# Largest float32 [rows, positions, vocabulary] array of a forward pass: 64 MB.
FORWARD_LOGITS = 16_000_000
# A shorter beginning that all prompts share is read again each time: keeping what was computed of
# it has the library read what is longer than a batch's shortest prompt token by token.
SHARED_PREFIX = 64
# Tokens of a stream that are made in one go: reading its text again costs about a sixth on top.
PIECE = 16

Ids = Sequence[int]
Gone = Callable[[int], bool]
"""Whether nobody waits for the answer of this row."""


def greedy(
    generator: Any,
    ends: frozenset[int],
    decoding: Decoding,
    prompts: Sequence[Ids],
    gone: Gone | None = None,
    prefix: Ids = (),
) -> list[Answer]:
    """The likeliest token at every step, with its log-probability [nats].

    A row that is `gone` makes no more tokens. Of prompts that begin with `prefix`, which is always
    the same one, that part is computed once for all calls.
    """
    made: list[Answer] = [([], []) for _ in prompts]
    # The library gives back a prompt of one token, and those beside it, as part of the answer.
    for rows in _apart(prompts, lambda prompt: len(prompt) == 1):
        shared = len(prefix) if all(_begins(prompts[row], prefix, ends) for row in rows) else 0
        # The library then reads what is longer than the shortest token by token, as if made.
        shortest = min(len(prompts[row]) for row in rows)
        left = [len(prompts[row]) - shortest if shared else 0 for row in rows]
        longest = decoding.max_new_tokens + max(left)

        def take(step: Any, rows: list[int] = rows, left: list[int] = left) -> bool:
            row = rows[step.batch_id]
            tokens, logprobs = made[row]
            if left[step.batch_id]:
                left[step.batch_id] -= 1
            else:
                tokens.append(step.token_id)
                logprobs.append(step.log_prob)
            full = len(tokens) == decoding.max_new_tokens
            return full or (gone is not None and gone(row))

        settings = _settings(ends, decoding) | {"return_scores": True, "callback": take}
        settings["max_length"] = longest
        if shared:
            settings |= {"static_prompt": _texts(prefix), "cache_static_prompt": True}
        generator.generate_batch([_texts(prompts[row][shared:]) for row in rows], **settings)
    return made


def greedy_tokens(
    generator: Any,
    ends: frozenset[int],
    decoding: Decoding,
    prompt: Ids,
    gone: Gone | None = None,
    prefix: Ids = (),
) -> Iterator[tuple[int, float]]:
    """Tokens of one greedy answer as they are made, and their log-probability [nats].

    Made in pieces of 1, 2, 4 … PIECE tokens, each after reading the text so far again. The
    library's own iterator makes the whole answer in a thread of its own, ahead of whoever reads,
    and a batch or another stream that comes meanwhile waits for all of it.
    """
    made: list[int] = []
    piece = 1
    while len(made) < decoding.max_new_tokens:
        room = min(piece, decoding.max_new_tokens - len(made))
        shorter = replace(decoding, max_new_tokens=room)
        ((tokens, logprobs),) = greedy(
            generator, ends, shorter, [[*prompt, *made]], gone, () if made else prefix
        )
        yield from zip(tokens, logprobs, strict=True)
        made += tokens
        if tokens[-1] in ends or (gone is not None and gone(0)):
            return
        piece = min(2 * piece, PIECE)


def beams(
    generator: Any, ends: frozenset[int], decoding: Decoding, prompts: Sequence[Ids], count: int
) -> list[list[list[int]]]:
    """The `count` best beams of each prompt, best first, with their end token.

    A beam's score is its log-probability divided by length ** length_penalty, as in transformers;
    the search stops when as many beams have ended as are kept.
    """
    made: list[list[list[int]]] = [[] for _ in prompts]
    # A prompt beside a longer one is searched a little differently from one alone: the library
    # then rules out an end at the first step of every beam but the best.
    for rows in _apart(prompts, len):
        results = generator.generate_batch(
            [_texts(prompts[row]) for row in rows],
            beam_size=decoding.beams,
            num_hypotheses=count,
            length_penalty=decoding.length_penalty,
            **_settings(ends, decoding),
        )
        for row, result in zip(rows, results, strict=True):
            made[row] = result.sequences_ids
    return made


def sample_steps(
    generator: Any,
    ends: frozenset[int],
    decoding: Decoding,
    prompts: Sequence[Ids],
    chances: NDArray[np.float64],
    vocabulary: int,
    gone: Gone | None = None,
) -> Iterator[list[tuple[int, int, float]]]:
    """Draw; each step gives (row, token, log-probability) of every row still running.

    `chances` [rows, steps] decides each draw, one row per prompt. The library's own sampling
    has one seed per thread, used once and shared by all rows, so its answers would depend on what
    else is asked. Here each step forwards the whole text again, without cached keys and values,
    and draws from its last position: exact, and several times as slow as greedy.
    """
    texts = [list(prompt) for prompt in prompts]
    running = list(range(len(texts)))
    for step in range(decoding.max_new_tokens):
        logits = _last_logits(generator, [texts[row] for row in running], vocabulary)
        tokens = draw(logits, chances[running, step], decoding)
        chosen = np.take_along_axis(_log_softmax(logits), tokens[:, None], axis=1)[:, 0]
        yield list(zip(running, tokens.tolist(), chosen.tolist(), strict=True))
        for row, token in zip(running, tokens.tolist(), strict=True):
            texts[row].append(token)
        running = [row for row in running if texts[row][-1] not in ends]
        if gone:
            running = [row for row in running if not gone(row)]
        if not running:
            return


def draw(
    logits: NDArray[np.float32], chances: NDArray[np.float64], decoding: Decoding
) -> NDArray[np.int64]:
    """Tokens [rows] by inverting the cumulative distribution at `chances` [rows].

    The same rule as serving/_generation.py's, without torch: nucleus sampling (Holtzman et al.,
    2020), the likeliest tokens until they reach `top_p`.
    """
    scaled = _log_softmax(logits / np.float32(decoding.temperature))
    tokens = np.argsort(-scaled, axis=-1, kind="stable")
    ordered = np.exp(np.take_along_axis(scaled, tokens, axis=-1))
    kept = ordered * (ordered.cumsum(-1) - ordered < decoding.top_p)
    reached = kept.cumsum(-1)
    place = (reached <= chances.astype(np.float32)[:, None] * reached[:, -1:]).sum(-1)
    last = (kept > 0).sum(-1) - 1  # rounding may point past the end
    return np.take_along_axis(tokens, np.minimum(place, last)[:, None], axis=-1)[:, 0]


def token_logprobs(
    generator: Any, prompts: Sequence[Ids], answers: Sequence[Ids], vocabulary: int
) -> list[list[float]]:
    """Log-probability [nats] of each answer token after its prompt, in one forward pass."""
    rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    scored: list[list[float]] = []
    for part in _parts(rows, vocabulary):
        results = generator.score_batch([_texts(row) for row in part], max_input_length=0)
        scored += [result.log_probs for result in results]
    return [
        row[len(prompt) - 1 :] if answer else []
        for row, prompt, answer in zip(scored, prompts, answers, strict=True)
    ]


def _settings(ends: frozenset[int], decoding: Decoding) -> dict[str, Any]:
    return {
        "max_length": decoding.max_new_tokens,
        "end_token": sorted(ends),
        "return_end_token": True,
        "include_prompt_in_result": False,  # then prompts are read at once, not token by token
    }


def _apart(prompts: Sequence[Ids], kind: Callable[[Ids], int]) -> list[list[int]]:
    """Numbers of the prompts in groups that have the same `kind`, in rising order of it."""
    kinds = [kind(prompt) for prompt in prompts]
    order = sorted(range(len(prompts)), key=kinds.__getitem__)
    return [list(group) for _kind, group in groupby(order, key=kinds.__getitem__)]


def _last_logits(generator: Any, rows: Sequence[list[int]], vocabulary: int) -> NDArray[np.float32]:
    """Float32 logits [rows, vocabulary] after each row's last token."""
    found = []
    for part in _parts(rows, vocabulary):
        logits = np.asarray(_as_float32(generator.forward_batch(part)))
        found.append(logits[np.arange(len(part)), [len(row) - 1 for row in part]])
    return np.concatenate(found)


def _as_float32(logits: Any) -> Any:
    from ctranslate2 import DataType, Device  # loaded by now: there is a generator

    return logits.to(DataType.float32).to_device(Device.cpu)


def _parts(rows: Sequence[list[int]], vocabulary: int) -> Iterator[Sequence[list[int]]]:
    """Rows in groups whose logits take no more than FORWARD_LOGITS numbers."""
    longest = max(map(len, rows), default=1)
    size = max(1, FORWARD_LOGITS // (longest * vocabulary))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _begins(prompt: Ids, prefix: Ids, ends: frozenset[int]) -> bool:
    """Whether `prefix` stands before the rest of a prompt, which has no end in it."""
    size = len(prefix)
    if not 0 < size < len(prompt) or list(prompt[:size]) != list(prefix):
        return False
    return ends.isdisjoint(prompt[size:])


def _texts(ids: Ids) -> list[str]:
    return [str(number) for number in ids]


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted = logits - logits.max(-1, keepdims=True)
    scaled: NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return scaled
