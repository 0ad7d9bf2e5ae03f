"""What must fit together in the manifests, fits: selectors, ports, settings, time to end."""

import json
import re
from dataclasses import fields

import pytest
from kubernetes_cases import (
    EVERYTHING,
    applied,
    containers_of,
    each_roll_out,
    named,
    of_kind,
    pod_of,
    serving,
    settings_of,
    workloads,
)

from serving._cascade.settings import CascadeSettings
from serving._keys import FILE_VARIABLE
from serving._lifecycle import DrainLimits
from serving._live.settings import LiveSettings
from serving._service_settings import ServiceSettings

READ = {
    *(f"STILLHOUSE_{one.name.upper()}" for one in fields(ServiceSettings)),
    *(f"STILLHOUSE_{one.name.upper()}" for one in fields(CascadeSettings)),
    *(f"STILLHOUSE_LIVE_{one.name.upper()}" for one in fields(LiveSettings)),
    "STILLHOUSE_DRAIN_NOTICE_S",
    "STILLHOUSE_DRAIN_LIMIT_S",
    FILE_VARIABLE,
}


@each_roll_out
def test_selectors_find_their_pods_and_no_others(roll_out):
    documents = applied(*roll_out)
    pods = {w["metadata"]["name"]: pod_of(w)[0] for w in workloads(roll_out)}
    checked = 0
    for document in of_kind(
        documents, "Service", "PodDisruptionBudget", "Deployment", "StatefulSet"
    ):
        selector = document["spec"]["selector"]
        labels = selector.get("matchLabels", selector)
        found = {name for name, pod in pods.items() if labels.items() <= pod.items()}
        assert found == {document["metadata"]["name"]}
        checked += 1
    assert checked >= 10 or roll_out == ("pipeline",)


@each_roll_out
def test_every_deployment_of_ours_has_a_service_a_budget_and_a_scale(roll_out):
    documents = applied(*roll_out)
    names = set(serving(roll_out))
    for kind in ("Service", "PodDisruptionBudget"):
        assert names <= {d["metadata"]["name"] for d in of_kind(documents, kind)}
    scaled = [
        d["spec"]["scaleTargetRef"]["name"]
        for d in of_kind(documents, "ScaledObject", "HorizontalPodAutoscaler")
    ]
    assert sorted(scaled) == sorted(names - {"teacher"}), "each once"
    for name in scaled:
        assert "replicas" not in serving(roll_out)[name]["spec"]


@each_roll_out
def test_ports_and_addresses_agree(roll_out):
    documents = applied(*roll_out)
    services = {d["metadata"]["name"]: d["spec"] for d in of_kind(documents, "Service")}
    for name, deployment in serving(roll_out).items():
        (container,) = containers_of(deployment)
        told = settings_of(documents, name)
        assert container["ports"] == [{"name": "http", "containerPort": int(told["BENTOML_PORT"])}]
        assert services[name]["ports"][0]["targetPort"] == "http"
        text = " ".join(value for key, value in told.items() if key.startswith("STILLHOUSE_"))
        addresses = re.findall(r"(?:http|redis)://(?:[^@\s/]*@)?([\w-]+):(\d+)", text)
        for host, port in addresses:
            assert services[host]["ports"][0]["port"] == int(port), host
        assert addresses or name == "teacher"
    for route in of_kind(documents, "HTTPRoute"):
        for backend in route["spec"]["rules"][0]["backendRefs"]:
            assert services[backend["name"]]["ports"][0]["port"] == backend["port"]


def test_champion_and_challenger_ask_their_own_models():
    documents = applied("cpu", "challenger")
    for track, suffix in (("champion", ""), ("challenger", "-challenger")):
        told = settings_of(documents, f"entry{suffix}")
        assert told["STILLHOUSE_STUDENT_URL"] == f"http://student{suffix}:3000"
        assert told["STILLHOUSE_BASELINE_URL"] == f"http://baseline{suffix}:3000"
        scaled = named(documents, "ScaledObject", f"student{suffix}")["spec"]
        asked = " ".join(trigger["metadata"]["query"] for trigger in scaled["triggers"])
        assert set(re.findall(r'track="(\w+)"', asked)) == {track}
        assert pod_of(named(documents, "Deployment", f"student{suffix}"))[0]["track"] == track


@each_roll_out
def test_every_variable_is_one_that_the_service_reads(roll_out):
    for name in serving(roll_out):
        told = settings_of(applied(*roll_out), name)
        ours = {variable for variable in told if variable.startswith("STILLHOUSE_")}
        assert ours - READ == set()
        assert len(ours) >= 4
        ServiceSettings.from_environment(told | {"STILLHOUSE_MODELS_KEY": ""})
        CascadeSettings.from_environment(told)
        LiveSettings.from_environment(told)


def seconds_to_end(deployment, told):
    """From the wish to end a pod until it is gone in any case [s]."""
    (container,) = containers_of(deployment)
    waits = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    return waits + DrainLimits.from_environment(told).total_s


@each_roll_out
def test_what_was_taken_ends_before_the_pod_does(roll_out):
    for name, deployment in serving(roll_out).items():
        told = settings_of(applied(*roll_out), name)
        limits = DrainLimits.from_environment(told)
        assert float(told["STILLHOUSE_DEADLINE_S"]) <= limits.limit_s - limits.notice_s
        _, pod = pod_of(deployment)
        assert seconds_to_end(deployment, told) <= pod["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("roll_out", [("spot",), EVERYTHING], ids=" ".join)
def test_pods_on_spot_nodes_end_within_the_shortest_notice(roll_out):
    on_spot = 0
    for name, deployment in serving(roll_out).items():
        _, pod = pod_of(deployment)
        terms = json.dumps(pod.get("affinity", {}))
        if any("spot" in taint["key"] for taint in pod["tolerations"]) and '"weight": 100' in terms:
            assert pod["terminationGracePeriodSeconds"] <= 15, name
            on_spot += 1
        elif name.startswith("entry"):
            assert "NotIn" in terms, "callers' connections end on other nodes"
    assert on_spot >= 2


def test_components_do_not_undo_each_other():
    _, pod = pod_of(named(applied(*EVERYTHING), "Deployment", "student"))
    keys = {taint["key"] for taint in pod["tolerations"]}
    assert {"nvidia.com/gpu", "cloud.google.com/gke-spot"} <= keys
    assert "nvidia.com/gpu.present" in pod["nodeSelector"]


def bytes_of(quantity):
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()
    return int(number) * {"Mi": 2**20, "Gi": 2**30}[unit]


@each_roll_out
def test_live_records_fit_into_their_volume(roll_out):
    documents = applied(*roll_out)
    for name in serving(roll_out):
        if not name.startswith("entry"):
            continue
        told = LiveSettings.from_environment(settings_of(documents, name))
        _, pod = pod_of(named(documents, "Deployment", name))
        (volume,) = [v for v in pod["volumes"] if v["name"] == "live"]
        if "emptyDir" in volume:
            room = volume["emptyDir"]["sizeLimit"]
        else:
            claim = named(documents, "PersistentVolumeClaim", "live")["spec"]
            assert claim["accessModes"] == ["ReadWriteMany"]
            room = claim["resources"]["requests"]["storage"]
        assert (told.keep_mb + told.spool_mb + told.roll_mb) * 2**20 < bytes_of(room)
