"""params.yaml: every mistake at once, with the nearest name; profiles merge and lose nothing."""

import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from serving.errors import StillhouseError
from stages._params import Params, check_params, load_params, params_hash, read_yaml
from stages._profile import apply_profile, merge, render

WHERE = Path("params.yaml")
ROOT = Path(__file__).parents[1]
PROFILES = sorted((ROOT / "configs").glob("*.yaml"))


def test_all_mistakes_are_reported_together_with_hints():
    wrong = {
        "seed": "x",
        "prepar": {},
        "run": {"threads": 0, "devise": "cpu"},
        "prepare": {"source": "cvs"},
    }
    with pytest.raises(StillhouseError) as error:
        check_params(wrong, WHERE)
    lines = str(error.value).splitlines()
    assert lines[0] == "params.yaml has 5 mistakes:"
    assert any("seed:" in line and "'x'" in line for line in lines)
    assert any("run.devise: unknown key; did you mean device?" in line for line in lines)
    assert any("prepare.source" in line and "did you mean 'csv'?" in line for line in lines)
    assert any("prepar: unknown key; did you mean prepare?" in line for line in lines)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"source": "csv"}, "needs prepare.files.train.path"),
        ({"source": "hub"}, "needs prepare.hub.name"),
        ({"split": {"test": 0.95}}, "nothing is left to train on"),
        ({"files": {"train": {"path": "x", "sha256": "abc"}}}, "prepare.files.train.sha256"),
        ({"incidents": {"test_prompts": 2.5}}, "prepare.incidents.test_prompts"),
    ],
    ids=["csv", "hub", "shares", "sha256", "fraction"],
)
def test_contradictions_are_refused(section, message):
    with pytest.raises(StillhouseError, match=message):
        check_params({"prepare": section}, WHERE)


def test_a_student_that_is_not_trained_is_refused():
    untrained = {"model": "models/mine", "tuning": "none"}
    with pytest.raises(StillhouseError, match=r"distill: .*tuning full, lora or qlora, found none"):
        check_params({"distill": {"pretrained": untrained}}, WHERE)
    assert check_params({"teacher": {"pretrained": untrained}}, WHERE).teacher.pretrained
    trained = untrained | {"tuning": "lora"}
    assert check_params({"distill": {"pretrained": trained}}, WHERE).distill.pretrained


def test_params_cannot_be_changed_after_the_check():
    with pytest.raises(Exception, match="frozen"):
        Params().run.threads = 4


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "not YAML"), ("- a", "expected sections"), ("seed: 1\nseed: 2", "not YAML")],
    ids=["broken", "list", "duplicate"],
)
def test_a_broken_file_is_one_clear_error(tmp_path, text, message):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(StillhouseError, match=message):
        load_params(tmp_path / "params.yaml")


def test_the_hash_covers_the_section_and_the_seed_only():
    one = Params()
    other_section = check_params({"evaluate": {"resamples": 200}}, WHERE)
    other_seed = check_params({"seed": 1}, WHERE)
    assert params_hash(one, "baseline") == params_hash(other_section, "baseline")
    assert params_hash(one, "baseline") != params_hash(other_seed, "baseline")


def test_merge_is_deep_and_null_removes_nothing_but_names():
    base = {"a": {"b": 1, "c": 2}, "d": [1, 2], "e": 5, "x": {"variants": {"one": {"g": 1}}}}
    merge(base, {"a": {"b": 9}, "d": [3], "e": None, "x": {"variants": {"one": None, "two": 2}}})
    assert base == {"a": {"b": 9, "c": 2}, "d": [3], "e": None, "x": {"variants": {"two": 2}}}
    merge(base["x"], {"variants": {"two": {"g": None}}})
    assert base["x"] == {"variants": {"two": {"g": None}}}, "a setting of a variant is a value"


@pytest.fixture
def project(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "params.yaml").write_text(
        "# the default\nseed: 20  # of everything\nrun: {threads: 2}\n"
    )
    (tmp_path / "configs/wide.yaml").write_text("run: {threads: 8}\n")
    (tmp_path / "configs/other.yaml").write_text("seed: 3\n")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "start"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def test_a_profile_shows_its_difference_and_keeps_comments(project):
    difference = apply_profile("wide", project)
    assert "-run: {threads: 2}" in difference
    assert "+run: {threads: 8}" in difference
    assert "# of everything" in (project / "params.yaml").read_text()


def test_a_second_profile_replaces_the_first_and_default_goes_back(project):
    committed = (project / "params.yaml").read_text()
    apply_profile("wide", project)
    apply_profile("other", project)
    assert read_yaml(project / "params.yaml") == {"seed": 3, "run": {"threads": 2}}
    apply_profile("default", project)
    assert (project / "params.yaml").read_text() == committed


def test_a_profile_never_overwrites_edits(project):
    (project / "params.yaml").write_text("seed: 77\n")
    with pytest.raises(StillhouseError, match="--keep-edits"):
        apply_profile("wide", project)
    apply_profile("wide", project, keep_edits=True)
    assert read_yaml(project / "params.yaml") == {"seed": 77, "run": {"threads": 8}}


def test_an_unknown_profile_lists_the_known_ones(project):
    with pytest.raises(StillhouseError, match="there are: default, other, wide"):
        apply_profile("huge", project)


def test_a_profile_that_breaks_the_params_changes_nothing(project):
    (project / "configs/bad.yaml").write_text("run: {threads: none}\n")
    before = (project / "params.yaml").read_text()
    with pytest.raises(StillhouseError, match=r"run\.threads"):
        apply_profile("bad", project)
    assert (project / "params.yaml").read_text() == before


def test_a_profile_changes_no_section_that_shares_a_yaml_alias():
    committed = "teacher:\n  generation: &one {beams: 1}\nlabel:\n  generation: *one\n"
    data = YAML(typ="safe").load(render(committed, {"teacher": {"generation": {"beams": 5}}}, "x"))
    assert data == {"teacher": {"generation": {"beams": 5}}, "label": {"generation": {"beams": 1}}}


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_every_profile_of_the_house_is_valid_over_the_default(profile, monkeypatch):
    monkeypatch.setenv("E2E_DIR", "/somewhere")
    params = (ROOT / "params.yaml").read_text(encoding="utf-8")
    made = render(params, read_yaml(profile), profile.stem)
    changed = check_params(YAML(typ="safe").load(made), profile)
    assert changed != load_params(ROOT / "params.yaml")
    made = {f"models/{name}" for name in (*changed.distill.recipes, "teacher", "baseline")}
    made |= {f"models/variants/{name}" for name in changed.quantize.variants}
    assert set(changed.answer.candidates.values()) <= made
