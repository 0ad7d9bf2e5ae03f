"""A model in Hugging Face format is found, and asked as it was taught to be asked."""

import json

import pytest
from pretrained_base import BOS, CHATML, LLAMA, TURN_END, settings_of, write_base
from tiny_models import END

from serving._prompts import PromptEncoder
from serving.completion import Request
from serving.errors import StillhouseError
from stages import _pretrained

NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"


OTHER_TURNS = (
    "{% for m in messages %}{{ m.content }}"
    "{{ '<|im_end|>' if m.role == 'assistant' else '<|end|>' }}{% endfor %}"
)


def encoded(base, text="some text", **fields):
    return PromptEncoder(base.folder, base.template).encode(Request(text, **fields))


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("system", [None, "Answer in one sentence."])
@pytest.mark.parametrize("chat", [CHATML, LLAMA], ids=["chatml", "llama"])
def test_chat_template_gives_the_encoder_the_tokens_it_gives_itself(tmp_path, chat, system, bos):
    folder = write_base(tmp_path / "m", chat=chat, bos=bos)
    base = _pretrained.resolve(settings_of(folder, system=system), offline=True)
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": "some text"})
    expected = base.tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert encoded(base) == expected["input_ids"]
    assert encoded(base).count(base.tokenizer.bos_token_id) == (chat == LLAMA)
    assert encoded(base, f"a{TURN_END}b").count(base.tokenizer.convert_tokens_to_ids(TURN_END)) == (
        2 if system else 1
    )


@pytest.mark.parametrize("template", [None, "{prompt} =", BOS + "{prompt} ="])
def test_tokenizers_bos_opens_other_templates_exactly_once(tmp_path, template):
    folder = write_base(tmp_path / "m", bos=True)
    base = _pretrained.resolve(settings_of(folder, template=template), offline=True)
    text = "some text\n" if template is None else "some text ="
    assert encoded(base) == base.tokenizer(text)["input_ids"]
    assert encoded(base).count(base.tokenizer.bos_token_id) == 1


def test_neither_date_nor_thoughts_get_into_the_prompt(tmp_path):
    chat = "{{ strftime_now('%d %b %Y') }} " + CHATML
    chat += "{% if enable_thinking is false %}<think></think>{% endif %}"
    template = _pretrained.resolve(
        settings_of(write_base(tmp_path / "m", chat=chat)), True
    ).template
    assert template.startswith("26 Jul 2024 ")
    assert template.endswith("<think></think>")


def test_prompts_of_ours_go_where_the_chat_template_has_its_user(tmp_path):
    base = _pretrained.resolve(settings_of(write_base(tmp_path / "m", chat=CHATML)), offline=True)
    inner = _pretrained.surround(base, "{context}\nSay: {prompt}")
    nested = PromptEncoder(base.folder, inner).encode(Request("fish", context="Menu"))
    assert nested == encoded(base, "Menu\nSay: fish")
    with pytest.raises(StillhouseError, match=r"no special tokens, found <\|im_end\|>"):
        _pretrained.surround(base, "{prompt}" + TURN_END)


@pytest.mark.parametrize(
    ("chat", "end", "expected"),
    [
        (None, [END], END),
        (None, [], END),  # the tokenizer's own
        (CHATML, [END, TURN_END], TURN_END),
        (OTHER_TURNS, [END, TURN_END], TURN_END),
        (CHATML, [END], END),
        (None, [TURN_END, END], TURN_END),
    ],
)
def test_an_answer_ends_as_a_turn_of_the_chat_does(tmp_path, chat, end, expected):
    folder = write_base(tmp_path / "m", chat=chat, end=end)
    base = _pretrained.resolve(settings_of(folder, tuning="none"), offline=True)
    assert base.tokenizer.convert_ids_to_tokens(base.end) == expected
    model = _pretrained.load(base, settings_of(folder, tuning="none"), "sdpa")
    said = model.generation_config.eos_token_id
    assert set(base.tokenizer.convert_ids_to_tokens(said)) == {*end, expected}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"system": "Be short."}, "needs a chat template"),
        ({"system": "Be short.", "chat": NO_SYSTEM + CHATML}, "refuses the roles system, user"),
        (
            {"system": "Be short.", "chat": "{{ messages[-1].content }}"},
            "leaves the system message",
        ),
        ({"template": "no place"}, r"needs \{prompt\} exactly once"),
        ({"remove": "model.safetensors"}, "has no safetensors"),
        ({"remove": "tokenizer.json"}, r"has no tokenizer\.json"),
        ({"remove": "model.safetensors", "write": "pytorch_model.bin"}, "only pickled weights"),
        ({"write": "adapter_config.json"}, "holds an adapter"),
        ({"config": {"quantization_config": {"quant_method": "gptq", "bits": 4}}}, "quantized"),
        ({"config": {"model_type": "ours", "auto_map": {"AutoConfig": "x.C"}}}, "never run"),
    ],
    ids=lambda value: "",
)
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path, change, message):
    folder = write_base(tmp_path / "m", chat=change.pop("chat", None))
    if "remove" in change:
        (folder / change.pop("remove")).unlink()
    if "write" in change:
        (folder / change.pop("write")).write_text("{}")
    if "config" in change:
        config = json.loads((folder / "config.json").read_text()) | change.pop("config")
        (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(StillhouseError, match=message) as caught:
        _pretrained.resolve(settings_of(folder, **change), offline=True)
    assert "\n" not in str(caught.value)
