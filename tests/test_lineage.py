"""What each candidate was made from, by the digests that bind the links, and what is refused."""

import pytest
from release_cases import ALL, CANDIDATES, make_project

from serving.contract import digest
from serving.errors import StillhouseError
from stages import _io
from stages._lineage import describe_candidates
from stages._provenance import dvc_md5

LINKS = ("student", "labels", "teacher", "data")


@pytest.fixture
def project(tmp_path):
    return make_project(tmp_path)


def links(facts):
    return {link: facts[f"{link}_sha256"] for link in LINKS if f"{link}_sha256" in facts}


def test_a_variant_goes_back_to_student_labels_teacher_and_data(project):
    facts = describe_candidates(ALL, project)["int8"]
    expected = {
        "student": digest(project / "models/student"),
        "labels": _io.sha256_file(project / "data/labels/index.json"),
        "teacher": digest(project / "models/teacher"),
        "data": "d" * 64,
    }
    assert links(facts) == expected
    shown = " → ".join(f"{link} {sha256[:12]}" for link, sha256 in expected.items())
    assert facts["lineage"] == f"int8 → {shown}"


def test_each_candidate_has_the_links_that_it_was_made_of(project):
    found = {name: list(links(f)) for name, f in describe_candidates(ALL, project).items()}
    assert found == {
        "teacher": ["data"],
        "student": ["labels", "teacher", "data"],
        "control": ["teacher", "data"],  # cut out of the teacher, taught by references
        "int8": list(LINKS),
        "nf4": list(LINKS),
    }


def test_a_plain_control_that_starts_at_random_owes_the_teacher_nothing(project):
    training = {"recipe": {"method": "sft"}, "init": "random"}
    _io.write_json(project / "reports/distill/control/distill.json", training)
    assert list(links(describe_candidates(ALL, project)["control"])) == ["data"]


def test_facts_say_where_a_model_is_and_who_made_it(project):
    facts = describe_candidates(ALL, project)["int8"]
    assert facts["folder"] == CANDIDATES["int8"]
    assert facts["model_sha256"] == digest(project / CANDIDATES["int8"])
    assert facts["dvc_md5"] == dvc_md5(project / CANDIDATES["int8"])
    assert (facts["run_id"], facts["git_commit"]) == ("0" * 32, "c" * 40)
    assert (facts["scheme"], facts["size_mb"], facts["parameters"]) == ("int8", "1.25", "10")
    assert "base_model" not in facts, "what is not known is left out"


def test_all_mistakes_are_told_at_once(project):
    (project / "reports/evaluate/nf4.json").unlink()
    (project / "models/control/weights.txt").write_text("tampered")
    with pytest.raises(StillhouseError) as caught:
        describe_candidates(ALL, project)
    assert "weights.txt was changed" in str(caught.value)
    assert "nf4.json is missing" in str(caught.value)
    assert "\n" not in str(caught.value)
