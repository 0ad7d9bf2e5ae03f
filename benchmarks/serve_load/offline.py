"""The limit: the engine alone, without HTTP or queue, on batches that no caller's arrival spoils.

    python -m benchmarks.serve_load.offline MODEL PROMPTS.json TOKENS

Reads lines "rows seconds" and answers each with a line of JSON. Batches are always full, and as
equal as can be: ordered by the length of answer (known from a first pass) and of prompt, so that
rows of a batch end together. Whole passes over all prompts are counted.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from serving.completion import Request

if TYPE_CHECKING:
    from serving.predictor import Predictor


def order_by_length(predictor: "Predictor", requests: Sequence[Request]) -> list[Request]:
    """Requests whose answers, then prompts, are of like length next to each other."""
    found = predictor.answer(requests)
    lengths = [(answer.completion_tokens, answer.prompt_tokens) for answer in found]
    return [requests[i] for i in sorted(range(len(requests)), key=lengths.__getitem__)]


def measure(
    predictor: "Predictor", ordered: Sequence[Request], rows: int, seconds: float
) -> dict[str, float]:
    """Tokens/s of batches of `rows`, over whole passes that take `seconds` at least."""
    whole = len(ordered) - len(ordered) % rows or len(ordered)
    batches = [ordered[start : start + rows] for start in range(0, whole, rows)]
    tokens = passes = 0
    started = time.perf_counter()
    while (taken := time.perf_counter() - started) < seconds or not passes:
        for batch in batches:
            tokens += sum(answer.completion_tokens for answer in predictor.answer(batch))
        passes += 1
    taken = time.perf_counter() - started
    return {"tokens_per_s": tokens / taken, "seconds": taken, "passes": passes, "rows": rows}


def main() -> None:
    """Load, say so, and measure whatever is asked."""
    from serving.predictor import load

    folder, prompts, tokens = sys.argv[1:]
    predictor = load(Path(folder), {"max_new_tokens": int(tokens)})
    texts = json.loads(Path(prompts).read_text(encoding="utf-8"))
    ordered = order_by_length(predictor, [Request(text) for text in texts])
    print("ready", flush=True)
    for line in sys.stdin:
        rows, seconds = line.split()
        print(json.dumps(measure(predictor, ordered, int(rows), float(seconds))), flush=True)


if __name__ == "__main__":
    main()
