"""Images are named by digest and belong to a Bento of the winner."""

import pytest
from release_cases import CANDIDATES, image, make_model, pack

from serving.errors import StillhouseError
from stages._images import describe_images, parse_images

HEX = "a" * 64


@pytest.mark.parametrize(
    "name", ["stillhouse", "ghcr.io/some-body/still_house", "localhost:5000/a/b.c", "a/b:v1.2"]
)
def test_a_name_with_a_digest_is_an_image(name):
    assert parse_images([f"cpu={name}@sha256:{HEX}"]) == {"cpu": f"{name}@sha256:{HEX}"}


@pytest.mark.parametrize(
    "reference",
    [
        "stillhouse:1.0",
        "stillhouse",
        f"@sha256:{HEX}",
        f"a@sha256:{HEX[1:]}",
        f"a/B@sha256:{HEX}",
        f"a@md5:{HEX}",
        f"a b@sha256:{HEX}",
        f"a@sha256:{HEX}\n",
        f"https://a/b@sha256:{HEX}",
    ],
)
def test_what_is_no_digest_is_refused_with_the_reason(reference):
    with pytest.raises(StillhouseError, match=r"no image by digest \(a tag can be moved"):
        parse_images([f"cpu={reference}"])


def test_all_mistakes_are_told_at_once():
    given = [f"tpu=a@sha256:{HEX}", f"cpu=a@sha256:{HEX}", f"cpu=b@sha256:{HEX}", "cuda=a:1"]
    with pytest.raises(StillhouseError, match=r"no device.*cpu has two images; \"a:1\" is no"):
        parse_images(given)


@pytest.fixture
def winners(tmp_path):
    sha256 = make_model(tmp_path, "int8", "weights")
    folder = CANDIDATES["int8"]
    return {"cpu": {"candidate": "int8", "folder": folder, "model_sha256": sha256}, "cuda": None}


def test_an_image_is_bound_to_the_bento_of_its_winner(tmp_path, winners):
    pack(tmp_path, "int8")
    assert describe_images(tmp_path, {"cpu": image("1")}, winners) == {
        "cpu": {"image": image("1"), "bento_tag": "stillhouse:abc", "bento_sha256": "b" * 64}
    }
    assert describe_images(tmp_path, {}, winners) == {}


def test_an_image_that_no_bento_of_the_winner_can_be_in_is_refused(tmp_path, winners):
    with pytest.raises(StillhouseError, match=r"no Bento of its winner \w{12}.*dvc repro package"):
        describe_images(tmp_path, {"cpu": image("1")}, winners)
    make_model(tmp_path, "nf4", "other weights")
    pack(tmp_path, "nf4")
    with pytest.raises(StillhouseError, match="no Bento of its winner"):
        describe_images(tmp_path, {"cpu": image("1")}, winners)
    with pytest.raises(StillhouseError, match="named for cuda, which has no winner"):
        describe_images(tmp_path, {"cuda": image("1")}, winners)
