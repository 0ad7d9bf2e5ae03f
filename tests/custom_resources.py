"""What our custom resources may hold, as far as we use them: JSON Schema, closed to other fields.

Kubernetes' own schemas do not know them. Fields, types and bounds are those of Gateway API 1
(HTTPRoute), KEDA 2 (ScaledObject) and the Prometheus Operator (PodMonitor, PrometheusRule).
"""

TEXT = {"type": "string", "minLength": 1}
DURATION = {"type": "string", "pattern": r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"}
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
LABEL = {"type": "string", "pattern": r"^[a-zA-Z_][a-zA-Z0-9_]*$"}


def closed(required, **optional):
    """An object with these fields and no others."""
    return {
        "type": "object",
        "properties": {**required, **optional},
        "required": sorted(required),
        "additionalProperties": False,
    }


def some(items, most):
    return {"type": "array", "items": items, "minItems": 1, "maxItems": most}


def map_of(values):
    return {"type": "object", "additionalProperties": values}


PATH = closed(
    {
        "type": {"enum": ["Exact", "PathPrefix", "RegularExpression"]},
        "value": {"type": "string", "pattern": "^/"},
    }
)
BACKEND = closed(
    {"name": TEXT, "port": PORT}, weight={"type": "integer", "minimum": 0, "maximum": 1_000_000}
)
RULE = closed(
    {"backendRefs": some(BACKEND, 16)},
    matches=some(closed({"path": PATH}), 64),
    timeouts=closed({}, request=DURATION, backendRequest=DURATION),
)
ROUTE = closed(
    {"parentRefs": some(closed({"name": TEXT}, namespace=TEXT), 32), "rules": some(RULE, 16)},
    hostnames=some(TEXT, 16),
)
TRIGGER = closed(
    {"type": {"const": "prometheus"}, "metadata": map_of({"type": "string"})},
    name=TEXT,
    # the fallback is for averages alone
    metricType={"const": "AverageValue"},
)
POLICY = closed(
    {
        "type": {"enum": ["Pods", "Percent"]},
        "value": {"type": "integer", "minimum": 1},
        "periodSeconds": {"type": "integer", "minimum": 1, "maximum": 1800},
    }
)
SIDE = closed(
    {"policies": some(POLICY, 8)},
    stabilizationWindowSeconds={"type": "integer", "minimum": 0, "maximum": 3600},
)
COUNT = {"type": "integer", "minimum": 1}
SCALED = closed(
    {"scaleTargetRef": closed({"name": TEXT}), "triggers": some(TRIGGER, 16)},
    minReplicaCount=COUNT,
    maxReplicaCount=COUNT,
    pollingInterval=COUNT,
    fallback=closed({"failureThreshold": COUNT, "replicas": COUNT}),
    advanced=closed(
        {},
        horizontalPodAutoscalerConfig=closed({}, behavior=closed({}, scaleUp=SIDE, scaleDown=SIDE)),
    ),
)
RELABELING = closed({"targetLabel": LABEL}, replacement=TEXT, sourceLabels=some(LABEL, 8))
ENDPOINT = closed(
    {"port": TEXT, "path": {"type": "string", "pattern": "^/"}},
    interval=DURATION,
    authorization=closed({"credentials": closed({"name": TEXT, "key": TEXT})}, type=TEXT),
    relabelings=some(RELABELING, 16),
)
MONITOR = closed(
    {
        "selector": closed({"matchLabels": map_of(TEXT)}),
        "podMetricsEndpoints": some(ENDPOINT, 4),
    }
)
ALERT = closed(
    {"alert": TEXT, "expr": TEXT, "labels": map_of(TEXT), "annotations": map_of(TEXT)},
    **{"for": DURATION},
)
RULES = closed({"groups": some(closed({"name": TEXT, "rules": some(ALERT, 64)}), 64)})

CUSTOM = {
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): ROUTE,
    ("keda.sh/v1alpha1", "ScaledObject"): SCALED,
    ("monitoring.coreos.com/v1", "PodMonitor"): MONITOR,
    ("monitoring.coreos.com/v1", "PrometheusRule"): RULES,
}
