"""A model on this machine, and how it is spoken to."""

from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig, PreTrainedTokenizerFast

from serving.errors import StillhouseError
from stages._params import Pretrained
from stages._pretrained.files import check_files, locate, said
from stages._pretrained.prompt import end_token, prompt_template

UNSAID_POSITIONS = 2048  # of models that name no limit


@dataclass(frozen=True)
class Base:
    """A model on this machine, and how it is spoken to."""

    tokenizer: PreTrainedTokenizerFast
    template: str
    """For serving/_prompts.py over `folder`/tokenizer.json; a BOS is part of it."""
    end: int
    """Id of the token that ends an answer."""
    positions: int
    """Longest prompt and answer together [tokens]."""
    revision: str | None
    """Commit on the hub; None for a local folder."""
    folder: Path


def resolve(settings: Pretrained, offline: bool) -> Base:
    """Find the model, in a local folder, the hub's cache or (unless `offline`) on the hub.

    Raises:
        StillhouseError: no such model or revision, weights that are pickled or quantized, no
            tokenizer.json, or a chat template that does not fit the settings.
    """
    folder, revision = locate(settings, offline)
    check_files(folder)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # these libraries raise their own for a broken file
        raise StillhouseError(
            f"{folder} cannot be read ({said(error)}). Code that comes with a model is never run; "
            f"name a model that transformers knows, or save this one again."
        ) from error
    if getattr(config, "quantization_config", None) is not None:
        raise StillhouseError(
            f"{folder} holds quantized weights. Name the model that they were made from; tuning: "
            f"qlora holds it in 4 bits by itself."
        )
    limit = getattr(config.get_text_config(), "max_position_embeddings", None) or UNSAID_POSITIONS
    template = prompt_template(tokenizer, settings, folder)
    end = end_token(tokenizer, config, folder)
    return Base(tokenizer, template, end, int(limit), revision, folder)


def surround(base: Base, text: str) -> str:
    """The base's template with `text`, which has {prompt} in it, where the prompt goes.

    Raises:
        StillhouseError: `text` spells a special token, which could end the user's turn.
    """
    added = base.tokenizer.added_tokens_decoder.values()
    special = [token.content for token in added if token.special and token.content in text]
    if special or text.count("{prompt}") != 1:
        raise StillhouseError(
            f"{text!r}: expected {{prompt}} exactly once and no special tokens, found "
            f"{', '.join(special) or 'none'}. Those belong into pretrained.template."
        )
    return base.template.replace("{prompt}", text)
