"""A draft changes how fast the target's answer comes, and nothing of what it says."""

import shutil

import pytest
import torch
from tiny_models import CONTRACT, write_model

from serving._speculation import Counts, draft_and_verify
from serving._transformers_model import generation_config
from serving.completion import Request
from serving.contract import read_contract, write_contract
from serving.errors import StillhouseError
from serving.speculative_engine import SpeculativePredictor
from serving.transformers_engine import TransformersPredictor
from stages._speculative import assemble

TEXTS = ["fish", "name[The Eagle], food[fish]", "dogs", "eu-west-1 1.8"]
REQUESTS = [Request(text) for text in TEXTS]
EARLY_ENDS = frozenset(range(2, 300, 12))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A target with three drafts: a stranger, a near relative, and itself."""
    root = tmp_path_factory.mktemp("models")
    target = write_model(root / "target", seed=0)
    write_model(root / "stranger", seed=1)
    near = write_model(root / "near", seed=0)
    blurred = TransformersPredictor(near, CONTRACT, "cpu").model
    with torch.no_grad():
        for weight in blurred.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.manual_seed(2)), alpha=0.02)
    blurred.save_pretrained(near)
    write_contract(near, CONTRACT)
    shutil.copytree(target, root / "itself")
    for draft in ("stranger", "near", "itself"):
        assemble(target, root / draft, root / f"by_{draft}")
    return root


def predictor_of(folder, kind=SpeculativePredictor, ends=None):
    predictor = kind(folder, read_contract(folder), device="cpu")
    predictor.ends = ends or predictor.ends
    return predictor


@pytest.mark.parametrize("draft", ["stranger", "near", "itself"])
@pytest.mark.parametrize("ends", [None, EARLY_ENDS], ids=["long", "short"])
def test_answers_are_the_target_s_own(folders, draft, ends):
    alone = predictor_of(folders / "target", TransformersPredictor, ends).answer(REQUESTS)
    found = predictor_of(folders / f"by_{draft}", ends=ends).answer(REQUESTS)
    assert [a.text for a in found] == [a.text for a in alone]
    assert [a.completion_tokens for a in found] == [a.completion_tokens for a in alone]
    assert [a.finish_reason for a in found] == [a.finish_reason for a in alone]
    for one, other in zip(found, alone, strict=True):
        assert one.mean_logprob == pytest.approx(other.mean_logprob, abs=1e-4)


def test_a_better_draft_needs_fewer_passes(folders):
    accepted = {}
    for draft in ("stranger", "near", "itself"):
        predictor = predictor_of(folders / f"by_{draft}")
        predictor.answer(REQUESTS)
        accepted[draft] = predictor.statistics()["accepted_per_step"]
    assert accepted["stranger"] < accepted["near"] < accepted["itself"]
    # 24 tokens with drafts of 4, all accepted: 4 passes of 5 and one of 4
    assert predictor.statistics()["steps"] == 5 * len(REQUESTS)
    assert predictor.statistics()["tokens_per_step"] == pytest.approx(24 / 5)


def test_the_library_s_assisted_generation_gives_the_same_tokens(folders):
    predictor = predictor_of(folders / "by_near")
    prompt = predictor.encode(REQUESTS[:1])[0]
    models = (predictor.model, predictor.drafter, predictor.ends)
    steps = draft_and_verify(*models, prompt, (12, 4), Counts())
    ours = [token for step in steps for token, _ in step]
    settings = generation_config(predictor.ends, do_sample=False, max_new_tokens=12)
    ids = torch.tensor([prompt])
    theirs = predictor.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        generation_config=settings,
        assistant_model=predictor.drafter,
    )
    assert theirs[0, len(prompt) :].tolist() == ours


def test_a_draft_of_a_larger_vocabulary_proposes_no_token_that_the_target_lacks(folders):
    predictor = predictor_of(folders / "by_near")
    drafter = TransformersPredictor(folders / "near", CONTRACT, "cpu").model
    size = predictor.model.config.vocab_size
    drafter.resize_token_embeddings(size + 8, mean_resizing=False)
    with torch.no_grad():  # whatever is said, one of these rows is the likeliest
        rows = torch.randn(8, 32, generator=torch.manual_seed(1)) * 50
        drafter.get_input_embeddings().weight[size:] = rows
    prompt = predictor.encode(REQUESTS[:1])[0]
    models = (predictor.model, drafter, predictor.ends)
    steps = draft_and_verify(*models, prompt, (12, 4), Counts())
    alone = predictor.decode([prompt], REQUESTS[:1], 1)[0][0][0][:12]
    assert [token for step in steps for token, _ in step] == alone


def test_a_stream_joins_to_the_answer(folders):
    predictor = predictor_of(folders / "by_near")
    pieces = list(predictor.stream(REQUESTS[1]))
    assert len(pieces) > 1
    assert "".join(pieces) == predictor.answer([REQUESTS[1]])[0].text


def test_the_folder_s_contract_covers_both_models(folders, tmp_path):
    shutil.copytree(folders / "by_near", tmp_path / "both")
    contract = read_contract(tmp_path / "both")
    assert contract.engine == "speculative"
    assert contract.decoding == read_contract(folders / "target").decoding
    weights = tmp_path / "both/draft/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(StillhouseError, match=r"draft/model\.safetensors was changed"):
        read_contract(tmp_path / "both")


def test_models_of_different_tokens_or_engines_are_refused(folders, tmp_path):
    other = write_model(tmp_path / "other", prompt_template="Say: {prompt}")
    with pytest.raises(StillhouseError, match="tokenizers or prompt templates differ"):
        assemble(folders / "target", other, tmp_path / "both")
    wrong = write_model(tmp_path / "wrong", engine="ctranslate2")
    with pytest.raises(StillhouseError, match=r"has engine ctranslate2.*need transformers"):
        assemble(folders / "target", wrong, tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_a_folder_without_settings_is_told(folders, tmp_path):
    shutil.copytree(folders / "by_near", tmp_path / "both")
    contract = read_contract(tmp_path / "both")
    (tmp_path / "both/speculation.json").write_text("{}")
    with pytest.raises(StillhouseError, match=r"speculation\.json does not say"):
        SpeculativePredictor(tmp_path / "both", contract)
