"""From a base to a model that can be tuned, and from a tuned one back to one plain model."""

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from serving._prompts import true_size
from serving._transformers_model import generation_config
from serving.errors import StillhouseError
from stages._on_policy_models import end_tokens
from stages._optimizers import has_bf16
from stages._params import Adapter, Pretrained
from stages._pretrained.base import Base
from stages._pretrained.files import said

ADAPTER = "default"  # peft's name of the only one


def load(base: Base, settings: Pretrained, attention: str, seed: int = 0) -> Any:
    """The model, with gradients where `settings.tuning` has them; the seed draws an adapter.

    Stored bfloat16 stays for none and lora; anything else is held in float32, so that small
    updates are not rounded away. qlora holds its matrices in 4 bits, where training runs.

    Raises:
        StillhouseError: nothing loadable, missing weights, or adapter modules that do not exist.
    """
    model = _load_weights(base, settings, attention)
    if settings.tuning == "full" or model.config.dtype != torch.bfloat16:
        if settings.tuning != "qlora":
            model.float()
        model.config.dtype = torch.float32
    ends = {base.end} | end_tokens(model)
    # Everything that reads one of the two configurations stops alike, and `save_pretrained` cannot
    # fail over decoding settings that somebody else left there.
    others = sorted(ends - {base.end})  # the first one is what answers are trained to end with
    model.config.eos_token_id = [base.end, *others] if others else base.end
    model.generation_config = generation_config(frozenset(ends))
    model.requires_grad_(settings.tuning == "full")
    if settings.tuning == "qlora":
        model = _prepare_quantized(model)
    tuned = settings.tuning in ("lora", "qlora")
    return _adapted(model, settings.adapter, seed) if tuned else model


def _load_weights(base: Base, settings: Pretrained, attention: str) -> Any:
    library: Any = AutoModelForCausalLM  # its types leave out `output_loading_info`
    try:
        model, loading = library.from_pretrained(
            base.folder,
            dtype="auto",
            attn_implementation=attention,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **(_four_bits(_where_training_runs()) if settings.tuning == "qlora" else {}),
        )
    except Exception as error:  # config, safetensors and torch raise their own for a broken file
        raise StillhouseError(
            f"{base.folder} holds no model that transformers can load ({said(error)}). "
            f"Fetch or save it again."
        ) from error
    broken = sorted(map(str, (*loading["missing_keys"], *loading["mismatched_keys"])))
    if broken:
        raise StillhouseError(
            f"{base.folder} lacks {len(broken)} weights or has them in another shape "
            f"({broken[0]}). Fetch or save it again."
        )
    _check_vocabulary(base, model)
    return model


def _check_vocabulary(base: Base, model: Any) -> None:
    rows = model.get_output_embeddings().weight.shape[0]
    if true_size(base.tokenizer) > rows:
        raise StillhouseError(
            f"{base.folder}: the tokenizer has {true_size(base.tokenizer)} tokens, the model "
            f"{rows}; they do not belong together. Fetch or save it again."
        )


def _where_training_runs() -> torch.device:
    """bitsandbytes packs weights where they are to stay: Accelerate's device, if it has chosen."""
    from accelerate.state import AcceleratorState, is_initialized

    chosen: torch.device | None = AcceleratorState().device if is_initialized() else None
    return chosen or torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _four_bits(device: torch.device) -> dict[str, Any]:
    """NF4 with double quantization (Dettmers et al. 2023, arXiv:2305.14314)."""
    from transformers import BitsAndBytesConfig

    library: Any = BitsAndBytesConfig
    bf16 = has_bf16(device.type == "cpu")
    config = library(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if bf16 else torch.float32,
    )
    return {"quantization_config": config, "device_map": {"": device}}


def _prepare_quantized(model: Any) -> Any:
    import peft
    from bitsandbytes.nn.modules import Linear4bit

    library: Any = peft
    for module in model.modules():
        if isinstance(module, Linear4bit):
            # In evaluation mode it would repack weights for some CPUs, in a form without backward.
            module.support_avx512bf16_for_cpu = False
    model = library.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    model.activation_checkpointing_enable()
    return model


def _adapted(model: Any, adapter: Adapter, seed: int) -> Any:
    from peft import LoraConfig, get_peft_model

    wanted = [] if isinstance(adapter.modules, str) else list(adapter.modules)
    names = [name for name, module in model.named_modules() if name and _is_matrix(module)]
    head = model.get_output_embeddings()
    heads = [name for name, module in model.named_modules() if module is head]
    known = sorted({name.rpartition(".")[2] for name in names if name not in heads})
    if unknown := [name for name in wanted if name not in known]:
        # Not the head either: the loss reads its weight and would pass its adapter by.
        raise StillhouseError(
            f"adapter.modules {', '.join(unknown)}: this model has {', '.join(known)}. "
            f"Name some of these, or all-linear."
        )
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=wanted or "all-linear",
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )
    torch.manual_seed(seed)
    return get_peft_model(model, config)


def _is_matrix(module: Any) -> bool:
    return isinstance(module, (nn.Linear, Conv1D))  # Linear4bit is a Linear


@torch.no_grad()
def merged(model: Any) -> Any:
    """The model `load` gave as one plain causal model, in memory changed for good.

    Its adapter is added in float32 (4-bit matrices are unpacked first), then rounded once to the
    dtype the base is stored in. A model without adapter comes back as it is.
    """
    if not hasattr(model, "peft_config"):
        return model
    causal = model.get_base_model()
    if not getattr(causal, "is_loaded_in_4bit", False):
        return model.merge_and_unload().to(causal.config.dtype)
    adapters = {n: m for n, m in causal.named_modules() if hasattr(m, "get_delta_weight")}
    plain = model.unload()
    _unpack(plain, adapters)
    plain.activation_checkpointing_disable()
    plain.disable_input_require_grads()
    plain.hf_quantizer.remove_quantization_config(plain)
    plain.is_loaded_in_4bit = False
    return plain.to(plain.config.dtype)


def _unpack(model: Any, adapters: dict[str, Any]) -> None:
    """Replace every 4-bit matrix by the layer it was, with its part of the adapter added.

    One matrix at a time is in float32: all of them would take four bytes a weight, twice.
    """
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn.modules import Linear4bit

    conv: Any = Conv1D
    packed: list[tuple[str, Any]]
    packed = [(n, m) for n, m in model.named_modules() if isinstance(m, Linear4bit)]
    for name, module in packed:
        weight = dequantize_4bit(module.weight.data, module.weight.quant_state).float()
        if name in adapters:
            weight += adapters[name].get_delta_weight(ADAPTER).float().to(weight.device)
        weight = weight.to(model.config.dtype)
        outputs, inputs = weight.shape
        with torch.device("meta"):
            if issubclass(module.source_cls, Conv1D):  # GPT-2's, the other way round
                plain: Any = conv(outputs, inputs)
                weight = weight.T.contiguous()
            else:
                plain = nn.Linear(inputs, outputs, bias=module.bias is not None)
        plain.weight = nn.Parameter(weight, requires_grad=False)
        if module.bias is not None:
            plain.bias = nn.Parameter(module.bias.data, requires_grad=False)
        model.set_submodule(name, plain)
