"""A small model is computed by one thread, whatever is allowed; a large one by all that are."""

import pytest
import torch
from converted_models import write_converted
from threadpoolctl import threadpool_limits
from tiny_models import write_model

from serving import _threads, transformers_engine
from serving._ctranslate2_model import load_generator
from serving.contract import read_contract
from serving.transformers_engine import TransformersPredictor
from stages._optimizers import limit_threads


@pytest.fixture(autouse=True)
def two_threads():
    """Allow two, and put back what was before."""
    before = torch.get_num_threads()
    with threadpool_limits(2):
        torch.set_num_threads(2)
        yield
    torch.set_num_threads(before)


def threads_after_loading(folder):
    predictor = TransformersPredictor(folder, read_contract(folder), device="cpu")
    assert predictor.threads == torch.get_num_threads()
    return predictor.threads


def test_the_transformers_engine_answers_with_one_thread_where_the_model_is_small(
    tmp_path, monkeypatch
):
    folder = write_model(tmp_path / "model")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads_after_loading(folder) == 1
    monkeypatch.setattr(_threads, "SHARED_FROM_BYTES", 1)
    assert threads_after_loading(folder) == 2, "what a small model took away"


def test_the_ctranslate2_engine_answers_with_one_thread_where_the_model_is_small(
    tmp_path, monkeypatch
):
    ctranslate2 = pytest.importorskip("ctranslate2")
    asked, generator = [], ctranslate2.Generator

    def make(*arguments, intra_threads, **named):
        asked.append(intra_threads)
        return generator(*arguments, intra_threads=intra_threads, **named)

    folder = tmp_path / "converted"
    write_converted(folder, write_model(tmp_path / "model"))
    monkeypatch.setattr(ctranslate2, "Generator", make)
    for allowed, least in (("2", 1 << 40), ("2", 1), ("", 1)):
        monkeypatch.setenv("OMP_NUM_THREADS", allowed)
        monkeypatch.setattr(_threads, "SHARED_FROM_BYTES", least)
        load_generator(folder, read_contract(folder), "cpu")
    assert asked == [1, 2, 0]  # 0: the library's choice


@pytest.mark.parametrize(("width", "threads"), [(999, 1), (1000, 2)])
def test_training_shares_a_model_of_four_megabytes_and_more(width, threads, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    model = torch.nn.Linear(1000, width, bias=False)
    limit_threads(model, torch.device("meta"))
    assert torch.get_num_threads() == 2  # another device has threads of its own
    limit_threads(model, torch.device("cpu"))
    assert torch.get_num_threads() == threads


def test_answers_do_not_depend_on_the_threads_that_are_allowed(tmp_path):
    folder = write_model(tmp_path / "model")
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        predictor = TransformersPredictor(folder, read_contract(folder), device="cpu")
        found.append(predictor.answer([transformers_engine.Request("fish")])[0].mean_logprob)
    assert found[0] == found[1]
