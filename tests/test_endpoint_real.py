"""The endpoint engine against a server that others wrote: `transformers serve` on loopback."""

from dataclasses import replace

import pytest
from endpoint_server import (
    SETTINGS,
)
from real_endpoint import plain_model, serving
from tiny_models import TEMPLATE

from serving.completion import Request
from serving.contract import write_contract
from serving.endpoint_settings import write_settings
from serving.predictor import load


@pytest.mark.slow
def test_transformers_serve_answers_what_the_transformers_engine_answers(tmp_path):
    folder = plain_model(tmp_path / "model")
    engine = load(folder)
    texts = [
        "fish",
        "name[The Eagle], food[fish]",
        "dogs",
        "The Mill serves curry",
        "eu-west-1 1.8",
    ]
    requests = [Request(text) for text in texts]
    expected = engine.answer(requests)
    assert len({c.text for c in expected}) == len(texts)
    with serving(folder, tmp_path / "log") as url:
        for api, template in (("chat", "{prompt}"), ("completions", TEMPLATE)):
            described = tmp_path / api
            described.mkdir()
            settings = replace(SETTINGS, base_url=url, model=str(folder), api=api, timeout_s=60.0)
            write_settings(described, replace(settings, logprobs=True))
            contract = replace(engine.contract, engine="endpoint", prompt_template=template)
            write_contract(described, replace(contract, files={}))
            predictor = load(described)
            found = predictor.answer(requests)
            assert [c.text for c in found] == [c.text for c in expected]
            for ours, theirs in zip(expected, found, strict=True):
                assert ours.prompt_tokens == theirs.prompt_tokens
                assert ours.completion_tokens == theirs.completion_tokens
                assert ours.finish_reason == theirs.finish_reason
                assert theirs.mean_logprob is None, "the server gives none although asked"
            assert "".join(predictor.stream(requests[1])) == expected[1].text
            assert "does not list" in predictor.check(), "folders are served but not listed"
            predictor.close()
