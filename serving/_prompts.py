"""From a request to token ids and back, the same for every engine and for training.

A prompt is the contract's template with the user's text in it. The template's special tokens are
ours; the user's text is only text: a prompt that spells `<|answer|>` gets those characters and
not the token, or it could end its own turn and speak for the model.

Works on `tokenizer.json` with the `tokenizers` library alone, so no engine needs torch for it.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.completion import Request
from serving.errors import StillhouseError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER_NAME = "tokenizer.json"
_PLACEHOLDER = re.compile(r"(\{prompt\}|\{context\}|\{shots\})")


def render(template: str, request: Request, shots: str = "") -> str:
    """The template filled in, all places at once: what a value spells is text and no place."""
    values = _values(request, shots)
    return "".join(values.get(part, part) for part in _PLACEHOLDER.split(template))


def _values(request: Request, shots: str) -> dict[str, str]:
    return {"{prompt}": request.prompt, "{context}": request.context or "", "{shots}": shots}


def _is_place(part: str) -> bool:
    return _PLACEHOLDER.fullmatch(part) is not None


class PromptEncoder:
    """Renders, encodes and decodes with one tokenizer and one template."""

    def __init__(self, folder: Path, template: str) -> None:
        """Load `folder`/tokenizer.json.

        Raises:
            StillhouseError: no readable tokenizer, or a template without `{prompt}`.
        """
        if template.count("{prompt}") != 1:
            raise StillhouseError(
                f"{folder}: the prompt template needs {{prompt}} exactly once, found {template!r}. "
                f"Correct it where the model was made."
            )
        self.template = template
        self.tokenizer = _load(folder)
        # A tokenizer of its own, because the setting is state that threads would share.
        self._plain = _load(folder)
        self._plain.encode_special_tokens = True
        added = self.tokenizer.get_added_tokens_decoder()
        self.special = frozenset(number for number, token in added.items() if token.special)
        self._parts = _PLACEHOLDER.split(template)
        self._fixed = [[] if _is_place(part) else self._encode(part) for part in self._parts]
        self._own_specials = self._specials([i for piece in self._fixed for i in piece])

    def encode(self, request: Request, shots: str = "") -> list[int]:
        """Token ids of the rendered prompt; special tokens come from the template alone.

        The whole text is encoded at once, as in training. Only where the user's text changes the
        special tokens is it encoded apart from the template, as plain text. `shots` are examples
        (serving/_shots.py), and text like the user's.
        """
        whole = self._encode(render(self.template, request, shots))
        if self._specials(whole) == self._own_specials:
            return whole
        values = _values(request, shots)
        ids: list[int] = []
        for part, fixed in zip(self._parts, self._fixed, strict=True):
            ids += self.encode_answer(values[part]) if _is_place(part) else fixed
        return ids

    def prefix(self) -> list[int]:
        """Token ids that every prompt begins with: the template's, before its first place.

        Without the last of them, which may become one token with the text that follows.
        """
        return self._fixed[0][:-1]

    def encode_answer(self, text: str) -> list[int]:
        """Token ids of an answer to learn from, as plain text and without an end token."""
        return self._plain.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        """Text of generated tokens, without special ones."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def _specials(self, ids: list[int]) -> list[int]:
        return [number for number in ids if number in self.special]


def true_size(tokenizer: Any) -> int:
    """Rows of vocabulary that a tokenizer uses, unused numbers in between included [count].

    A model's further rows are padding. `tokenizer` is one of `tokenizers` or of `transformers`.
    """
    return int(max(tokenizer.get_vocab().values())) + 1


def _load(folder: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    try:
        text = (folder / TOKENIZER_NAME).read_text(encoding="utf-8")
        tokenizer = Tokenizer.from_str(text)
    except FileNotFoundError:
        raise StillhouseError(
            f"{folder} has no {TOKENIZER_NAME}. Run the stage that makes this model again."
        ) from None
    except Exception as error:  # tokenizers raises bare Exception
        raise StillhouseError(
            f"{folder / TOKENIZER_NAME} is not a tokenizer ({error}). "
            f"Run the stage that makes this model again."
        ) from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


class TextStream:
    """Turns a growing list of tokens into pieces of text that join to the decoded whole."""

    def __init__(self, encoder: PromptEncoder) -> None:
        self._encoder = encoder
        self._ids: list[int] = []
        self._told = ""

    def add(self, token: int) -> str:
        """The text that is certain now; empty while a character lacks some of its bytes."""
        self._ids.append(token)
        text = self._encoder.decode(self._ids)
        return "" if text.endswith("\N{REPLACEMENT CHARACTER}") else self._tell(text)

    def finish(self) -> str:
        """What was held back."""
        return self._tell(self._encoder.decode(self._ids))

    def _tell(self, text: str) -> str:
        piece = text[len(self._told) :]
        self._told = text
        return piece
