"""The batching benchmark: its padding, its mixes, and all that it reports, on a tiny model."""

import math

import pytest
from scripted_predictors import Script, ScriptedPredictor

from benchmarks import length_batching as bench
from serving._micro_batches import Bounds
from serving.completion import Request
from serving.errors import StillhouseError

TINY = ["--shape", "1,32,2,48,400", "--rounds=1", "--tokens=3", "--prompts=12", "--waiting=8"]


def test_padding_is_over_all_batches_together():
    assert bench.padding([[1, 3], [4]]) == pytest.approx(1 - 8 / 10)


def test_a_queue_is_answered_in_its_order_whatever_the_batches():
    queue = [Request(prompt) for prompt in ("3 1 1 1", "1", "2 1 1 1", "4")]
    bounds = Bounds(1000, 2)
    ours = bench.take(ScriptedPredictor(Script()), queue, bounds, "length")
    first = bench.take(ScriptedPredictor(Script()), queue, bounds, "first_in_first_out")
    assert ours.texts == first.texts == ["abc", "a", "ab", "abcd"]
    assert sorted(ours.prompts) == [[1, 1], [4, 4]] and first.prompts == [[4, 1], [4, 1]]
    assert sorted(ours.wholes) == [[3, 6], [7, 8]] or sorted(ours.wholes) == [[3, 6], [8, 7]]
    assert ours.tokens == 4 + 2 + 3 + 5


def test_without_padding_both_orders_are_alike():
    same = bench.Taken(2.0, 10, [[4, 4]], [[6, 6]], ["x", "y"])
    worse = bench.Taken(4.0, 10, [[4, 2], [4, 2]], [[6, 6]], ["x", "z"])
    found = bench.compare({"first_in_first_out": [worse], "length": [same]})
    assert found["utilisation_ratio"] == {"prompts": pytest.approx(8 / 6), "with_answers": 1.0}
    assert found["tokens_per_s_ratio"]["ratio"] == 2.0 and found["same_answers"] == 0.5


def test_everything_is_measured(tmp_path, monkeypatch):
    rows = "mr,ref\n" + "".join(f'"name[The Eagle], food[{n}]",text\n' for n in (1, 1, 2))
    (tmp_path / "testset_w_refs.csv").write_text(rows, encoding="utf-8")
    monkeypatch.setenv("E2E_DIR", str(tmp_path))
    assert [request.prompt[-3:] for request in bench.read_e2e(9)] == ["[1]", "[2]"]
    found = bench.run(bench.read_options(TINY), tmp_path)
    assert set(found["mixes"]) == {"incidents", "e2e", "heavy_tailed"} and not found["missing"]
    for mix in found["mixes"].values():
        for order in bench.ORDERS:
            assert all(math.isfinite(value) and value >= 0 for value in mix[order].values())
        assert mix["length"]["tokens_per_s"] > 0 and mix["rounds"] == 1
    assert len(bench.summarise(found).splitlines()) == 3


def test_without_the_e2e_data_the_mix_is_told_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("E2E_DIR", str(tmp_path))
    with pytest.raises(StillhouseError, match=r"expected to hold testset_w_refs\.csv"):
        bench.read_e2e(3)


def test_the_heavy_tail_is_drawn_with_its_seed_and_fits():
    predictor = ScriptedPredictor(Script())
    drawn = bench.heavy_tailed(predictor, 40)
    assert drawn == bench.heavy_tailed(predictor, 40)
    lengths = sorted(len(request.prompt.split()) for request in drawn)
    assert lengths[0] >= 15 and lengths[-1] <= 36 and len(set(lengths)) > 8
