"""Every overlay renders, is what Kubernetes' schemas allow, and runs images by digest alone."""

import copy
import json
import os
import re
import shutil
import stat
from functools import cache

import pytest
from custom_resources import CUSTOM
from kubernetes_cases import (
    COMPONENTS,
    IMAGES,
    KUBERNETES,
    OVERLAYS,
    WORKLOADS,
    applied,
    containers_of,
    each_roll_out,
    kustomized,
    named,
    of_kind,
    read_documents,
    run,
    settings_of,
)

kubernetes_validate = pytest.importorskip("kubernetes_validate")
jsonschema = pytest.importorskip("jsonschema")
OLDEST, NEWEST = "1.30", "1.37"
APPLY, SET_WEIGHTS = str(KUBERNETES / "apply"), str(KUBERNETES / "set-weights")
ZEROS = f"@sha256:{'0' * 64}"


@cache
def check_once(text, version):
    """Most documents are in many roll-outs."""
    check(json.loads(text), version)


def check(document, version):
    """Refuse what the API server would, unknown fields included."""
    custom = CUSTOM.get((document["apiVersion"], document["kind"]))
    if custom is None:
        kubernetes_validate.validate(document, version, strict=True)
    else:
        assert document["metadata"]["name"]
        jsonschema.Draft202012Validator(custom).validate(document["spec"])


def images_of(documents):
    return {
        container["image"]
        for workload in of_kind(documents, *WORKLOADS)
        for container in containers_of(workload)
    }


@each_roll_out
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_document_is_what_its_schema_allows(roll_out, version):
    documents = applied(*roll_out)
    for document in documents:
        check_once(json.dumps(document, sort_keys=True), version)
    places = [
        (document["kind"], document["metadata"].get("namespace"), document["metadata"]["name"])
        for document in documents
    ]
    assert len(set(places)) == len(places)
    assert {space for kind, space, _ in places if kind != "Namespace"} == {"stillhouse"}
    assert len(places) >= (4 if roll_out == ("pipeline",) else 25)


def test_all_that_is_there_is_rendered():
    assert {path.parent.name for path in KUBERNETES.glob("overlays/*/*.yaml")} == set(OVERLAYS)
    found = {path.parent.name for path in KUBERNETES.glob("components/*/kustomization.yaml")}
    assert found == set(COMPONENTS)


def spoil(document, place, value):
    spoilt = copy.deepcopy(document)
    at = spoilt
    for step in place[:-1]:
        at = at[step]
    at[place[-1]] = value
    return spoilt


@pytest.mark.parametrize(
    ("kind", "name", "place", "value"),
    [
        ("Deployment", "entry", ("spec", "strategi"), {}),
        ("Service", "entry", ("spec", "ports", 0, "port"), "http"),
        ("HTTPRoute", "stillhouse", ("spec", "rules", 0, "backendRefs", 0, "weight"), "all"),
        ("HTTPRoute", "stillhouse", ("spec", "rules", 0, "backendRef"), []),
        ("ScaledObject", "student", ("spec", "triggers", 0, "metadata", "threshold"), 4),
        ("ScaledObject", "student", ("spec", "triggers", 0, "metricType"), "Value"),
        ("PodMonitor", "stillhouse", ("spec", "podMetricsEndpoints", 0, "interval"), "often"),
        ("PrometheusRule", "stillhouse", ("spec", "groups", 0, "rules", 0, "expression"), "up"),
    ],
)
def test_the_schemas_see_a_mistake(kind, name, place, value):
    document = named(applied("cpu"), kind, name)
    check(document, NEWEST)
    with pytest.raises(jsonschema.ValidationError):
        check(spoil(document, place, value), NEWEST)


@pytest.mark.parametrize("folder", [*(f"overlays/{name}" for name in OVERLAYS), "pipeline"])
def test_as_it_lies_in_git_nothing_can_be_pulled(folder):
    images = images_of(kustomized(folder))
    assert images
    assert all(re.fullmatch(rf"registry\.invalid/[a-z-]+{ZEROS}", image) for image in images)


@pytest.mark.parametrize(
    ("roll_out", "expected"),
    [
        (("cpu",), {"stillhouse", "redis"}),
        (("gpu",), {"stillhouse-cuda", "redis"}),
        (("cpu", "challenger"), {"stillhouse", "stillhouse-challenger", "redis"}),
        (("gpu", "challenger"), {"stillhouse-cuda", "stillhouse-challenger", "redis"}),
        (("cpu", "teacher"), {"stillhouse", "stillhouse-teacher", "redis"}),
        (("pipeline",), {"stillhouse-train"}),
    ],
)
def test_a_roll_out_runs_the_images_that_were_given(roll_out, expected):
    assert images_of(applied(*roll_out)) == {IMAGES[name] for name in expected}


def test_a_roll_out_without_an_image_is_refused():
    given = [f"{name}={image}" for name, image in IMAGES.items() if name != "redis"]
    refused = run(APPLY, "cpu", "--print", *given, expected=1)
    assert "no image was given for: redis." in refused.stderr
    assert refused.stdout == ""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "expected an overlay (cpu gpu region-b spot) or pipeline"),
        (["moon"], "there is no overlay moon"),
        (["cpu", "--print"], "no image was given"),
        (["cpu", "--with", "sails"], "there is no component sails"),
        (["cpu", "stillhouse=ghcr.io/me/stillhouse:latest"], "expected NAME=IMAGE@sha256:DIGEST"),
        (["cpu", "stillhouse=ghcr.io/me/stillhouse@sha256:12"], "expected NAME=IMAGE@sha256:"),
    ],
)
def test_apply_refuses_in_one_line(words, told):
    refused = run(APPLY, *words, expected=1)
    assert told in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_what_is_printed_is_the_overlay_with_images_and_alerts():
    printed = {(d["kind"], d["metadata"]["name"]) for d in applied("cpu")}
    rendered = {(d["kind"], d["metadata"]["name"]) for d in kustomized("overlays/cpu")}
    assert printed - rendered == {("PrometheusRule", "stillhouse")}
    assert rendered <= printed


WEIGHTED = ("cpu", "challenger")


def weights(route):
    return {one["name"]: one["weight"] for one in route["spec"]["rules"][0]["backendRefs"]}


def write_route(folder, documents):
    path = folder / "route.yaml"  # JSON is YAML
    path.write_text(json.dumps(named(documents, "HTTPRoute", "stillhouse")), encoding="utf-8")
    return ["--local", "--filename", str(path), "--output", "yaml"]


def test_a_challenger_begins_without_requests():
    assert weights(named(applied(*WEIGHTED), "HTTPRoute", "stillhouse")) == {
        "entry": 100,
        "entry-challenger": 0,
    }
    assert weights(named(applied("cpu"), "HTTPRoute", "stillhouse")) == {"entry": 100}


@pytest.mark.parametrize("percent", [0, 7, 100])
def test_weights_are_set_together(tmp_path, percent):
    route = write_route(tmp_path, applied(*WEIGHTED))
    (found,) = read_documents(run(SET_WEIGHTS, str(percent), *route).stdout)
    assert weights(found) == {"entry": 100 - percent, "entry-challenger": percent}


@pytest.mark.parametrize("percent", ["101", "-1", "ten", "07", "5.5", ""])
def test_a_share_that_is_none_is_refused(percent):
    assert "expected a whole number from 0 to 100" in run(SET_WEIGHTS, percent, expected=1).stderr


def test_without_a_challenger_no_weight_is_set(tmp_path):
    route = write_route(tmp_path, applied("cpu"))
    assert "/backendRefs/1" in run(SET_WEIGHTS, "5", *route, expected=1).stderr


CLUSTER = """#!/usr/bin/env bash
[[ $1 == kustomize ]] && exec {kubectl} "$@"
echo "$*" >> {log}
[[ $* == *"get httproute"* ]] && printf 30
[[ $1 == apply ]] && cp "${{@: -1}}" {folder}/applied.yaml
exit 0
"""


@pytest.fixture
def cluster(tmp_path):
    """A kubectl whose cluster gives the challenger 30 % and notes what it is told."""
    program = tmp_path / "bin" / "kubectl"
    program.parent.mkdir()
    log = tmp_path / "log"
    told = {"kubectl": shutil.which("kubectl"), "log": log, "folder": tmp_path}
    program.write_text(CLUSTER.format(**told), encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def apply(*words):
        path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
        run(APPLY, *words, *pairs(), env={**os.environ, "PATH": path})
        text = (tmp_path / "applied.yaml").read_text(encoding="utf-8")
        return read_documents(text), log.read_text(encoding="utf-8")

    return apply


def pairs():
    return [f"{name}={image}" for name, image in IMAGES.items()]


def test_a_roll_out_leaves_the_weights_as_they_are(cluster):
    documents, said = cluster("cpu", "--with", "challenger")
    assert weights(named(documents, "HTTPRoute", "stillhouse")) == {
        "entry": 70,
        "entry-challenger": 30,
    }
    assert "rollout status" in said
    assert "delete" not in said


def test_without_its_component_the_challenger_is_taken_away(cluster):
    documents, said = cluster("cpu")
    assert weights(named(documents, "HTTPRoute", "stillhouse")) == {"entry": 100}
    assert "--selector track=challenger" in said
    kinds = {d["kind"].lower() for d in applied(*WEIGHTED) if d["metadata"]["name"][-4:] == "nger"}
    taken = said.splitlines()[-1].rpartition(" ")[2].split(",")
    assert kinds | {"configmap"} == set(taken)


def test_every_overlay_is_what_its_name_says():
    cpu, gpu, spot, region = (applied(name) for name in ("cpu", "gpu", "spot", "region-b"))
    student = {name: named(d, "Deployment", "student") for name, d in (("cpu", cpu), ("gpu", gpu))}
    limits = {n: containers_of(d)[0]["resources"]["limits"] for n, d in student.items()}
    assert "nvidia.com/gpu" not in limits["cpu"]
    assert limits["gpu"]["nvidia.com/gpu"] == 1
    assert settings_of(gpu, "entry")["STILLHOUSE_DEVICE"] == "cuda"
    spec = named(spot, "Deployment", "student")["spec"]["template"]["spec"]
    keys = {taint["key"] for taint in spec["tolerations"]}
    assert keys == {"cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority"}
    labels = {d["metadata"]["labels"]["region"] for d in region if d["kind"] != "PrometheusRule"}
    assert labels == {"b"}
    folders = {settings_of(d, "entry")["STILLHOUSE_LIVE_FOLDER"] for d in (cpu, region)}
    assert folders == {"/var/lib/stillhouse/live", "/var/lib/stillhouse/live/region=b"}
    assert len(of_kind(region, "StatefulSet", "Deployment")) == 5, "Redis of its own"
