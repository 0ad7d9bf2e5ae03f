"""What fits is computed from the model's shape and the least memory that applies."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from tiny_models import CONTRACT, tiny_config

from serving._free_memory import FreeMemory, free_memory
from serving._token_budget import KEEP_FREE_SHARE, compute_budget, read_shape, token_cost
from serving.errors import StillhouseError

MB = 1_000_000
SHAPE = {
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_size": 32,
    "intermediate_size": 64,
}
# By hand: keys and values of 3 layers; one layer's scores, vectors and feed-forward layer.
KV = 3 * 2 * 2 * 16
WORK = 4 * 48 + 2 * (32 + 4 * 16) + 2 * 64
GPT2 = {"n_layer": 2, "n_head": 4, "n_embd": 32, "n_inner": None}
CTRANSLATE2 = replace(CONTRACT, engine="ctranslate2")


def folder_with(root, **config):
    root.mkdir(exist_ok=True)
    (root / "config.json").write_text(json.dumps(config))
    return root


def memory(size):
    return FreeMemory(size, "mem_available", {"mem_available": size})


def linux(root, cgroup, files, available_kb=9000):
    """/proc and /sys/fs/cgroup as `free_memory` reads them."""
    contents = {
        "proc/self/cgroup": cgroup,
        "proc/meminfo": f"MemTotal: 10000 kB\nMemAvailable:    {available_kb} kB\n",
        **{f"cgroup/{name}": content for name, content in files.items()},
    }
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return {"proc": root / "proc", "cgroups": root / "cgroup"}


@pytest.mark.parametrize(
    ("contract", "config", "kv", "number"),
    [
        (CONTRACT, {"dtype": "float32"}, 4 * KV, 4),
        (CONTRACT, {"torch_dtype": "bfloat16"}, 2 * KV, 2),
        (CONTRACT, {}, 4 * KV, 4),
        (replace(CONTRACT, quantization={"dtype": "float16"}), {"dtype": "float32"}, 2 * KV, 2),
        (replace(CONTRACT, decoding={"cache": "quantized"}), {}, 3 * 2 * 2 * (16 + 4), 4),
        # CTranslate2 keeps grouped heads repeated, here 4 for 2, in the type it computes in.
        (CTRANSLATE2, {}, 4 * 2 * KV, 4),
        (replace(CTRANSLATE2, quantization={"dtype": "int8"}), {}, 4 * 2 * KV, 4),
        (replace(CTRANSLATE2, quantization={"dtype": "int8_float16"}), {}, 2 * 2 * KV, 2),
    ],
)
def test_a_tokens_cost_follows_from_the_models_shape(tmp_path, contract, config, kv, number):
    cost = token_cost(folder_with(tmp_path, **SHAPE, **config), contract)
    assert (cost.kv_bytes, cost.work_bytes, cost.number_bytes) == (kv, WORK * number, number)
    assert cost.bytes == kv + WORK * number


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2"])
def test_the_shape_is_read_as_transformers_writes_it(tmp_path, kind):
    tiny_config(kind).save_pretrained(tmp_path)
    shape = read_shape(tmp_path, "transformers")
    kv_heads = 4 if kind == "gpt2" else 2
    assert (shape.layers, shape.heads, shape.kv_heads, shape.head_width) == (2, 4, kv_heads, 8)
    assert (shape.width, shape.feed_forward) == (32, 128 if kind == "gpt2" else 64)


def test_the_text_part_of_a_model_that_reads_images_counts(tmp_path):
    folder = folder_with(tmp_path, text_config=SHAPE, hidden_size=999)
    assert read_shape(folder, "transformers").width == 32


def test_the_budget_is_what_fits_into_the_share_that_is_not_kept(tmp_path):
    budget = compute_budget(
        folder_with(tmp_path, **SHAPE), CONTRACT, memory(MB), keep_free_share=0.5
    )
    token = 4 * (KV + WORK)
    assert (budget.usable_bytes, budget.row_tokens) == (MB // 2, 48 + 24)
    assert budget.tokens == budget.tokens_that_fit == MB // 2 // token
    assert budget.rows == budget.rows_that_fit == MB // 2 // token // 72
    assert json.loads(json.dumps(budget.to_dict()))["cost"]["shape"]["layers"] == 3


def test_a_persons_limits_win_where_they_are_lower(tmp_path):
    folder = folder_with(tmp_path, **SHAPE)
    budget = compute_budget(folder, CONTRACT, memory(MB), max_tokens=100, max_rows=2)
    assert (budget.tokens, budget.rows) == (100, 2)
    assert budget.tokens_that_fit > 100 and budget.rows_that_fit > 2


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"max_tokens": 10**6}, "tokens under way is 1000000; from 72 to 270"),
        ({"max_tokens": 71}, "tokens under way is 71"),
        ({"max_rows": 4}, "rows of a batch is 4; from 1 to 3"),
        ({"max_rows": 0}, "rows of a batch is 0"),
        ({"keep_free_share": 1}, "from 0 to below 1, found 1"),
        ({"keep_free_share": -0.1}, "from 0 to below 1, found -0.1"),
    ],
)
def test_limits_that_do_not_fit_are_refused(tmp_path, limits, said):
    folder, settings = folder_with(tmp_path, **SHAPE), {"keep_free_share": 0.0, **limits}
    with pytest.raises(StillhouseError, match=said):
        compute_budget(folder, CONTRACT, memory(270 * 4 * (KV + WORK)), **settings)


def test_memory_for_less_than_one_row_is_refused(tmp_path):
    with pytest.raises(
        StillhouseError, match=r"room for 72 tokens .*, and 54 fit .*\(mem_available"
    ):
        compute_budget(folder_with(tmp_path, **SHAPE), CONTRACT, memory(72 * 4 * (KV + WORK)))


@pytest.mark.parametrize(
    ("contract", "config", "said"),
    [
        (CTRANSLATE2, {"max_positions": 96}, "lacks num_hidden_layers, num_attention_heads"),
        (CONTRACT, {**SHAPE, "hidden_size": "32"}, "lacks hidden_size"),
        (CONTRACT, {**SHAPE, "dtype": "float8"}, "computes in 'float8'"),
        (replace(CONTRACT, engine="baseline"), SHAPE, "has the engine 'baseline'"),
    ],
)
def test_a_folder_that_does_not_say_its_shape_is_refused(tmp_path, contract, config, said):
    with pytest.raises(StillhouseError, match=said):
        token_cost(folder_with(tmp_path, **config), contract)


@pytest.mark.parametrize("content", [None, "{", "\xff"])
def test_a_config_that_is_no_json_is_refused(tmp_path, content):
    if content:
        (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(StillhouseError, match="not readable as JSON"):
        token_cost(tmp_path, CONTRACT)


def test_version_2_counts_the_lowest_limit_up_to_the_root(tmp_path):
    files = {
        "a/b/memory.max": "max\n",
        "a/b/memory.high": "max\n",
        "a/b/memory.current": "70000\n",
        "a/memory.max": "900000\n",
        "a/memory.high": "800000\n",
        "a/memory.current": "500000\n",
        "a/memory.stat": "anon 1\ninactive_file 100000\nactive_file 7\n",
        "memory.max": "2000000\n",
        "memory.current": "600000\n",
    }
    found = free_memory(**linux(tmp_path, "0::/a/b\n", files))
    assert (found.free_bytes, found.source) == (400000, "cgroup_v2")
    assert found.bounds_bytes == {"cgroup_v2": 400000, "mem_available": 9000 * 1024}


def test_version_1_is_read_where_the_path_is_the_hosts(tmp_path):
    files = {
        "memory/memory.limit_in_bytes": "900000\n",
        "memory/memory.usage_in_bytes": "500000\n",
        "memory/memory.stat": "inactive_file 5\ntotal_inactive_file 50000\n",
    }
    cgroup = "8:cpu,cpuacct:/docker/x\n4:hugetlb,memory:/docker/x\n0::/docker/x\n"
    found = free_memory(**linux(tmp_path, cgroup, files))
    assert (found.free_bytes, found.source) == (450000, "cgroup_v1")


def test_no_limit_leaves_what_the_machine_has(tmp_path):
    files = {
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
        "memory/memory.usage_in_bytes": "500000\n",
    }
    found = free_memory(**linux(tmp_path, "4:memory:/\n0::/../x\n", files))
    assert (found.free_bytes, found.source) == (9000 * 1024, "mem_available")


def test_a_cgroup_above_its_limit_has_nothing_free(tmp_path):
    files = {"memory.max": "100\n", "memory.current": "200\n"}
    assert free_memory(**linux(tmp_path, "0::/\n", files)).free_bytes == 0


def test_a_device_counts_alone(tmp_path):
    found = free_memory(123, **linux(tmp_path, "0::/\n", {}))
    assert found == FreeMemory(123, "cuda", {"cuda": 123})


def test_a_machine_that_says_nothing_is_refused(tmp_path):
    with pytest.raises(StillhouseError, match="nothing says how many requests fit"):
        free_memory(proc=tmp_path, cgroups=tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_machine_says_what_is_free():
    assert free_memory().free_bytes > 0


# A process of its own, so that the peak is the batch's; [rows, prompt, answer] are arguments.
PEAK = """
import sys
import ctranslate2

def kilobytes(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name))

rows, prompt, answer = map(int, sys.argv[2:])
generator = ctranslate2.Generator(sys.argv[1], intra_threads=1, inter_threads=1)
generator.forward_batch([["5"] * 4])
before = kilobytes("VmRSS")
settings = {"max_length": answer, "min_length": answer, "include_prompt_in_result": False}
generator.generate_batch([["5"] * prompt] * rows, **settings)
print((kilobytes("VmHWM") - before) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("prompt", "answer"), [(64, 64), (512, 64)])
def test_a_batch_takes_what_was_computed_and_leaves_what_is_kept(tmp_path, prompt, answer):
    pytest.importorskip("ctranslate2")
    from converted_models import write_converted, write_shape

    wide = {**SHAPE, "num_hidden_layers": 8, "num_attention_heads": 8, "head_dim": 64}
    write_shape(tmp_path / "plain", "llama", **wide, max_position_embeddings=1024)
    write_converted(tmp_path / "model", tmp_path / "plain")
    contract = replace(CTRANSLATE2, limits={"max_prompt_tokens": prompt})
    cost = token_cost(folder_with(tmp_path / "shape", **wide), contract)
    rows = 4096 // (prompt + answer)
    command = [sys.executable, "-c", PEAK, str(tmp_path / "model")]
    asked = [str(number) for number in (rows, prompt, answer)]
    ended = subprocess.run([*command, *asked], capture_output=True, text=True, check=True)
    computed = rows * (prompt + answer) * cost.bytes
    assert 0.6 * computed < int(ended.stdout) < computed / (1 - KEEP_FREE_SHARE)
