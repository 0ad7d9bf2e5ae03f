"""configs/hub.yaml from end to end, with small random models in the hub's format."""

import os
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from pretrained_base import CHATML, write_base
from ruamel.yaml import YAML
from structure import ROOT, read_yaml

from stages._io import read_json
from stages._params import check_params
from stages._profile import merge

HUB = ROOT / "configs/hub.yaml"
LONG = {"max_position_embeddings": 1024}
# Only sizes: what is loaded, tuned, distilled and packed, and how, is the profile's own.
SMALL = {
    "prepare": {
        "incidents": {
            "train_prompts": 120,
            "validation_prompts": 24,
            "calibration_prompts": 60,
            "test_prompts": 40,
        }
    },
    "baseline": {"confidence_rows": 60},
    "teacher": {
        "training": {"steps": 4, "batch_tokens": 512, "micro_batch_tokens": 256},
        "generation": {"max_new_tokens": 24},
    },
    "label": {
        "train_prompts": 40,
        "pool_prompts": 20,
        "max_slot_errors": None,  # models of random weights get no answer right, or to its end
        "gold": True,
        "generation": {"max_new_tokens": 24},
    },
    "distill": {
        "recipes": {"student": {"sources": ["train", "pool", "gold"]}},
        "training": {"steps": 4, "batch_tokens": 512, "micro_batch_tokens": 256},
        "generation": {"max_new_tokens": 24},
    },
    "quantize": {
        "variants": {"int8": None, "ct2_int8": None},
        "prompts": 4,
        "min_coverage": 0.5,  # norms and biases weigh more in 64 channels
    },
    "answer": {"candidates": {"int8": None, "ct2_int8": None}},
    "detectors": {"max_texts": 20, "resamples": 100},
    "evaluate": {"metrics": ["bleu", "slot_error_rate", "perplexity"], "resamples": 100},
    "ladder": {"resamples": 100},
    "benchmark": {"prompts": 4, "seconds": 0.05, "batch_sizes": [1]},
    "select": {
        "resamples": 100,
        "gates": {"min_prompts": 20, "bleu_ratio": None, "slot_error_rate_rise": None},
    },
    "package": {"golden_requests": 8},
    "plant": {"rows": 40},
    "drift": {"embeddings": False, "calibration": {"repeats": 2, "most_rows": 40}},
}


def make_project(root, models):
    """The tree with the profile over its params.yaml, and `models` in place of the hub's."""
    listed = ["git", "ls-files", "-co", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in names.stdout.splitlines():
        if name != "dvc.lock" and (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, root / name)
    params = read_yaml(ROOT / "params.yaml")
    for overlay in (read_yaml(HUB), SMALL):
        merge(params, overlay)
    for section, folder in models.items():
        params[section]["pretrained"] |= {"model": str(folder), "revision": None}
    params["run"]["threads"] = 1
    text = StringIO()
    YAML().dump(params, text)
    (root / "params.yaml").write_text(text.getvalue())
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)


def repro(root):
    """`dvc repro` of all stages; the last lines of what it said where it failed."""
    quiet = {"STILLHOUSE_TRACKING": "off", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    binary = str(Path(sys.executable).parent)
    ended = subprocess.run(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=root,
        env=os.environ | quiet | {"PATH": f"{binary}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert not ended.returncode, ended.stdout[-2000:] + ended.stderr[-2000:]


def test_the_profile_names_models_by_commit_and_may_reach_the_hub():
    overlay, params = read_yaml(HUB), read_yaml(ROOT / "params.yaml")
    merge(params, overlay)
    checked = check_params(params, HUB)
    assert not checked.run.offline
    for found in (checked.teacher.pretrained, checked.distill.pretrained):
        assert len(found.revision) == 40


@pytest.mark.slow
def test_the_whole_graph_runs_on_small_models_in_the_hub_s_format(tmp_path):
    models = {
        "teacher": write_base(
            tmp_path / "big", "qwen2", chat=CHATML, intermediate_size=192, **LONG
        ),
        "distill": write_base(tmp_path / "small", "qwen2", chat=CHATML, **LONG),
    }
    root = tmp_path / "project"
    make_project(root, models)

    repro(root)

    teacher = read_json(root / "models/teacher/contract.json")
    assert teacher["base_model"] == models["teacher"].name
    variant = read_json(root / "models/variants/nf4/contract.json")
    assert variant["quantization"]["scheme"] == "nf4"
    packed = read_json(root / "reports/package/release.json")
    assert {"requests": 8, "identical": 8}.items() <= packed["golden_parity"].items()
    assert (root / "models/bento/cpu.bento").is_file()
