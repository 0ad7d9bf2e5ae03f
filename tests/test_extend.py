"""docs/extend.md is a change that applies: three files give one more quantizer and one more engine.

The functions named `try_…` run in a copy of the tree that has the change, in a process of its own.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from structure import ROOT
from tiny_models import write_model
from toy import SCHEMA, write_prepared

from serving.completion import Request
from serving.contract import read_contract, write_contract
from serving.errors import StillhouseError
from serving.predictor import load
from stages._io import read_json, read_jsonl, write_jsonl
from stages._params import check_params

GUIDE = ROOT / "docs/extend.md"
CONSISTENT = "deps_name_every or schema_agree or one_way"


def blocks(language):
    """Fenced blocks of the guide, in its order."""
    text = GUIDE.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def touched():
    """Files that the whole change touches."""
    return set(re.findall(r"^\+\+\+ b/(\S+)$", "".join(blocks("diff")), re.M))


def apply_change(tree):
    """Apply one block after the other, as a reader would."""
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(tree.parent)}
    for change in blocks("diff"):
        command = ["git", "apply", "-"]
        ended = subprocess.run(
            command, cwd=tree, input=change, env=environment, capture_output=True, text=True
        )
        assert not ended.returncode, f"docs/extend.md does not fit the code: {ended.stderr}"


def changed_tree(tree):
    """A copy of what the change needs, with the change and the schema written anew."""
    listed = ["git", "ls-files", "-co", "--exclude-standard"]
    wanted = ["stages", "serving", "tests", "docs", "configs", "*.yaml", "*.toml", "*.env"]
    names = subprocess.run([*listed, *wanted], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in names.stdout.splitlines():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tree / name)
    apply_change(tree)
    run(tree, "-m", "stages._profile", "--schema")
    return tree


def run(tree, *arguments):
    """Python in the copy, which finds the copy's modules."""
    environment = os.environ | {"PYTHONPATH": f"{tree}{os.pathsep}{tree / 'tests'}"}
    ended = subprocess.run(
        [sys.executable, *arguments], cwd=tree, env=environment, capture_output=True, text=True
    )
    assert not ended.returncode, ended.stdout[-3000:] + ended.stderr[-3000:]


def test_the_change_applies_and_touches_three_files(tmp_path):
    assert len(touched()) <= 3
    before = {}
    for name in touched():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        before[name] = shutil.copyfile(ROOT / name, tmp_path / name).read_text(encoding="utf-8")
    apply_change(tmp_path)
    after = {p.relative_to(tmp_path).as_posix(): p for p in tmp_path.rglob("*") if p.is_file()}
    assert after.keys() == touched()
    for name, path in after.items():
        text = path.read_text(encoding="utf-8")
        assert text != before[name]
        assert len(text.splitlines()) < 300
        compile(text, name, "exec")


def test_the_change_is_what_the_guide_says_it_is():
    quantizer, engine = blocks("diff")
    assert "nf4_clipped" in quantizer
    assert 'case "cascade"' in engine
    table = re.findall(r"^\| `([\w/.]+)` \|", GUIDE.read_text(encoding="utf-8"), re.M)
    assert set(table[:3]) == touched()
    with pytest.raises(StillhouseError, match="nf4_clipped"):  # it is not here already
        check_params({"quantize": {"variants": {"x": {"scheme": "nf4_clipped"}}}}, Path("p.yaml"))


@pytest.mark.slow
def test_the_new_quantizer_and_the_new_engine_work(tmp_path):
    tree = changed_tree(tmp_path / "tree")
    names = [str(tree / name) for name in touched()]
    run(tree, "-m", "ruff", "check", *names)
    run(tree, "-m", "ruff", "format", "--check", *names)
    run(tree, "-m", "pytest", "-q", "tests/test_consistency.py", "-k", CONSISTENT)
    run(tree, "-c", "import test_extend; test_extend.try_all()")


def try_all():
    """Both additions, in one process: it takes seconds to import torch."""
    for attempt in (try_refusals, try_rounding, try_quantizer, try_engine):
        attempt()


def try_refusals():
    """Settings that do not go with the scheme are told."""
    refused = (({"recovery": {}}, "does not round"), ({"engine": "ctranslate2"}, "has no scheme"))
    for wrong, said in refused:
        section = {"variants": {"x": {"scheme": "nf4_clipped", **wrong}}}
        with pytest.raises(StillhouseError, match=said):
            check_params({"quantize": section}, Path("params.yaml"))


def try_rounding():
    """No block is worse than in nf4, and normal weights are better by a tenth."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    from stages import _bitsandbytes

    def errors(made, weight, size):
        near = dequantize_4bit(*quantize_4bit(made, blocksize=size, quant_type="nf4"))
        return (near - weight).square().view(-1, size).sum(1)

    weight = torch.randn(96, 128, generator=torch.Generator().manual_seed(0))
    for size in (32, 64):
        made = (weight, _bitsandbytes.clipped(weight, size))
        plain, cut = (errors(each, weight, size) for each in made)
        assert (cut <= plain * 1.00001).all()
        assert 0.8 < cut.sum() / plain.sum() < 0.92
    ragged = weight[:3, :7]  # a last block that is not full, and one of zeros
    assert _bitsandbytes.clipped(ragged, 64).shape == ragged.shape
    assert not _bitsandbytes.clipped(torch.zeros(2, 64), 64).any()


def try_quantizer():
    """The stage makes the variant, counts it and finds the same answers after a reload."""
    from stages.quantize import quantize

    root = Path("made")
    write_prepared(root)
    write_model(root / "student", "gpt2", decoding={"max_new_tokens": 12}, slot_schema=SCHEMA)
    section = {"variants": {"clipped": {"scheme": "nf4_clipped"}}, "prompts": 4}
    params = check_params({"quantize": section, "run": {"threads": 1}}, Path("params.yaml"))
    inputs = {"student": root / "student", "teacher": root / "student"}
    inputs |= {f"{s}.jsonl": root / f"{s}.jsonl" for s in ("train", "validation")}
    folder = root / "variants/clipped"
    outputs = {"model": folder, "reports": root}
    report = quantize(params, inputs, outputs)
    assert report["coverage"]["parameters"] > 0.95
    assert report["round_trip"]["identical"]
    assert report["bytes"]["ratio"] < 0.35
    assert read_contract(folder).quantization["scheme"] == "nf4_clipped"
    config = read_json(folder / "config.json")["quantization_config"]
    assert config["bnb_4bit_quant_type"] == "nf4"
    assert len(load(folder).answer([Request("fish"), Request("dogs")])) == 2


def try_engine():
    """The guide's own program makes a cascade of a baseline and a student; both get to answer."""
    from stages.baseline import baseline

    models, made = Path("models"), Path("made/baseline")
    for split, rows in write_prepared(made).items():
        pies = [row for row in rows if row["slots"]["food"] == "pies"]
        for row in pies:  # of these nobody knows anything, so the baseline is unsure of them
            row["references"] = ["No idea."]
        write_jsonl(made / f"{split}.jsonl", rows)
    write_model(models / "student", decoding={"max_new_tokens": 12}, slot_schema=SCHEMA)
    inputs = {n: made / n for n in ("train.jsonl", "validation.jsonl", "slots.json")}
    params = check_params({"baseline": {"confidence_rows": 50, "jobs": 1}}, Path("params.yaml"))
    baseline(params, inputs, {"model": models / "baseline", "reports": made})
    (program,) = blocks("python")
    exec(program, {})
    requests = [Request(e["prompt"]) for e in read_jsonl(made / "test.jsonl")]
    first, second = (load(models / n).answer(requests) for n in ("baseline", "student"))
    sure = sorted({answer.confidence for answer in first})
    assert sure[0] < 0.5 < sure[-1]
    for line in (0.0, 0.5, 1):
        found = answers_from(models / "cascade", line, requests)
        pairs = zip(first, second, strict=True)
        assert found == [a.text if a.confidence >= line else b.text for a, b in pairs]
    for wrong in (None, 1.5, "high"):
        with pytest.raises(StillhouseError, match="must be a number from 0 to 1"):
            answers_from(models / "cascade", wrong, requests)


def answers_from(folder, sure_from, requests):
    """Answers of a cascade with another threshold; streamed they are the same."""
    contract = replace(read_contract(folder), decoding={"sure_from": sure_from})
    write_contract(folder, contract)
    predictor = load(folder)
    found = predictor.answer(requests)
    assert ["".join(predictor.stream(request)) for request in requests] == [a.text for a in found]
    assert predictor.answer([]) == []
    return [answer.text for answer in found]
