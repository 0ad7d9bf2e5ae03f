"""Settings come from the environment, and every mistake in them is told at once."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from serving._cascade.settings import CascadeSettings
from serving._keys import FILE_VARIABLE, LINES_VARIABLE, Key
from serving._service_settings import PREFIX, ServiceSettings, check_digest
from serving.errors import StillhouseError


def test_what_is_not_set_is_the_default():
    assert ServiceSettings.from_environment({"STILLHOUSE_DEADLINE_S": " "}) == ServiceSettings()


def test_every_field_has_a_variable_and_is_read():
    told = {
        "STILLHOUSE_STUDENT": "models/x",
        "STILLHOUSE_WINDOW_POLICY": "cut_middle",
        "STILLHOUSE_MAX_BODY_BYTES": "9",
        "STILLHOUSE_USD_PER_HOUR": "0.5",
    }
    found = ServiceSettings.from_environment(told)
    assert str(found.student_folder()) == "models/x"
    assert (found.window_policy, found.max_body_bytes, found.usd_per_hour) == ("cut_middle", 9, 0.5)


def test_all_mistakes_are_told_in_one_line():
    wrong = {
        "STILLHOUSE_MAX_BODY_BYTES": "-1",
        "STILLHOUSE_DEADLINE_S": "nan",
        "STILLHOUSE_BATCHING": "fast",
    }
    with pytest.raises(StillhouseError) as caught:
        ServiceSettings.from_environment(wrong)
    assert all(name in str(caught.value) for name in wrong)
    assert "\n" not in str(caught.value)


def test_the_student_is_the_winner_of_its_device(tmp_path):
    path = tmp_path / "winner.json"
    path.write_text(json.dumps({"cpu": {"folder": "models/variants/int8"}, "cuda": None}))
    assert ServiceSettings().student_folder(path).as_posix() == "models/variants/int8"
    with pytest.raises(StillhouseError, match="no winner for cuda"):
        ServiceSettings(device="cuda").student_folder(path)


@pytest.mark.parametrize("content", [None, "nonsense", "[]", "{}", '{"cpu": null}'])
def test_without_a_winner_the_error_says_what_to_do(tmp_path, content):
    path = tmp_path / "winner.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(StillhouseError, match="dvc repro select"):
        ServiceSettings().student_folder(path)


def test_another_model_than_the_one_that_won_is_refused(tmp_path):
    path = tmp_path / "winner.json"
    folder = tmp_path / "model"
    path.write_text(json.dumps({"cpu": {"folder": str(folder), "model_sha256": "a" * 64}}))
    check_digest(folder, "a" * 64, path)
    check_digest(tmp_path / "other", "b" * 64, path)
    with pytest.raises(StillhouseError, match="won on cpu"):
        check_digest(folder, "b" * 64, path)


@pytest.mark.parametrize("seconds", ["140.1", "1e9", "0"])
def test_a_deadline_that_bentoml_would_answer_before_is_refused(seconds):
    with pytest.raises(StillhouseError, match="above 0, at most 140") as caught:
        ServiceSettings.from_environment({"STILLHOUSE_DEADLINE_S": seconds})
    assert "\n" not in str(caught.value)


def test_wrong_settings_of_the_cascade_are_told_together_and_no_key_is_shown():
    wrong = {"STILLHOUSE_CACHE": "maybe", "STILLHOUSE_TEACHER_INSECURE": "yes"}
    with pytest.raises(StillhouseError) as caught:
        CascadeSettings.from_environment(wrong | {"STILLHOUSE_TEACHER_KEY": "sh_secret"})
    assert all(name in str(caught.value) for name in wrong)
    assert "sh_secret" not in str(caught.value)
    assert "sh_secret" not in repr(CascadeSettings(teacher_key="sh_secret"))


def test_the_longest_deadline_is_accepted():
    assert ServiceSettings.from_environment({"STILLHOUSE_DEADLINE_S": "140"}).deadline_s == 140


def document():
    return (Path(__file__).parent.parent / "docs" / "operating.md").read_text(encoding="utf-8")


def test_the_document_has_every_setting_with_its_default():
    rows = dict(re.findall(r"^\| `(STILLHOUSE_\w+)` \|([^|]*)\|", document(), re.MULTILINE))
    for one in (*fields(ServiceSettings), *fields(CascadeSettings)):
        default = "" if one.default in (None, "") else f"`{one.default}`"
        assert rows.get(PREFIX + one.name.upper(), "none").strip() == default, one.name


def test_the_document_has_every_field_of_a_key():
    text = document()
    missing = {name for name in Key.model_fields if f"\n| `{name}` |" not in text}
    assert not missing
    assert all(f"`{name}`" in text for name in (FILE_VARIABLE, LINES_VARIABLE))
