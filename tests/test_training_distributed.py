"""Two processes learn what one learns, with whole weights (DDP) or weights in parts (FSDP2)."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tiny_training import (
    FULL_DISK,
    SETTINGS,
    VOCABULARY,
    join_processes,
    make,
    result,
    rows,
    train_in_processes,
    validate,
    with_teacher,
)

from serving.errors import StillhouseError
from stages._losses import Objective
from stages._sharding import shard
from stages._training import PLAIN, Learner

PROGRAM = str(Path(__file__).parent / "tiny_training.py")
TORCHRUN = ["torch.distributed.run", "--nproc-per-node=2", "--standalone"]
ACCELERATE = ["accelerate.commands.launch", "--num_processes=2", "--num_machines=1"]
ACCELERATE += ["--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]
LAUNCHERS = {
    "torchrun": TORCHRUN,
    "accelerate": [*ACCELERATE, "--multi_gpu"],
    "accelerate with FSDP": [*ACCELERATE, "--use_fsdp", "--fsdp_version=2"],
}
LOSSES = 1e-5  # relative: sums of fp32 in another order, eight steps on
NORMS = 1e-4  # torch adds up 100,000 squares in fp32 to within 5e-5
SHARDED = {"ACCELERATE_USE_FSDP": "true"}  # what `accelerate launch --use_fsdp` sets
EACH_STEP = SETTINGS.model_copy(update={"checkpoint_every_s": 0.0})
KINDS = pytest.mark.parametrize("environment", [{}, SHARDED], ids=["whole", "sharded"])


def work():
    """Micro-batches (of other numbers on either process) of distilled rows."""
    settings = SETTINGS.model_copy(update={"micro_batch_tokens": 20})
    distilled = {"sequences": with_teacher(rows()), "objective": Objective(alpha=0.5)}
    return {"settings": settings, **distilled}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    assert train_in_processes(folder, **work()) == [0]
    return result(folder)


def alike(folder, expected, moved=1e-4):
    """Same curve within a tolerance, same counts, weights that are nowhere far apart."""
    found, facts = result(folder)
    assert [*facts] == [*expected[1]] and facts["tokens"] == expected[1]["tokens"]
    for ours, theirs in zip(facts["curve"], expected[1]["curve"], strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            tolerance = NORMS if name == "gradient_norm" else LOSSES
            assert ours[name] == pytest.approx(value, rel=tolerance), (name, theirs["step"])
    assert found.keys() == expected[0].keys()
    assert all((found[n] - expected[0][n]).abs().max() < moved for n in found)
    return True


@KINDS
def test_two_processes_have_the_losses_of_one(tmp_path, alone, environment):
    assert train_in_processes(tmp_path, processes=2, environment=environment, **work()) == [0, 0]
    assert alike(tmp_path, alone)


@KINDS
def test_a_batch_of_fewer_rows_than_processes_changes_nothing(tmp_path, environment):
    one_row = {"settings": SETTINGS.model_copy(update={"batch_tokens": 16})}
    assert train_in_processes(tmp_path / "one", **one_row) == [0]
    two = {"processes": 2, "environment": environment, **one_row}
    assert train_in_processes(tmp_path / "two", **two) == [0, 0]
    assert alike(tmp_path / "two", result(tmp_path / "one"))


@pytest.mark.slow
@KINDS
def test_a_sweep_of_two_processes_agrees_on_the_rate(tmp_path, environment):
    sweep = {"settings": SETTINGS.model_copy(update={"learning_rates": (1e-4, 1e-2, 1e30)})}
    assert train_in_processes(tmp_path / "one", **sweep) == [0]
    two = {"processes": 2, "environment": environment, **sweep}
    assert train_in_processes(tmp_path / "two", **two) == [0, 0]
    assert alike(tmp_path / "two", result(tmp_path / "one"))
    assert result(tmp_path / "two")[1]["sweep"].keys() == {"0.0001", "0.01"}


@KINDS
@pytest.mark.parametrize("processes", [1, 2])
def test_what_two_processes_left_is_taken_up_by_one_or_two(tmp_path, alone, environment, processes):
    moment = ("os.rename", "step-5.tmp", 1, signal.SIGKILL)
    each_step = work() | {
        "settings": work()["settings"].model_copy(update={"checkpoint_every_s": 0})
    }
    two = {"environment": environment, **each_step}
    killed = train_in_processes(tmp_path, moment, processes=2, **two)
    assert killed[0] == -signal.SIGKILL and killed[1] != 0
    saved = tmp_path / "scratch/train/step-4"
    if environment:
        assert parts_of(saved, "weight.model.norm.weight") == [[16], [16]]
    given = environment if processes == 2 else {}
    again = train_in_processes(tmp_path, processes=processes, **each_step, environment=given)
    assert again == [0] * processes
    assert alike(tmp_path, alone)


def parts_of(checkpoint, name):
    """Shapes of a tensor's parts in the files of a checkpoint, a file per process."""
    shapes = []
    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            names = set(opened.keys())
            shapes += [opened.get_slice(name).get_shape()] if name in names else []
    return shapes


@pytest.mark.slow
@KINDS
def test_two_processes_end_bit_by_bit_as_two_that_were_not_disturbed(tmp_path, environment):
    two = {"processes": 2, "environment": environment, "settings": EACH_STEP}
    assert train_in_processes(tmp_path / "whole", **two) == [0, 0]
    moment = ("os.rename", "step-4.tmp", 1, signal.SIGKILL)
    assert train_in_processes(tmp_path / "cut", moment, **two)[0] == -signal.SIGKILL
    assert train_in_processes(tmp_path / "cut", **two) == [0, 0]
    found, expected = result(tmp_path / "cut"), result(tmp_path / "whole")
    assert found[1] == expected[1]
    assert all(torch.equal(found[0][name], value) for name, value in expected[0].items())


@KINDS
def test_one_process_that_is_asked_to_stop_stops_all(tmp_path, environment):
    moment = ("tiny.validate", "", 1, signal.SIGTERM)
    two = {"processes": 2, "environment": environment}
    assert train_in_processes(tmp_path, moment, **two) == [143, 143]
    assert [path.name for path in (tmp_path / "scratch/train").glob("step-*")] == ["step-6"]


def test_one_process_whose_disk_is_full_ends_all_in_one_line(tmp_path):
    moment = ("open", "step-3.tmp/shard", 1, FULL_DISK)
    two = {"processes": 2, "environment": SHARDED, "settings": EACH_STEP}
    assert train_in_processes(tmp_path, moment, **two) == [1, 1]
    said = [(tmp_path / f"error-{rank}.txt").read_text() for rank in (0, 1)]
    assert said[0] == said[1] and "step-3 (File too large)" in said[0] and "\n" not in said[0]
    assert [path.name for path in (tmp_path / "scratch/train").iterdir()] == ["step-2"]


def validate_whole(model):
    """The tiny validation, of a model that nobody else holds a part of."""
    assert not any(type(weight).__name__ == "DTensor" for weight in model.parameters())
    generated = model.generate(torch.tensor([[10, 11]]), max_new_tokens=3, do_sample=False)
    assert generated.shape[0] == 1
    return validate(model)


def test_weights_in_parts_are_validated_on_a_gathered_copy(tmp_path, alone):
    two = {"processes": 2, "environment": SHARDED, "validate": validate_whole, **work()}
    assert train_in_processes(tmp_path, **two) == [0, 0]
    assert alike(tmp_path, alone)


@pytest.mark.slow
def test_the_head_in_chunks_has_the_gradients_of_one_process(tmp_path):
    """4,000 tokens of vocabulary make chunks of 512 positions, recomputed in backward."""
    settings = SETTINGS.model_copy(update={"steps": 2, "batch_tokens": 9000})
    large = {"settings": settings, "sequences": rows(300), "make": make_large, "vocabulary": 4000}
    assert train_in_processes(tmp_path / "one", **large, validate=judge_large) == [0]
    for name, environment in (("ddp", {}), ("fsdp", SHARDED)):
        two = {"processes": 2, "environment": environment, "validate": judge_large, **large}
        assert train_in_processes(tmp_path / name, **two) == [0, 0]
        assert alike(tmp_path / name, result(tmp_path / "one"))


def make_large():
    return make(vocab_size=4000)


def judge_large(model):
    return {"selection": 0.0}


def test_muon_with_weights_in_parts_is_one_line(tmp_path):
    settings = SETTINGS.model_copy(update={"optimizer": "muon"})
    two = {"processes": 2, "environment": SHARDED, "settings": settings}
    assert train_in_processes(tmp_path, **two) == [1, 1]
    said = (tmp_path / "error-1.txt").read_text()
    assert said.startswith("optimizer: muon needs whole matrices") and "\n" not in said


def test_muon_with_whole_weights_has_the_losses_of_one(tmp_path):
    settings = SETTINGS.model_copy(update={"optimizer": "muon"})
    assert train_in_processes(tmp_path / "one", settings=settings) == [0]
    assert train_in_processes(tmp_path / "two", settings=settings, processes=2) == [0, 0]
    assert alike(tmp_path / "two", result(tmp_path / "one"))


def make_adapted():
    """LoRA in fp32 on a model that stays in bfloat16."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights="gaussian")
    return get_peft_model(make().bfloat16(), config)


@pytest.mark.slow
@KINDS
def test_an_adapter_is_trained_and_saved_alone(tmp_path, environment):
    adapted = {"make": make_adapted, "settings": EACH_STEP}
    assert train_in_processes(tmp_path / "one", **adapted) == [0]
    two = {"processes": 2, "environment": environment, **adapted}
    assert train_in_processes(tmp_path / "two", **two) == [0, 0]
    ours, theirs = (result(tmp_path / name)[1]["curve"][-1] for name in ("two", "one"))
    assert ours["loss_nats"] == pytest.approx(theirs["loss_nats"], rel=1e-2)  # bfloat16 sums
    files = (tmp_path / "two/scratch/train/step-8").glob("*.safetensors")
    names = {name for file in files for name in safe_open(file, "pt").keys()}  # noqa: SIM118
    assert names and all("lora_" in name for name in names)


def shard_and_look(folder):
    """Cut a model, and write which of its modules are groups of their own."""
    from torch.distributed import init_process_group
    from torch.distributed.fsdp import FSDPModule

    init_process_group("gloo")
    learner = Learner(make(), PLAIN, VOCABULARY)
    shard(learner, learner.model, torch.device("cpu"), SETTINGS)
    groups = [name for name, module in learner.named_modules() if isinstance(module, FSDPModule)]
    (folder / os.environ["RANK"]).write_text(" ".join(groups))
    four_bits = make()
    frozen = torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.uint8), requires_grad=False)
    four_bits.model.layers[0].mlp.up_proj.weight = frozen
    with pytest.raises(StillhouseError, match="qlora holds weights in 4 bits"):
        shard(Learner(four_bits, PLAIN, VOCABULARY), four_bits, torch.device("cpu"), SETTINGS)


def test_each_decoder_layer_is_gathered_by_itself(tmp_path):
    assert join_processes(shard_and_look, 2, tmp_path) == [0, 0]
    assert (tmp_path / "1").read_text().split() == ["model.model.layers.0", "model.model.layers.1"]


def launch(launcher, *arguments):
    """Run the tiny training under a launcher; returns its exit status and what it said."""
    ended = subprocess.run(
        [sys.executable, "-m", *LAUNCHERS[launcher], PROGRAM, *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return ended.returncode, ended.stdout + ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launchers_start_two_processes_that_have_the_losses_of_one(tmp_path, launcher):
    assert train_in_processes(tmp_path / "one") == [0]
    (tmp_path / "two").mkdir()
    status, said = launch(launcher, tmp_path / "two")
    assert status == 0 and "Warning" not in said, said
    assert alike(tmp_path / "two", result(tmp_path / "one"))
    parts = parts_of(tmp_path / "two/scratch/train/step-8", "weight.model.norm.weight")
    assert parts == ([[16], [16]] if "FSDP" in launcher else [[32]])


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate with FSDP"])
def test_a_launcher_that_is_asked_to_stop_lets_its_processes_save(tmp_path, launcher):
    status, said = launch(launcher, tmp_path, "stop")
    assert status != 0 and "got signal: 15" in said
    (saved,) = (tmp_path / "scratch/train").glob("step-*")
    assert 3 < int(saved.name[5:]) < 5000 and saved.suffix != ".tmp"
    assert (saved / "facts.json").is_file() and not (tmp_path / "trained.json").exists()
