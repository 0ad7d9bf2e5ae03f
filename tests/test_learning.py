"""What teacher and student share: a full disk in one line, one vocabulary, settings that decide."""

import errno
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError
from tiny_models import CONTRACT, tiny_tokenizer
from tiny_pipeline import TRAINING, tiny_params
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from serving.errors import StillhouseError
from stages import _learning as learning
from stages import _on_policy_state
from stages._label_plan import _vocabulary
from stages._on_policy_state import Progress

NO_ROOM = "No space left on device"
FULL = [OSError(errno.ENOSPC, NO_ROOM), SafetensorError(f"I/O error: {NO_ROOM}\n(os error 28)")]


def start_with(folder, tokenizer):
    """A start whose tokenizer lies in `folder`."""
    tokenizer.save(str(folder / "tokenizer.json"))
    return learning.Start(lambda: None, folder, "{prompt}", end=0, positions=8)


@pytest.mark.parametrize("fault", FULL, ids=["system", "safetensors"])
def test_a_disk_that_does_not_take_a_model_is_one_line_and_leaves_the_old_one(tmp_path, fault):
    def save_pretrained(folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise fault

    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "old").touch()
    model = SimpleNamespace(config=SimpleNamespace(eos_token_id=0), save_pretrained=save_pretrained)
    start = start_with(tmp_path, tiny_tokenizer())
    with pytest.raises(StillhouseError, match=r"student could not be written .*No space") as error:
        learning.write_model(tmp_path / "student", model, start, CONTRACT)
    assert "\n" not in str(error.value) and "Make room" in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} == {"student", "tokenizer.json"}
    assert [path.name for path in (tmp_path / "student").iterdir()] == ["old"]


@pytest.mark.parametrize("fault", FULL, ids=["system", "safetensors"])
def test_a_disk_that_does_not_take_a_state_is_one_line_and_leaves_the_old_one(
    tmp_path, monkeypatch, fault
):
    def fill_up(tensors, path, metadata):
        path.write_bytes(b"half")
        raise fault

    student = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(student.parameters())
    Progress.read(tmp_path, "mark", student, optimizer, 0.0).advance({"loss": 1.0}, last=False)
    progress = Progress.read(tmp_path, "mark", student, optimizer, 0.0)
    monkeypatch.setattr(_on_policy_state, "save_file", fill_up)
    with pytest.raises(StillhouseError, match=r"could not be written .*No space") as error:
        progress.advance({"loss": 0.5}, last=False)
    assert "\n" not in str(error.value) and "Make room" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [_on_policy_state.NAME]
    assert Progress.read(tmp_path, "mark", student, optimizer, 0.0).history == [{"loss": 1.0}]


@pytest.mark.parametrize(
    ("tokenizer", "rows"),
    [
        (Tokenizer(WordLevel({"fish": 0, "dogs": 6}, unk_token="fish")), 7),
        (tiny_tokenizer(), tiny_tokenizer().get_vocab_size()),
    ],
    ids=["a gap", "no gap"],
)
def test_training_and_labels_have_a_row_for_every_id(tmp_path, tokenizer, rows):
    start = start_with(tmp_path, tokenizer)
    examples = [{"prompt": "dogs", "references": ["fish"]}]
    task = learning.Task(examples, examples, None, "")
    settings = tiny_params().teacher.training
    assert learning.make_validator(start, task, CONTRACT, settings).vocabulary == rows
    assert _vocabulary(tmp_path / "tokenizer.json") == rows


@pytest.mark.parametrize("section", ["teacher", "distill"])
def test_time_between_checkpoints_leads_to_no_other_scratch(section):
    def settings(**changes):
        kept = tiny_params().model_dump(mode="json")[section]
        params = tiny_params(**{section: kept | {"training": TRAINING | changes}})
        return learning.settings_of(params.seed, getattr(params, section))

    assert settings(checkpoint_every_s=1.0) == settings(checkpoint_every_s=60.0)
    assert settings(steps=13) != settings(steps=12)
