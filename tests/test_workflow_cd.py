"""cd, executed job by job. Real: the run blocks, `make sbom` on a packed Bento, .ci/models and
.ci/verify, .ci/rollout with kustomize on deploy/kubernetes, Git and a repository to push to.
Stand-ins: `docker`, `gh`, `aws`, `kubectl` beyond kustomize, and the programs that want models or a
service (restore, container, challenge, canary, release, backup); actions (`uses:`) are not run.
"""

import json
import re
import shutil

import pytest
from bento_cases import TAG, make_bento
from deploy_cases import MODELS, REDIS, contexts, machine_for, make_released, places, pushed
from deploy_cases import verifying as attested
from release_cases import git, image

from stages import _io

pytestmark = pytest.mark.slow
STAGES = ("restore", "container", "challenge", "canary", "release", "backup")
PROGRAMS = [f"stages.{name}" for name in STAGES]
IMAGE = f"ghcr.io/somebody/project@sha256:{'a' * 64}"
CUDA = f"ghcr.io/somebody/project-cuda@sha256:{'b' * 64}"
BACKUP = "20300101T000000Z-0123456789ab"
INPUTS = {"through": "production", "without_canary": "", "backup": ""}


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    """What a backup brings: the Bento, its report, the winner."""
    place = tmp_path_factory.mktemp("remote")
    model = make_bento(place / "cpu.bento")
    packed = {"bento_tag": TAG, "bento_sha256": _io.sha256_file(place / "cpu.bento")}
    _io.write_json(place / "release.json", {"bentos": {"cpu": packed}})
    _io.write_json(place / "winner.json", {"cpu": {"model_sha256": model}})
    winners = {"cpu": {"model_sha256": model}}
    challenge = {"winners": winners, "images": {"cpu": {"image": IMAGE}}}
    _io.write_json(place / "challenger.json", challenge)
    return place


@pytest.fixture(scope="module")
def released(tmp_path_factory, remote):
    """One release, and what train has proposed against it, merged."""
    root = make_released(tmp_path_factory.mktemp("released"), releases=1)
    shutil.copy(remote / "challenger.json", root / "releases")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "challenge")
    return root


@pytest.fixture
def machine(released, tmp_path):
    return machine_for(released, tmp_path, PROGRAMS)


def model(remote):
    return _io.read_json(remote / "winner.json")["cpu"]["model_sha256"]


def restoring(remote):
    """The reply of `make restore`."""
    files = {
        "winner.json": "models",
        "release.json": "reports/package",
        "cpu.bento": "models/bento",
    }
    return {
        "match": "stages.restore",
        "stdout": f"restore {BACKUP}, taken at commit {'c' * 40}\n",
        "files": {str(remote / name): f"{folder}/{name}" for name, folder in files.items()},
    }


def build(machine, remote, *replies, **inputs):
    made = remote / "cpu.json"
    made.write_text("{}")
    digests = {
        "match": "docker image inspect",
        "stdout": f"{IMAGE}\nelsewhere@sha256:{'0' * 64}\n\n",
    }
    gpu_digests = {"match": "{{end}} ghcr.io/somebody/project-cuda:", "stdout": f"{CUDA}\n"}
    container = {"match": "stages.container", "files": {str(made): "scratch/container/cpu.json"}}
    machine.reply(*replies, restoring(remote), container, gpu_digests, digests)
    return machine.run_job("cd", "build", **contexts(inputs=INPUTS | inputs))


def after_build(remote, **outputs):
    told = {"image": IMAGE, "model": model(remote), "first": "false", "backup": BACKUP} | outputs
    return {"build": {"result": "success", "outputs": told}}


def test_the_image_is_built_once_asked_described_pushed_attested_and_challenges(machine, remote):
    ended = build(machine, remote)
    assert not ended.failed, ended.log
    told = {"first": "false", "image": IMAGE, "model": model(remote), "backup": BACKUP}
    assert ended.outputs == told | {"cuda": ""}
    version = f"ghcr.io/somebody/project:{TAG.split(':')[1]}"
    order = [
        *places(machine, "stages.restore /backup"),
        *places(machine, "stages.container --check --backend docker", version),
        *places(machine, f"docker push {version}"),
        *places(machine, f"stages.challenge --image cpu={IMAGE}"),
    ]
    assert order == sorted(order)
    assert len(order) == 4
    bill = _io.read_json(machine.project / "scratch/handover/cpu.models.cdx.json")
    assert model(remote) in json.dumps(bill)
    attested = [inputs for name, inputs in ended.uses if name == "actions/attest"]
    assert {one["subject-digest"] for one in attested} == {IMAGE.split("@")[1]}
    assert {one["subject-name"] for one in attested} == {"ghcr.io/somebody/project"}
    paths = [one.get("sbom-path") for one in attested]
    assert paths == [
        None,
        "scratch/container/cpu.spdx.json",
        "scratch/container/cpu.models.cdx.json",
    ]
    [scanned] = [inputs for name, inputs in ended.uses if name == "anchore/sbom-action"]
    assert (scanned["image"], scanned["output-file"]) == (IMAGE, paths[1])


def test_an_image_that_the_registry_has_under_no_digest_goes_no_further(machine, remote):
    ended = build(machine, remote, {"match": "docker image inspect", "stdout": "\n"})
    assert ended.failed
    assert 'pushed as ""?' in ended.log
    assert places(machine, "stages.challenge") == []


@pytest.fixture
def with_gpu(remote, tmp_path):
    """The reply of a `make restore` that brings a winner on CUDA, too."""
    packed = _io.read_json(remote / "release.json")["bentos"]["cpu"]
    cuda = packed | {"bento_tag": "stillhouse_cuda:0123"}
    _io.write_json(tmp_path / "release.json", {"bentos": {"cpu": packed, "cuda": cuda}})
    winner = {"model_sha256": model(remote)}
    _io.write_json(tmp_path / "winner.json", {"cpu": winner, "cuda": winner})
    shutil.copy(remote / "cpu.bento", tmp_path / "cuda.bento")
    targets = {
        "winner.json": "models/winner.json",
        "release.json": "reports/package/release.json",
        "cuda.bento": "models/bento/cuda.bento",
    }
    reply = restoring(remote)
    kept = {k: v for k, v in reply["files"].items() if v not in targets.values()}
    own = {str(tmp_path / name): target for name, target in targets.items()}
    return reply | {"files": kept | own}


def test_where_a_model_won_on_cuda_its_image_is_built_attested_and_challenges(
    machine, remote, with_gpu
):
    ended = build(machine, remote, with_gpu, without_canary="no GPU to try it on")
    assert not ended.failed, ended.log
    assert ended.outputs["cuda"] == CUDA
    name, digest = CUDA.split("@")
    built = places(machine, "stages.container --bento cuda --backend docker", f"{name}:0123")
    challenged = places(machine, f"stages.challenge --image cpu={IMAGE} --image cuda={CUDA}")
    order = [*built, *places(machine, f"docker push {name}:0123"), *challenged]
    assert len(order) == 3
    assert order == sorted(order)
    attested = [one for uses, one in ended.uses if uses == "actions/attest"]
    own = [one.get("sbom-path") for one in attested if one["subject-name"] == name]
    spdx, bill = "scratch/container/cuda.spdx.json", "scratch/container/cuda.models.cdx.json"
    assert own == [None, spdx, bill]
    assert [one["subject-digest"] for one in attested[3:]] == [digest] * 3
    assert model(remote) in (machine.project / bill).read_text()


def test_another_model_for_cuda_is_refused_before_anything_is_built(machine, remote, with_gpu):
    ended = build(machine, remote, with_gpu)
    assert ended.failed
    assert "the model for CUDA changes" in ended.log
    assert places(machine, "docker") == []


def test_models_other_than_the_challenge_in_git_are_not_built(machine, remote, tmp_path):
    other = tmp_path / "winner.json"
    _io.write_json(other, {"cpu": {"model_sha256": "9" * 64}})
    reply = restoring(remote)
    reply["files"][str(other)] = "models/winner.json"
    ended = build(machine, remote, reply)
    assert ended.failed
    assert "is not of the model 9999" in ended.log
    assert places(machine, "docker") == []


def test_a_backup_of_another_state_than_git_is_not_built(machine, remote, tmp_path):
    newer = tmp_path / "2.json"
    newer.write_text("{}")
    reply = restoring(remote)
    reply["files"][str(newer)] = "releases/2.json"
    ended = build(machine, remote, reply, backup="b-7; touch pwned")
    assert ended.failed
    assert "of another state than Git" in ended.log
    assert machine.noted()[0]["arguments"] == ["/backup", "--backup", "b-7; touch pwned"]


def test_staging_gets_the_digest_and_nothing_before_it_was_verified(machine, remote):
    machine.reply(*attested(model(remote)))
    ended = machine.run_job("cd", "staging", needs=after_build(remote), **contexts(inputs=INPUTS))
    assert not ended.failed, ended.log
    verified = places(
        machine, "attestation verify", f"oci://{IMAGE} ", "--deny-self-hosted-runners"
    )
    assert len(verified) == 3
    assert max(verified) < min(places(machine, "kubectl"))
    assert places(machine, "kubectl apply")


@pytest.mark.parametrize("job", ["staging", "canary", "production"])
def test_an_image_with_another_model_is_deployed_nowhere(machine, remote, job):
    machine.reply(*attested(MODELS[2]))
    ended = machine.run_job("cd", job, needs=after_build(remote), **contexts(inputs=INPUTS))
    assert ended.failed
    assert {line.split()[0] for line in machine.calls} - {"stages.canary"} == {"gh"}
    assert not places(machine, "stages.canary --champion")


def canary(machine, remote, verdict, code):
    handover = machine.project / "scratch/handover"
    handover.mkdir(parents=True)
    shutil.copy(remote / "challenger.json", handover)
    report = machine.place / "canary.json"
    report.write_text(json.dumps({"verdict": verdict, "reason": "why"}))
    written = {str(report): "reports/canary/canary.json"} if verdict else {}
    machine.reply(
        *attested(model(remote)),
        {"match": "track=champion", "stdout": "pod/entry-1\npod/entry-2\n"},
        {"match": "track=challenger", "stdout": "pod/entry-challenger-1\n"},
        {"match": "port-forward", "stdout": "Forwarding from 127.0.0.1:3100 -> 3000\n"},
        {"match": "stages.canary --help"},
        {"match": "stages.canary", "files": written, "code": code},
    )
    return machine.run_job("cd", "canary", needs=after_build(remote), **contexts(inputs=INPUTS))


@pytest.mark.parametrize(
    ("verdict", "code", "failed"),
    [("promote", 0, False), ("hold", 3, True), ("roll_back", 4, True), (None, 1, True)],
)
def test_whatever_the_canary_says_the_traffic_goes_back(machine, remote, verdict, code, failed):
    ended = canary(machine, remote, verdict, code)
    assert ended.failed is failed, ended.log
    weights = [
        json.loads(call["arguments"][-1]) for call in machine.noted() if "patch" in call["line"]
    ]
    assert [[one["value"] for one in patch[2:]] for patch in weights] == [[80, 20], [100, 0]]
    asked = places(machine, "stages.canary --champion http://127.0.0.1:3100 http://127.0.0.1:3101")
    assert places(machine, "--challenger http://127.0.0.1:3200 --share 0.2 --minutes 30") == asked
    assert ended.summary == (f"**{verdict}**: why\n" if verdict else "")


def test_the_challenger_stands_beside_the_image_that_serves(machine, remote):
    canary(machine, remote, "promote", 0)
    [applied] = [call["body"] for call in machine.noted() if "kubectl apply" in call["line"]]
    images = set(re.findall(r"image: (\S+)", applied))
    assert images == {image("1"), IMAGE, REDIS}


@pytest.mark.parametrize(
    ("first", "reason", "wanted"),
    [
        ("false", "", []),
        ("true", "", ["--image", f"cpu={IMAGE}"]),
        ("false", "it's urgent", ["--without-canary", "it's urgent"]),
    ],
)
def test_after_production_the_release_is_recorded_and_proposed(
    machine, remote, first, reason, wanted
):
    scratch = machine.project / "scratch"
    for name, content in (
        ("handover/challenger", {"images": 1}),
        ("canary/canary", {"verdict": "promote"}),
    ):
        _io.write_json(scratch / f"{name}.json", content)
    record = machine.place / "2.json"
    record.write_text('{"release": 2}')
    files = {str(record): "releases/2.json"}
    machine.reply({"match": "stages.release", "files": files}, restoring(remote))
    needs = after_build(remote, first=first)
    inputs = INPUTS | {"without_canary": reason}
    ended = machine.run_job("cd", "record", needs=needs, **contexts(inputs=inputs))
    assert not ended.failed, ended.log
    [release] = [call for call in machine.noted() if call["line"].startswith("stages.release")]
    assert release["arguments"] == wanted
    assert places(machine, f"stages.restore /backup --backup {BACKUP}")
    assert places(machine, "stages.backup /backup") > places(machine, "stages.release")
    assert (machine.project / "reports/canary/canary.json").is_file() is (wanted == [])
    temp = machine.place / "temp/proposal"
    shutil.copytree(scratch / "proposal", temp)
    assert not machine.run_job("cd", "propose", **contexts()).failed
    assert "releases/2.json" in pushed(machine.place.parent, "release/7-1")
