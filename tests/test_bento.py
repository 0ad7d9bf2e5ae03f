"""The parts of a Bento: exact pins, a layout without anything else, and always the same bytes."""

import tarfile
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from structure import ROOT

from serving.errors import StillhouseError
from stages import _bento

LOCKS = {name: ROOT / "requirements" / f"{name}.txt" for name in ("base", "train", "gpu")}


def test_a_bento_without_torch_has_the_base_lock_alone_and_exactly():
    pins = _bento.choose_requirements("ctranslate2", False, LOCKS)
    assert sorted(pins) == sorted(_bento.read_pins(LOCKS["base"]).values())
    names = {pin.partition("==")[0] for pin in pins}
    assert {"bentoml", "ctranslate2", "scikit-learn"} <= names
    assert len({"--hash=" in pin for pin in pins}) == 1
    assert not names & {"torch", "transformers", "bitsandbytes", "dvc", "mlflow"}


def closure(names):
    """What the installed packages need, directly or through others, without extras."""
    seen, waiting = set(), list(names)
    while waiting:
        if (name := waiting.pop().lower().replace("_", "-")) not in seen:
            seen.add(name)
            needed = map(Requirement, metadata.requires(name) or [])
            waiting += [r.name for r in needed if not r.marker or r.marker.evaluate({"extra": ""})]
    return seen


def test_a_bento_of_transformers_pins_all_that_its_engine_imports_and_no_more():
    of_torch = closure(["torch", "transformers", "accelerate", "bitsandbytes"])
    of_cuda = {n for n in of_torch if n.startswith(("nvidia", "cuda", "triton"))}
    base = set(_bento.read_pins(LOCKS["base"]))
    assert of_torch - of_cuda - base == set(_bento.TORCH_PACKAGES)
    pins = _bento.choose_requirements("transformers", False, LOCKS)
    assert len(pins) == len(base) + len(_bento.TORCH_PACKAGES)
    on_cuda = set(_bento.choose_requirements("transformers", True, LOCKS)) - set(pins)
    assert {"triton", "nvidia-cublas"} <= {pin.partition("==")[0] for pin in on_cuda}


def test_hashes_go_along_where_all_pins_have_some(tmp_path):
    digests = [f"--hash=sha256:{digit * 64}" for digit in "ab"]
    hashed = "numpy==2.4.6 \\\n    " + " \\\n    ".join(digests)
    lock = tmp_path / "base.txt"
    lock.write_text(f"{hashed}\nscipy==1.17.1 {digests[0]}\n")
    pins = [f"numpy==2.4.6 {' '.join(digests)}", f"scipy==1.17.1 {digests[0]}"]
    assert _bento.choose_requirements("ctranslate2", False, {"base": lock}) == pins
    lock.write_text(f"{hashed}\nscipy==1.17.1\n")
    pins = ["numpy==2.4.6", "scipy==1.17.1"]  # pip would refuse the second one
    assert _bento.choose_requirements("ctranslate2", False, {"base": lock}) == pins


@pytest.mark.parametrize("line", ["torch>=2", "torch", "-r other.txt", "a @ file:///x"])
def test_a_lock_with_anything_but_exact_pins_is_refused(tmp_path, line):
    (tmp_path / "lock.txt").write_text(f"# lock\nnumpy==2.4.6\n{line}\n")
    with pytest.raises(StillhouseError, match="expected name==version, found"):
        _bento.read_pins(tmp_path / "lock.txt")


def test_an_engine_that_no_bento_carries_is_told():
    with pytest.raises(StillhouseError, match="ctranslate2 or transformers, found speculative"):
        _bento.choose_requirements("speculative", False, LOCKS)


def test_an_archive_has_the_same_bytes_whenever_and_by_whomever_it_is_written(tmp_path):
    for name, mode in (("one", 0o600), ("two", 0o664)):
        folder = tmp_path / name
        for file in ("b/two.txt", "a.txt") if name == "one" else ("a.txt", "b/two.txt"):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(file)
            (folder / file).chmod(mode)
        _bento.archive(folder, tmp_path / f"{name}.bento")
    assert (tmp_path / "one.bento").read_bytes() == (tmp_path / "two.bento").read_bytes()
    with tarfile.open(tmp_path / "one.bento") as tar:
        found = [(e.name, e.mtime, e.uid, e.uname) for e in tar.getmembers()]
    assert found == [(name, 0, 0, "") for name in ("a.txt", "b", "b/two.txt")]


def test_the_environment_of_a_served_bento_knows_nothing_of_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("STILLHOUSE_BASELINE", "models/other")
    monkeypatch.setenv("BENTOML_PORT", "80")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{tmp_path}")
    found = _bento.environment(tmp_path / "home")
    assert "STILLHOUSE_BASELINE" not in found and "BENTOML_PORT" not in found
    assert found["PYTHONPATH"] == str(tmp_path)
    assert found["BENTOML_HOME"] == str(tmp_path / "home")
    assert found["BENTOML_DO_NOT_TRACK"] == "True"
