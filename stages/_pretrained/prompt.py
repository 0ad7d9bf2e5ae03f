"""How a model is spoken to: its chat template as a prompt template of ours, and its end token."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedTokenizerFast

from serving._prompts import PromptEncoder
from serving.completion import Request
from serving.errors import StillhouseError
from stages import _io
from stages._params import Pretrained
from stages._pretrained.files import said

PROBE, ANSWER = "some text", "an answer"
PLAIN = "{prompt}\n"
# Some chat templates write today's date; the same params must give the same prompt tomorrow.
NO_CLOCK = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}"
Messages = list[dict[str, str]]


def prompt_template(tokenizer: PreTrainedTokenizerFast, settings: Pretrained, folder: Path) -> str:
    """The settings' template, else the chat template's text around a prompt, else `PLAIN`."""
    chat = settings.template is None and tokenizer.chat_template is not None
    if chat:
        return _chat_template(tokenizer, settings, folder)
    if settings.system:
        raise StillhouseError(
            f"{settings.model}: a system message needs a chat template, and none is used here. "
            f"Write it into pretrained.template."
        )
    text, opening = settings.template or PLAIN, _opening(tokenizer)
    PromptEncoder(folder, text)  # checks the placeholder
    return text if text.startswith(opening) else opening + text


def _chat_template(tokenizer: PreTrainedTokenizerFast, settings: Pretrained, folder: Path) -> str:
    """The chat template's text around {prompt}, proved to give the tokens it gives itself."""
    template = _render(tokenizer, _messages(settings, "{prompt}"), ask=True)
    if settings.system and settings.system.strip() not in template:
        raise StillhouseError(
            f"{settings.model}: its chat template leaves the system message out. Write "
            f"pretrained.template by hand."
        )
    asked = _render(tokenizer, _messages(settings, PROBE), ask=True)
    expected = tokenizer(asked, add_special_tokens=False)["input_ids"]
    if PromptEncoder(folder, template).encode(Request(PROBE)) != expected:
        raise StillhouseError(
            f"{folder}: tokenizer.json reads the chat template's text as other tokens than the "
            f"tokenizer with its settings. Load it and save_pretrained it to a folder."
        )
    return template


def _messages(settings: Pretrained, prompt: str) -> Messages:
    system = [{"role": "system", "content": settings.system}] if settings.system else []
    return [*system, {"role": "user", "content": prompt}]


def _render(tokenizer: PreTrainedTokenizerFast, messages: Messages, ask: bool) -> str:
    """The chat template's text, without thoughts before the answer and without a clock."""
    from jinja2 import TemplateError

    try:
        template = tokenizer.get_chat_template()
        return str(
            tokenizer.apply_chat_template(
                messages,
                chat_template=NO_CLOCK + template if "strftime_now" in template else template,
                add_generation_prompt=ask,
                tokenize=False,
                enable_thinking=False,  # the answer is what a student learns
            )
        )
    except (TemplateError, ValueError, TypeError) as error:
        roles = ", ".join(message["role"] for message in messages)
        raise StillhouseError(
            f"{tokenizer.name_or_path}: the chat template refuses the roles {roles} "
            f"({said(error)}). Leave system out, or write pretrained.template by hand."
        ) from None


def _opening(tokenizer: PreTrainedTokenizerFast) -> str:
    """What the tokenizer puts before a plain text: the BOS, or nothing."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    starts = range(len(whole) - len(plain) + 1)
    start = next((n for n in starts if whole[n : n + len(plain)] == plain), 0)
    return "".join(tokenizer.convert_ids_to_tokens(whole[:start]))


def end_of(folder: Path) -> int:
    """The token that answers of the model in `folder` end with, in training and in labels."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    return end_token(tokenizer, config, folder)


def end_token(tokenizer: PreTrainedTokenizerFast, config: Any, folder: Path) -> int:
    """Of the tokens that end an answer, the one that ends a turn in the chat template, if any."""
    path = folder / "generation_config.json"
    settings = _io.read_json(path) if path.is_file() else {}
    values = [settings.get("eos_token_id"), config.get_text_config().eos_token_id]
    ends = [end for value in values for end in (value if isinstance(value, list) else [value])]
    ends = [end for end in (*ends, tokenizer.eos_token_id) if end is not None]
    if not ends:
        raise StillhouseError(
            f"{folder} names no end token (eos_token_id in generation_config.json or config.json), "
            f"so no answer would end. Add it there."
        )
    return int(next((token for token in _after_answer(tokenizer) if token in ends), ends[0]))


def _after_answer(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Tokens that the chat template puts after an answer; none where it takes none."""
    if tokenizer.chat_template is None:
        return []
    talk = (("user", PROBE), ("assistant", ANSWER))
    messages = [{"role": role, "content": text} for role, text in talk]
    with suppress(StillhouseError):
        _, found, after = _render(tokenizer, messages, ask=False).rpartition(ANSWER)
        ids: list[int] = tokenizer(after if found else "", add_special_tokens=False)["input_ids"]
        return ids
    return []
