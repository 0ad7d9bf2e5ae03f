"""Reading what /metrics says."""

from prometheus_client.parser import text_string_to_metric_families


def samples(text):
    """Value by (name, *labels), where no sample stands twice."""
    found = {}
    for family in text_string_to_metric_families(text if isinstance(text, str) else text.decode()):
        for sample in family.samples:
            key = (sample.name, *sorted(sample.labels.items()))
            assert key not in found, f"{key} stands twice"
            found[key] = sample.value
    return found


def value(metrics, name, **labels):
    """One sample of this process."""
    return samples(metrics.exposition())[f"stillhouse_{name}", *sorted(labels.items())]
