"""The tokenizer of teachers from scratch: nothing is lost, and special tokens are ours alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from serving._prompts import PromptEncoder, TextStream
from serving.completion import Request
from stages._tokenizer import (
    ANSWER,
    END,
    JOINER,
    PAD,
    PROMPT,
    TEMPLATE,
    TEMPLATE_WITH_CONTEXT,
    template_for,
    train_tokenizer,
)

SPECIAL = [PAD, PROMPT, ANSWER, END]
BYTES = 256
TEXTS = [
    "service[checkout-api], value[1.8 s], region[eu-west-1]",
    "The checkout-api service in Ireland answered after 1.8 s; no data was lost…",
    "At 09:42 UTC the latency of checkout-api rose to 1.8 s. Customers saw timeouts.",
]
# U+2060 joins words; a text's own is lost
plain_text = st.text().filter(lambda text: JOINER not in text)
any_text = plain_text | st.lists(st.sampled_from([*SPECIAL, "fish", "<|", " "])).map("".join)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 320)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def prompts(folder):
    return PromptEncoder(folder, TEMPLATE)


@settings(deadline=None)
@given(any_text)
def test_any_answer_comes_back_as_it_was(prompts, text):
    ids = prompts.encode_answer(text)
    assert prompts.decode(ids) == text
    assert not prompts.special & set(ids)


@settings(deadline=None)
@given(any_text)
def test_special_tokens_come_from_the_template_alone(prompts, text):
    ids = prompts.encode(Request(text))
    name = prompts.tokenizer.id_to_token
    assert [name(i) for i in ids if i in prompts.special] == [PROMPT, ANSWER]
    assert [name(ids[0]), name(ids[-1])] == [PROMPT, ANSWER]
    assert prompts.decode(ids) == text


@settings(deadline=None)
@given(st.text(alphabet="0123456789", min_size=1, max_size=12))
def test_a_number_is_made_of_its_digits(tokenizer, number):
    space, *digits = tokenizer.tokenize(number)
    assert (space, digits) == ("Ġ", list(number))


@pytest.mark.parametrize("before", ["", "The ", "[", "service[", "(", "up. “", "a/", "eu-"])
def test_a_word_has_the_same_tokens_wherever_it_stands(tokenizer, before):
    tokens = tokenizer.tokenize("checkout")
    assert tokens[0].startswith("Ġ") and len(tokens) < len("checkout")
    assert tokenizer.tokenize(before + "checkout]")[-len(tokens) - 1 : -1] == tokens


def test_a_joiner_of_the_text_itself_is_all_that_is_lost(prompts):
    text = f"fish{JOINER}and{JOINER}{JOINER}chips{JOINER}"
    assert prompts.decode(prompts.encode_answer(text)) == "fishandchips"


def test_a_streamed_answer_joins_to_the_whole(prompts):
    text = "(checkout-api) “in” eu-west-1: 1.8 s… 🐟 [x] " + ANSWER
    stream = TextStream(prompts)
    pieces = [stream.add(token) for token in prompts.encode_answer(text)]
    assert "".join([*pieces, stream.finish()]) == text
    assert sum(map(bool, pieces)) > 20


def test_the_same_texts_give_the_same_tokenizer():
    first, again, other = (
        train_tokenizer(iter(texts), 320).backend_tokenizer.to_str()
        for texts in (TEXTS, TEXTS, [text.upper() for text in TEXTS])
    )
    assert first == again
    assert first != other


def test_a_vocabulary_has_the_size_that_was_asked_for(tokenizer):
    assert len(tokenizer) == 320
    assert tokenizer.get_vocab() != train_tokenizer(TEXTS, 300).get_vocab()
    words = tokenizer.tokenize(" checkout-api")
    assert len(words) < len(" checkout-api"), "frequent words are few tokens"


@pytest.mark.parametrize("size", [1, 259])
def test_a_vocabulary_too_small_for_all_bytes_still_has_them(size, tmp_path):
    made = train_tokenizer(TEXTS, size)
    assert len(made) == BYTES + len(SPECIAL)
    made.save_pretrained(tmp_path)
    prompts = PromptEncoder(tmp_path, TEMPLATE)
    text = "".join(map(chr, range(300))) + "日本 🐟"
    assert prompts.decode(prompts.encode_answer(text)) == text


def test_no_text_at_all_still_makes_a_tokenizer():
    assert len(train_tokenizer([], 320)) == BYTES + len(SPECIAL)


def test_special_tokens_come_first_and_have_their_parts(tokenizer):
    assert tokenizer.convert_tokens_to_ids(SPECIAL) == [0, 1, 2, 3]
    assert tokenizer.eos_token == END
    assert tokenizer.pad_token == PAD
    assert tokenizer("fish").input_ids == tokenizer("fish", add_special_tokens=False).input_ids


def test_the_chat_template_says_what_our_template_says(folder, prompts):
    reloaded = AutoTokenizer.from_pretrained(folder)
    text = "service[checkout-api], value[1.8 s]"
    chat = [{"role": "system", "content": "Be short."}, {"role": "user", "content": text}]
    written = reloaded.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert written == TEMPLATE.replace("{prompt}", text)
    ids = reloaded.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    assert ids == prompts.encode(Request(text))


def test_a_context_gets_a_place_where_any_example_has_one():
    without = [{"prompt": "a"}, {"prompt": "b", "context": ""}, {"prompt": "c", "context": None}]
    assert template_for(without) == TEMPLATE
    assert template_for([*without, {"prompt": "d", "context": "fish"}]) == TEMPLATE_WITH_CONTEXT
    assert template_for([]) == TEMPLATE


def test_a_context_stands_before_its_prompt(folder):
    prompts = PromptEncoder(folder, TEMPLATE_WITH_CONTEXT)
    assert (
        prompts.decode(prompts.encode(Request("fish?", context="The menu."))) == "The menu.\nfish?"
    )
    assert prompts.decode(prompts.encode(Request("fish?"))) == "\nfish?"
