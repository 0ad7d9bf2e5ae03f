"""What every pod of the manifests may do, takes, and is told: rules that hold in each roll-out."""

import json
import os
import re
import shlex
import tempfile
from math import ceil
from pathlib import Path

import pytest
from bentoml._internal.container.generate import BENTO_UID_GID
from kubernetes_cases import (
    KUBERNETES,
    applied,
    containers_of,
    each_roll_out,
    named,
    of_kind,
    pod_of,
    run,
    serving,
    settings_of,
    workloads,
)
from structure import ROOT

from serving._keys import FILE_VARIABLE, OTHERS

SECRETS = {
    "entry": {"caller-keys", "entry-key", "redis-limits", "redis-cache"},
    "student": {"model-keys"},
    "baseline": {"model-keys"},
    "teacher": {"teacher-keys"},
    "redis-limits": {"redis-limits"},
    "redis-cache": {"redis-cache"},
    "pipeline": {"remote"},
    "drift": {"remote"},
}


@each_roll_out
def test_no_pod_has_rights_that_it_does_not_need(roll_out):
    for workload in workloads(roll_out):
        _, pod = pod_of(workload)
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert all("hostPath" not in volume for volume in pod.get("volumes", []))
        for container in containers_of(workload):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_the_namespace_holds_pods_to_the_restricted_standard():
    (space,) = of_kind(applied("cpu"), "Namespace")
    assert space["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@each_roll_out
def test_every_container_has_bounds(roll_out):
    for workload in workloads(roll_out):
        for container in containers_of(workload):
            resources = container["resources"]
            for kind in ("cpu", "memory", "ephemeral-storage"):
                assert kind in resources["requests"], container["name"]
                assert kind in resources["limits"], container["name"]
        for volume in pod_of(workload)[1].get("volumes", []):
            assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": ""}), volume


def test_threads_are_as_many_as_cores():
    told = settings_of(applied("cpu"), "student")
    (container,) = containers_of(named(applied("cpu"), "Deployment", "student"))
    assert ceil(float(told["OMP_NUM_THREADS"])) == int(container["resources"]["limits"]["cpu"])
    assert container["resources"]["requests"]["cpu"] == container["resources"]["limits"]["cpu"]


@each_roll_out
def test_what_listens_is_probed(roll_out):
    for workload in of_kind(applied(*roll_out), "Deployment", "StatefulSet"):
        (container,) = containers_of(workload)
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
        if workload["metadata"]["name"] in serving(roll_out):
            paths = [container[f"{p}Probe"]["httpGet"]["path"] for p in ("readiness", "liveness")]
            assert paths == ["/readyz", "/livez"]


@each_roll_out
def test_no_secret_has_a_value_and_each_workload_has_its_own(roll_out):
    documents = applied(*roll_out)
    assert not of_kind(documents, "Secret")
    text = json.dumps(documents)
    assert not re.search(r"sh_[0-9a-f]{12}_|redis://:[^$]|BEGIN [A-Z ]*KEY", text)
    for workload in workloads(roll_out):
        named_here = set(re.findall(r'"(?:secretName)": "([^"]+)"', json.dumps(workload)))
        for container in containers_of(workload):
            sources = [one.get("valueFrom", {}) for one in container.get("env", [])]
            named_here |= {s["secretKeyRef"]["name"] for s in sources if "secretKeyRef" in s}
            named_here |= {
                s["secretRef"]["name"] for s in container.get("envFrom", []) if "secretRef" in s
            }
        name = workload["metadata"]["name"].removesuffix("-challenger")
        more = {"teacher-key"} if "teacher" in roll_out and name == "entry" else set()
        assert named_here == SECRETS[name] | more


def test_the_readme_names_every_secret():
    table = (KUBERNETES / "README.md").read_text(encoding="utf-8")
    wanted = set().union(*SECRETS.values()) | {"monitor-key", "teacher-key"}
    assert {name for name in wanted if f"`{name}`" not in table} == set()


@each_roll_out
def test_files_of_keys_are_closed_to_others(roll_out):
    for deployment in serving(roll_out).values():
        _, pod = pod_of(deployment)
        (keys,) = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
        assert keys["defaultMode"] & OTHERS == 0
        assert keys["defaultMode"] & 0o040, "its group, which is fsGroup, reads it"
        mounts = {m["name"]: m["mountPath"] for m in containers_of(deployment)[0]["volumeMounts"]}
        name = settings_of(applied(*roll_out), deployment["metadata"]["name"])[FILE_VARIABLE]
        assert name == f"{mounts['keys']}/keys.jsonl"


def test_drift_never_runs_twice_at_once():
    drift = named(applied("pipeline"), "CronJob", "drift")["spec"]
    assert drift["concurrencyPolicy"] == "Forbid"
    assert drift["timeZone"] == "Etc/UTC"
    assert drift["jobTemplate"]["spec"]["backoffLimit"] == 0


def test_jobs_run_targets_and_stages_that_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    scripts = [
        container["args"][0]
        for workload in of_kind(applied("pipeline"), "Job", "CronJob")
        for container in pod_of(workload)[1]["containers"]
    ]
    text = "\n".join(scripts)
    called = set(re.findall(r"^make ([a-z-]+)", text, re.M))
    assert called == {"repro", "backup", "window"}
    assert called <= targets
    for stage in re.findall(r"-m stages\.(\w+)", text):
        assert (ROOT / "stages" / f"{stage}.py").is_file()
    for script in scripts:
        assert shlex.split(script, comments=True)


@pytest.mark.parametrize(("kind", "name"), [("Job", "pipeline"), ("CronJob", "drift")])
def test_each_run_lays_the_images_code_over_the_last_one(kind, name):
    _, pod = pod_of(named(applied("pipeline"), kind, name))
    (first,), (second,) = pod["initContainers"], pod["containers"]
    *command, _, place = first["command"]
    assert second["workingDir"] == place
    mounts = {mount["name"]: mount["mountPath"] for mount in first["volumeMounts"]}
    user = {"user": 65534, "group": 65534, "extra_groups": []} if os.getuid() == 0 else {}
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others
        Path(folder).chmod(0o755)
        packed, volume = Path(folder, "packed"), Path(folder, "volume")
        (packed / ".git").mkdir(parents=True)
        (packed / ".git/object").touch(0o444)  # as Git's are
        volume.mkdir()
        volume.chmod(0o777)  # the volume's own folder is root's
        project = volume / Path(place).relative_to(mounts["project"])
        for _ in range(2):
            run(*command, str(packed), str(project), **user)
        assert (project / ".git/object").exists()


def test_pods_run_as_the_user_of_their_image():
    recipes = ROOT / "serving" / "Dockerfile.j2", KUBERNETES / "train.Dockerfile"
    served, trained = (path.read_text(encoding="utf-8") for path in recipes)
    assert "--uid {{ bento__uid_gid }}" in served
    assert f"USER {BENTO_UID_GID}:{BENTO_UID_GID}\n" in trained
    for roll_out in (("cpu", "teacher"), ("pipeline",)):
        for workload in workloads(roll_out):
            image = containers_of(workload)[0]["image"]
            expected = 999 if "/redis@" in image else BENTO_UID_GID
            assert pod_of(workload)[1]["securityContext"]["runAsUser"] == expected
    base = re.compile(r"ARG BASE=(\S+@sha256:[0-9a-f]{64})\n")
    assert base.search(served)[1] == base.search(trained)[1]
