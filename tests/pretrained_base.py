"""Small random models in Hugging Face format, with or without a chat template and a BOS."""

import torch
from tiny_models import END, tiny_config, tiny_tokenizer
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from stages._params import Pretrained

BOS, TURN, TURN_END = "<s>", "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n\n' }}"
    "{{ message['content'] | trim }}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{% endif %}"
)


def settings_of(folder, **changes):
    return Pretrained(model=str(folder), **changes)


def write_base(folder, kind="llama", chat=None, bos=False, end=END, **changes):
    """A random model of width 64, which 4-bit blocks of 64 fit, with or without chat and BOS."""
    tokenizer = Tokenizer.from_str(tiny_tokenizer().to_str())
    tokenizer.add_special_tokens([BOS, TURN, TURN_END])
    if bos:
        pair = [(BOS, tokenizer.token_to_id(BOS))]
        tokenizer.post_processor = TemplateProcessing(single=f"{BOS} $A", special_tokens=pair)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=BOS)
    fast.chat_template = chat
    fast.save_pretrained(folder)
    config = tiny_config(kind)
    config.vocab_size, config.hidden_size = tokenizer.get_vocab_size(), 64
    ends = [end] if isinstance(end, str) else end
    config.eos_token_id = [tokenizer.token_to_id(name) for name in ends] or None
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.15)  # so that answers differ from prompt to prompt
    model.save_pretrained(folder)
    return folder
