"""Who may reach whom, and what the scaling asks Prometheus for."""

import json
import re

import pytest
from kubernetes_cases import (
    EVERYTHING,
    ROLL_OUTS,
    SERVING,
    WORKLOADS,
    applied,
    named,
    of_kind,
    pod_of,
)
from test_monitoring import KNOWN, OF_PROMETHEUS, promtool, selectors, series_of

PEOPLE = ("gateway", "monitoring")


def allowed(documents, source, target, port):
    """Whether a packet may go: from a pod or namespace (by name) to a pod of ours."""
    pods = {
        pod_of(w)[0].get("app.kubernetes.io/component") or w["metadata"]["name"]: pod_of(w)[0]
        for w in of_kind(documents, *WORKLOADS)
    }
    out = source in PEOPLE or _lets(documents, "egress", pods[source], pods[target], None, port)
    space = source if source in PEOPLE else None
    return out and _lets(documents, "ingress", pods[target], pods.get(source), space, port)


def _lets(documents, way, own, other, space, port):
    """Whether a policy of `own` lets `other`, or a namespace, through."""
    for policy in of_kind(documents, "NetworkPolicy"):
        if not _selects(policy["spec"]["podSelector"], own):
            continue
        for rule in policy["spec"].get(way, []):
            peers = rule["from" if way == "ingress" else "to"]
            if port in {one["port"] for one in rule["ports"]} and any(
                _is(peer, other, space) for peer in peers
            ):
                return True
    return False


def _is(peer, pod, space):
    if "namespaceSelector" in peer:
        return peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": space}
    return pod is not None and _selects(peer["podSelector"], pod)


def _selects(selector, labels):
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(
        labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", [])
    )


@pytest.mark.parametrize("roll_out", [("cpu", "teacher"), EVERYTHING], ids=" ".join)
def test_only_who_must_reach_a_pod_does(roll_out):
    documents = applied(*roll_out)
    ours = ("entry", "student", "baseline", "teacher", "redis-limits", "redis-cache")
    ways = {
        (source, target)
        for source in (*ours, *PEOPLE)
        for target in ours
        if source != target
        and allowed(documents, source, target, 6379 if target.startswith("redis") else 3000)
    }
    assert ways == {
        ("gateway", "entry"),
        *(("monitoring", target) for target in SERVING),
        *(("entry", target) for target in ours[1:]),
    }
    (everything,) = [
        d["spec"]
        for d in of_kind(documents, "NetworkPolicy")
        if d["spec"]["podSelector"] == {} and set(d["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    ]
    assert everything.keys() == {"podSelector", "policyTypes"}, "all is closed, and nothing opened"


def test_nobody_reaches_the_pipeline():
    documents = applied("pipeline")
    (policy,) = of_kind(documents, "NetworkPolicy")
    assert "ingress" not in policy["spec"]
    for workload in of_kind(documents, "Job", "CronJob"):
        assert _selects(policy["spec"]["podSelector"], pod_of(workload)[0])
    for workload in of_kind(applied(*EVERYTHING), *WORKLOADS):  # beside it, and stricter
        assert not _selects(policy["spec"]["podSelector"], pod_of(workload)[0])


def queries():
    """PromQL of every scaled object."""
    found = []
    for roll_out in ROLL_OUTS:
        for scaled in of_kind(applied(*roll_out), "ScaledObject"):
            found += [trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]]
    return sorted(set(found))


def relabelings():
    (monitor,) = of_kind(applied("cpu"), "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    return endpoint["relabelings"]


def test_scaling_asks_for_series_that_exist():
    added = {r["targetLabel"] for r in relabelings()}
    checked = set()
    for query in queries():
        for name, matchers in selectors(query):
            series = series_of(name)
            assert series, f"stillhouse_{name} is not measured"
            for label, _, value in matchers:
                assert label in {*series.labels, *OF_PROMETHEUS, *added}
                assert value in series.labels.get(label, (value,))
            checked.add(series.name)
    assert checked == {"queue_seconds", "completion_tokens_total"}


def test_labels_of_the_scraping_are_those_of_pods_and_hide_no_series_own():
    labels, _ = pod_of(named(applied("cpu"), "Deployment", "student"))
    known = {re.sub(r"[^a-zA-Z0-9_]", "_", label) for label in labels}
    for rule in relabelings():
        for source in rule.get("sourceLabels", []):
            assert source.removeprefix("__meta_kubernetes_pod_label_") in known
    own = {label for series in KNOWN.values() for label in series.labels}
    assert not own & {rule["targetLabel"] for rule in relabelings()}


def test_promql_of_the_scaling_parses(tmp_path):
    rules = [{"record": f"scaling:{n}", "expr": query} for n, query in enumerate(queries())]
    written = {"groups": [{"name": "scaling", "rules": rules}]}
    (tmp_path / "rules.yml").write_text(json.dumps(written), encoding="utf-8")
    told = promtool("check", "rules", "rules.yml", folder=tmp_path)
    assert f"SUCCESS: {len(rules)} rules" in told
    assert len(rules) == 4
