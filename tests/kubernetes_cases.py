"""What the manifests come to: documents as `kubectl kustomize` renders them, with no cluster."""

import os
import re
import shutil
import subprocess
from functools import cache

import pytest
import yaml
from structure import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("cpu", "gpu", "region-b", "spot")
COMPONENTS = ("challenger", "teacher", "records", "cuda", "spot")
NAMES = ("stillhouse", "stillhouse-cuda", "stillhouse-challenger", "stillhouse-teacher")
IMAGES = {
    name: f"registry.example/{name}@sha256:{number:064x}"
    for number, name in enumerate((*NAMES, "stillhouse-train", "redis"), 1)
}
EVERYTHING = ("gpu", "spot", "teacher", "challenger", "records")
ROLL_OUTS = (
    *((overlay,) for overlay in OVERLAYS),
    *(("cpu", component) for component in COMPONENTS),
    EVERYTHING,
    ("pipeline",),
)
each_roll_out = pytest.mark.parametrize("roll_out", ROLL_OUTS, ids=" ".join)
SERVING = ("entry", "student", "baseline", "teacher")
WORKLOADS = ("Deployment", "StatefulSet", "Job", "CronJob")


def kubectl(*arguments, stdin=None):
    """What kubectl prints; a skip where it is missing or too old for our kustomizations."""
    if shutil.which("kubectl") is None:
        why = "kubectl 1.32 or newer is not installed: it renders the manifests."
        (pytest.fail if os.environ.get("STILLHOUSE_REQUIRE_SERVICES") else pytest.skip)(why)
    return run("kubectl", *arguments, stdin=stdin).stdout


def run(*command, stdin=None, expected=0, **options):
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, **options)
    assert done.returncode == expected, done.stdout[-2000:] + done.stderr
    return done


def read_documents(text):
    return [found for found in yaml.load_all(text, yaml.CSafeLoader) if found]


@cache
def kustomized(folder):
    """Documents of a folder as it lies in Git."""
    return read_documents(kubectl("kustomize", str(KUBERNETES / folder)))


@cache
def applied(overlay, *components):
    """Documents as `apply --print` shows them, with an image for each name."""
    kubectl("version", "--client")
    flags = [word for component in components for word in ("--with", component)]
    images = [f"{name}={image}" for name, image in IMAGES.items()]
    return read_documents(
        run(str(KUBERNETES / "apply"), overlay, *flags, "--print", *images).stdout
    )


def of_kind(documents, *kinds):
    return [document for document in documents if document["kind"] in kinds]


def named(documents, kind, name):
    (found,) = [d for d in of_kind(documents, kind) if d["metadata"]["name"] == name]
    return found


def pod_of(workload):
    """The pod that a workload makes: its labels and its spec."""
    spec = workload["spec"]
    template = (spec["jobTemplate"]["spec"] if workload["kind"] == "CronJob" else spec)["template"]
    return template["metadata"]["labels"], template["spec"]


def containers_of(workload):
    """All its containers, those that run before the others too."""
    _, spec = pod_of(workload)
    return [*spec.get("initContainers", []), *spec["containers"]]


def workloads(roll_out):
    found = of_kind(applied(*roll_out), *WORKLOADS)
    assert found
    return found


def serving(roll_out):
    """Our own deployments by name."""
    found = {
        d["metadata"]["name"]: d
        for d in of_kind(applied(*roll_out), "Deployment")
        if pod_of(d)[0].get("app.kubernetes.io/component") in SERVING
    }
    assert len(found) >= 3 or roll_out == ("pipeline",)
    return found


def environment_of(documents, workload, secrets):
    """What the container of a deployment finds in its environment, as Kubernetes would give it.

    `secrets`: values by name of the secret.
    """
    (container,) = containers_of(workload)
    found = {}
    for source in container.get("envFrom", []):
        found |= named(documents, "ConfigMap", source["configMapRef"]["name"])["data"]
    for variable in container["env"]:
        found[variable["name"]] = _value(variable, container, secrets, found)
    return found


def _value(variable, container, secrets, found):
    origin = variable.get("valueFrom", {})
    if "secretKeyRef" in origin:
        return secrets[origin["secretKeyRef"]["name"]]
    if "resourceFieldRef" in origin:
        kind, resource = origin["resourceFieldRef"]["resource"].split(".")
        return str(container["resources"][kind][resource])
    return re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], variable["value"])


def settings_of(documents, name):
    """The environment of a deployment, secrets as the word they are."""
    workload = named(documents, "Deployment", name)
    return environment_of(documents, workload, _Unknown())


class _Unknown(dict):
    def __missing__(self, key):
        return f"secret-{key}"
