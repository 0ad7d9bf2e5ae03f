"""What an OpenAI-compatible server's bytes say: completions, pieces of a stream, its own errors.

The chat and the completions API differ in where the text stands; both shapes are read wherever they
come, because servers mix them. What cannot be read is an `AttemptError`, which says whether asking
again may help; nothing is made up for what a server leaves out.
"""

import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, Literal

import httpx

from serving.completion import Completion

NOT_COMPATIBLE = "Check base_url and api in endpoint.json: is this an OpenAI-compatible server?"
LARGEST_ANSWER = 32 << 20  # bytes; more is no answer to a prompt
ADVICE = {
    400: "Check model, decoding and the prompt's length against what the server takes.",
    401: "Put a valid key into the variable that api_key_env names in endpoint.json.",
    404: "Check base_url and model in endpoint.json.",
    429: "Lower concurrency in endpoint.json, or come back later.",
    500: "Come back later, or look into the server's log.",
}


class AttemptError(Exception):
    """What was wrong with one attempt, and whether it may pass by itself."""

    def __init__(
        self,
        found: str,
        advice: str = NOT_COMPATIBLE,
        *,
        again: bool = True,
        words: str = "",
        status: int = 200,
        after_s: float = 0.0,
    ) -> None:
        """`words` are the server's own and may quote the request; `after_s` is when to return."""
        super().__init__(found)
        self.found, self.advice, self.again = found, advice, again
        self.words, self.status, self.after_s = words, status, after_s


def read_body(response: httpx.Response, deadline: float) -> bytes:
    """A response's bytes, decompressed, by `deadline` [s, monotonic]; httpx limits silence only."""
    parts, size = [], 0
    for part in response.iter_bytes():
        parts.append(part)
        size += len(part)
        if size > LARGEST_ANSWER:
            raise AttemptError(f"an answer of more than {LARGEST_ANSWER >> 20} MiB")
        if time.monotonic() > deadline:
            raise httpx.ReadTimeout("")
    return b"".join(parts)


def check_status(response: httpx.Response, deadline: float) -> None:
    """Raise `AttemptError` for all but success, with the server's words and its wish to wait."""
    status = response.status_code
    if response.is_success:
        return
    if response.is_redirect:
        where = response.headers.get("location", "")
        advice = "Redirects are not followed: put the final address into endpoint.json."
        raise AttemptError(f"{status}, a redirect", advice, again=False, words=where, status=status)
    again = status in (408, 429) or status >= 500
    wish = response.headers.get("retry-after", "")
    after_s = float(wish) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]+)?", wish) else 0.0
    asked = f" and asks to wait {after_s:g} s" if after_s else ""
    body = read_body(response, deadline).decode(errors="replace")
    try:
        words = server_words(json.loads(body))
    except (ValueError, RecursionError):
        words = "" if body.lstrip().startswith("<") else body  # a page says nothing in one line
    advice = ADVICE.get(status, ADVICE[500] if again else ADVICE[400])
    advice = ADVICE[401] if status == 403 else advice
    raise AttemptError(
        f"{status}{asked}", advice, again=again, words=words, status=status, after_s=after_s
    )


def parse_json(body: bytes) -> dict[str, Any]:
    """The JSON object that `body` is; anything else is a fault."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise AttemptError("an answer that is not JSON") from None
    if not isinstance(data, dict):
        raise AttemptError(f"a JSON {type(data).__name__} instead of an object")
    return data


def token_counts(data: dict[str, Any]) -> tuple[int, int] | None:
    """Tokens of prompt and answers by the server's count, None where it does not tell."""
    usage = data.get("usage")
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(prompt) is not int or type(completion) is not int or min(prompt, completion) < 0:
        return None
    return prompt, completion


def read_completions(data: dict[str, Any]) -> list[Completion]:
    """The answers in one response, in the server's order.

    A server counts the tokens of all answers together; the count of one of several is its share by
    log-probabilities given, or by characters where there are none, so that they add up exactly.
    `content_filter` cut an answer like `length` did: it did not come to its own end.
    """
    choices = data.get("choices")
    if not isinstance(choices, list) or not choices:
        raise AttemptError("an answer without choices", words=server_words(data))
    counts = token_counts(data)
    if counts is None:
        raise AttemptError(
            "an answer without token counts (usage)",
            "Every answer is stored and paid by its tokens; use a server that reports them.",
            again=False,
        )
    texts = [_text(choice) for choice in choices]
    logprobs = [_logprobs(choice) for choice in choices]
    lengths = logprobs if all(logprobs) else texts
    tokens = _shares(counts[1], [1 + len(length) for length in lengths])
    return [
        Completion(
            text=text,
            prompt_tokens=counts[0],
            completion_tokens=count,
            finish_reason=_finish(choice),
            confidence=None,
            mean_logprob=sum(scores) / len(scores) if scores else None,
            min_logprob=min(scores, default=None),
        )
        for choice, text, scores, count in zip(choices, texts, logprobs, tokens, strict=True)
    ]


def read_piece(event: dict[str, Any]) -> tuple[str, bool]:
    """A stream's next piece of text (may be empty), and whether the answer ends with it."""
    if "error" in event:
        raise AttemptError("an error in the stream", words=server_words(event))
    choices = event.get("choices")
    if not isinstance(choices, list):
        raise AttemptError("a stream of another shape")
    if not choices:  # the event with the token counts
        return "", False
    if not isinstance(choices[0], dict):
        raise AttemptError("a stream of another shape")
    return _content(choices[0]) or "", choices[0].get("finish_reason") is not None


def read_events(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Data of each server-sent event (HTML standard, 9.2); one that is cut off is none.

    Lines end at line feeds only: inside JSON, U+2028 and U+0085 are text.
    """
    rest, data = b"", []
    for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        if len(rest) > LARGEST_ANSWER:
            raise AttemptError(f"a line of more than {LARGEST_ANSWER >> 20} MiB")
        for line in lines:
            name, _, value = line.removesuffix(b"\r").partition(b":")
            if name == b"data":
                data.append(value.removeprefix(b" "))
            elif not name and not value and data:
                yield b"\n".join(data)
                data = []


def server_words(data: Any) -> str:
    """What a server says about an error, in the shapes of OpenAI, FastAPI and plain ones."""
    said = data
    if isinstance(data, dict):
        said = data.get("error") or data.get("detail") or data.get("message")
    if isinstance(said, dict):
        said = said.get("message")
    if isinstance(said, list):  # FastAPI: one entry per mistake, each quoting the request
        said = "; ".join(str(item.get("msg")) for item in said if isinstance(item, dict))
    return said if isinstance(said, str) else ""


def hide(words: str, private: Sequence[str], run: int) -> str:
    """`words` on one line, with … for every `run` characters that also stand in a private text.

    Runs and not the whole text, because servers quote a part, escaped or cut off. Private texts of
    fewer than 4 characters give nothing away.
    """
    words = " ".join("".join(c if c.isprintable() else " " for c in words[:2000]).split())
    hidden: set[int] = set()
    for form in [form for text in private for form in (text, json.dumps(text)[1:-1])]:
        text = " ".join(form.split())
        size = min(run, len(text))
        runs = {text[i : i + size] for i in range(len(text) - size + 1)} if size >= 4 else set()
        for start in range(len(words) - size + 1):
            if words[start : start + size] in runs:
                hidden.update(range(start, start + size))
    shown = "".join("\0" if place in hidden else sign for place, sign in enumerate(words))
    return re.sub("\0+", "…", shown)


def _text(choice: Any) -> str:
    if not isinstance(choice, dict):
        raise AttemptError("a choice that is no object")
    content = _content(choice)
    if content is None and choice.get("finish_reason") == "stop":
        raise AttemptError("a choice without text")
    return content or ""  # cut before any text, for example while still reasoning


def _content(choice: dict[str, Any]) -> str | None:
    held = choice.get("message") or choice.get("delta")
    content = held.get("content") if isinstance(held, dict) else choice.get("text")
    if content is not None and not isinstance(content, str):
        raise AttemptError("a choice whose text is no text")
    return content


def _finish(choice: dict[str, Any]) -> Literal["stop", "length"]:
    match choice.get("finish_reason"):
        case "stop":
            return "stop"
        case "length" | "content_filter":
            return "length"
        case other:
            raise AttemptError("an unknown finish reason", words=str(other))


def _logprobs(choice: dict[str, Any]) -> list[float]:
    """Log-probabilities [nats] of the answer's tokens, empty where the server gives none."""
    held = choice.get("logprobs") or {}
    try:
        scores = [item["logprob"] for item in held.get("content") or []]
        scores = scores or list(held.get("token_logprobs") or [])
    except (AttributeError, KeyError, TypeError):
        raise AttemptError("log-probabilities of another shape") from None
    if not all(type(score) in (int, float) and math.isfinite(score) for score in scores):
        raise AttemptError("log-probabilities that are no numbers")
    return scores


def _shares(total: int, weights: Sequence[int]) -> list[int]:
    """Whole shares of `total` in proportion to `weights`; they add up to it."""
    reached = list(accumulate(weights))
    edges = [total * weight // reached[-1] for weight in reached]
    return [end - start for start, end in pairwise([0, *edges])]
