"""On-policy distillation can be repeated, and killed at any time, at no cost."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from on_policy_cases import SHORT, decoder, prompts, same, train_in, weights


@pytest.fixture
def train(tmp_path):
    return partial(train_in, tmp_path)


def test_same_seed_gives_the_same_weights(train):
    first = weights(train())
    torch.manual_seed(99)
    assert same(first, weights(train()))
    assert not same(first, weights(train(replace(SHORT, seed=1))))


@pytest.mark.parametrize(("stop", "every_s"), [(1, 0.0), (3, 0.0), (3, 1e6), (4, 1e6)])
def test_an_interrupted_run_ends_as_an_undisturbed_one(train, tmp_path, stop, every_s):
    def interrupt(step, _):
        if step == stop:
            raise KeyboardInterrupt

    straight, resumed = [], []
    undisturbed = weights(train(said=straight))
    with pytest.raises(KeyboardInterrupt):
        train(report=interrupt, save_every_s=every_s)
    kept = [path.name for path in (tmp_path / "scratch").iterdir()]
    assert kept == (["on_policy.safetensors"] if stop == 4 or every_s == 0.0 else [])
    assert same(undisturbed, weights(train(said=resumed, save_every_s=every_s)))
    assert [step for step, _ in resumed] == [1, 2, 3, 4]
    timeless = [[one[1] | {"step_s": 0.0} for one in said] for said in (straight, resumed)]
    assert timeless[0] == timeless[1]
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("changed", ["settings", "teacher", "student", "prompts"])
def test_the_state_of_another_run_is_not_used(train, tmp_path, changed):
    def interrupt(step, _):
        if step == 2:
            raise KeyboardInterrupt

    def other():
        return {
            "settings": {"settings": replace(SHORT, learning_rate=1e-3)},
            "teacher": {"teacher": decoder(seed=2)},
            "student": {"student": decoder(seed=3)},
            "prompts": {"prompts": prompts(tmp_path)[:3]},
        }[changed]

    undisturbed = weights(train(**other()))
    with pytest.raises(KeyboardInterrupt):
        train(report=interrupt, save_every_s=0.0)
    assert same(undisturbed, weights(train(**other())))


def test_a_state_cut_short_is_no_state(train, tmp_path):
    state = tmp_path / "scratch" / "on_policy.safetensors"
    state.parent.mkdir()
    state.write_bytes(b"\x10\x00\x00")
    assert same(weights(train()), weights(train()))


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
from on_policy_cases import train_in

def report(step, _):
    if step == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

train_in(Path(sys.argv[1]), report=report, save_every_s=0.0)
"""


@pytest.mark.slow
def test_a_killed_process_goes_on_in_another_one(train, tmp_path):
    tests = Path(__file__).parent
    program = KILLED.format(root=str(tests.parent), tests=str(tests))
    prompts(tmp_path)
    settings = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", program, str(tmp_path), "2"]
    assert subprocess.run(command, env=settings, check=False).returncode == -9
    assert (tmp_path / "scratch" / "on_policy.safetensors").is_file()
    said = []
    resumed = weights(train(said=said))
    assert len(said) == 4
    assert same(resumed, weights(train()))
