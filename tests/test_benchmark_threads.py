"""The benchmark of threads: its ways take the same step, and it reports all of them."""

import json
import math
from pathlib import Path

import pytest
import torch

from benchmarks import _training_bench as common
from benchmarks import threads as bench
from stages._learner import PLAIN
from stages._params import load_params
from stages._replicas import Replicas

TINY = ["--steps=1", "--rounds=1", "--prompts=12", "--shapes=1"]
SHAPE = (2, 32, 2, 64)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(bench, "SHAPES", (SHAPE,))
    monkeypatch.setattr(common, "PREPARED", Path("nowhere"))
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_copies_take_the_step_that_one_model_takes(tmp_path):
    params, options = load_params(common.ROOT / "params.yaml"), bench.read_options(TINY)
    common.write_inputs(tmp_path, params, common.read_examples(params, 12)[1])
    place = common.open_bench(tmp_path, params, options)
    pairs = common.read_pairs(tmp_path)[:6]
    alone, together = (common.Trainee(place, "student", PLAIN) for _ in range(2))
    alone.step(pairs)
    bench.train_in_parts(together, Replicas(together.learner, 2), pairs)
    ours, theirs = (list(t.learner.parameters()) for t in (together, alone))
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(ours, theirs, strict=True))
    untrained = common.Trainee(place, "student", PLAIN).learner.parameters()
    assert not all(torch.equal(a, b) for a, b in zip(ours, untrained, strict=True))


def test_every_way_is_timed_and_compared_with_one_thread(monkeypatch, capsys):
    asked = []

    def here(words, ways, waiting):
        asked.append((tuple(ways), dict(waiting)))
        capsys.readouterr()
        bench.main([*words, "--ways", *ways])
        return json.loads(capsys.readouterr().out)

    monkeypatch.setattr(bench, "_in_a_process", here)
    found = bench.run(bench.read_options(TINY), TINY)
    assert asked == [
        (("one", "products", "rows"), {}),
        (("one", "spinning"), {"GOMP_SPINCOUNT": bench.SPINS}),
    ]
    (row,) = found["models"]
    assert row["weights_mb"] > 0
    for kind in ("training", "answering"):
        assert set(row[kind]["to_one"]) == {"products", "rows", "spinning"}
        assert all(
            math.isfinite(r["ratio"]) and r["ratio"] > 0 for r in row[kind]["to_one"].values()
        )
        assert set(row[kind]["ms"]) == {"one", "products", "rows", "spinning"}
    assert len(bench.summarise(found).splitlines()) == 3


@pytest.mark.slow
def test_its_processes_wait_as_they_are_told():
    rows = bench._in_a_process(TINY, ("one", "rows"), {})
    assert len(rows) == 1 and rows[0]["training"]["to_one"]["rows"]["ratio"] > 0
