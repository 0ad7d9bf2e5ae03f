"""How likely a model finds the references of its prompts, for perplexity: no text is generated."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from serving._answering import TokenPredictor
from serving._prompts import TOKENIZER_NAME
from serving.completion import Request


def rescore_references(
    predictor: TokenPredictor, examples: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Log-probability of the first reference of each prompt, as fields of its answer's row.

    The end token counts: a model has to know where an answer stops. Where several tokens may end
    one, their probabilities add up. A prompt without a reference, or one with a reference that the
    model has no positions for, gets no fields.
    """
    requests = [Request(e["prompt"], e.get("slots"), e.get("context")) for e in examples]
    prompts = predictor.encode(requests)
    answers = [_first_reference(predictor, example) for example in examples]
    longest = math.inf if predictor.positions is None else predictor.positions
    fitting = [
        number
        for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
        if answer is not None and len(prompt) + len(answer) + 1 <= longest
    ]
    # Rows of similar length together, since an engine pads a batch to its longest.
    fitting.sort(key=lambda number: len(prompts[number]) + len(answers[number] or ()))
    scored = _with_any_end(
        predictor, [prompts[n] for n in fitting], [answers[n] or [] for n in fitting]
    )
    rows: list[dict[str, Any]] = [{} for _ in examples]
    for number, logprobs in zip(fitting, scored, strict=True):
        rows[number] = {
            "reference_logprob_nats": round(sum(logprobs), 6),
            "reference_tokens": len(logprobs),
            "tokenizer_sha256": predictor.contract.files.get(TOKENIZER_NAME, ""),
        }
    return rows


def _first_reference(predictor: TokenPredictor, example: Mapping[str, Any]) -> list[int] | None:
    texts = example.get("references")
    return predictor.prompts.encode_answer(texts[0]) if texts else None


def _with_any_end(
    predictor: TokenPredictor, prompts: list[list[int]], answers: list[list[int]]
) -> list[list[float]]:
    """Log-probabilities of each answer's tokens and, last, of any end token behind them."""
    if not prompts:
        return []
    ended = [
        predictor.token_logprobs(prompts, [[*answer, end] for answer in answers])
        for end in sorted(predictor.ends)
    ]
    return [
        [*rows[0][:-1], _log_sum_exp([row[-1] for row in rows])]
        for rows in zip(*ended, strict=True)
    ]


def _log_sum_exp(values: Sequence[float]) -> float:
    greatest = max(values)
    return greatest + math.log(sum(math.exp(value - greatest) for value in values))
