"""A byte-level BPE tokenizer trained on the prepared data, for teachers that start from scratch.

Byte-level BPE as in GPT-2 (Sennrich et al. 2016; Radford et al. 2019): every text can be encoded.
Digits stand alone, so that a number which was never seen is made of known tokens.

There, a word has other tokens after a space than after a bracket or at the start of a text, so
copying `[CPU usage]` into a sentence means translating its first token. Here every word has the
tokens of a word after a space: where there is none, a joiner says so (as the joiner annotation of
OpenNMT's tokenizer does). The joiner is U+2060, word joiner, which a text of its own loses; it
has no width.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, PROMPT, ANSWER, END = "<|pad|>", "<|prompt|>", "<|answer|>", "<|end|>"
JOINER = "\u2060"
TEMPLATE = f"{PROMPT}{{prompt}}{ANSWER}"
# So that OpenAI-compatible servers can serve such a teacher; one turn, as it was trained.
CHAT_TEMPLATE = PROMPT + "{{ messages[-1]['content'] }}" + ANSWER
TEMPLATE_WITH_CONTEXT = f"{PROMPT}{{context}}\n{{prompt}}{ANSWER}"


def train_tokenizer(texts: Iterable[str], size: int) -> "PreTrainedTokenizerFast":
    """A tokenizer of `size` tokens (256 bytes and four special ones at least).

    The same texts in the same order give the same tokenizer.
    """
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(r"(?<=[^\w\s])(?=\p{L})"), f"{JOINER} "),
            normalizers.Prepend(" "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.ByteLevel(),
            decoders.Replace(f"{JOINER} ", ""),
            decoders.Replace(JOINER, ""),  # at the end of a text that is not finished
            decoders.Strip(" ", 1, 0),
        ]
    )
    trainer = BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, PROMPT, ANSWER, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    library: Any = PreTrainedTokenizerFast
    made = library(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD)
    made.chat_template = CHAT_TEMPLATE
    return cast("PreTrainedTokenizerFast", made)


def template_for(examples: Iterable[Mapping[str, Any]]) -> str:
    """The text around a prompt, with a place for a context where any example has one."""
    return TEMPLATE_WITH_CONTEXT if any(e.get("context") for e in examples) else TEMPLATE
