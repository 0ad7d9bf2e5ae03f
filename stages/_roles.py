"""Who holds which role after a chain of decisions: what the registry's aliases and tags must say.

`champion` is in force, `previous` is where a rollback goes. `challenger` is what a standing
challenge proposes; without one it is what was released last, which after a rollback is what was
withdrawn. Those of CUDA end in -cuda.
"""

from collections.abc import Mapping, Sequence

from stages._challenges import Challenge
from stages._releases import DEVICES, Decision, Record, before, digests, images_of, in_force


def roles(chain: Sequence[Record], pending: Challenge | None = None) -> dict[str, str | None]:
    """Digests by alias, None where there is nothing.

    Args:
        pending: the challenge that stands after this chain.
    """
    held = {
        role: digests(holder["winners"]) if holder else {}
        for role, holder in _holders(chain, pending).items()
    }
    return {
        role if device == "cpu" else f"{role}-{device}": held[role].get(device)
        for role in held
        for device in DEVICES
    }


def image_tags(
    chain: Sequence[Record], pending: Challenge | None = None
) -> dict[str, Mapping[str, str]]:
    """Tags with the image that serves a model, by the model's digest.

    A model that holds several roles in different images is tagged with the champion's.
    """
    tags: dict[str, dict[str, str]] = {}
    for holder in filter(None, _holders(chain, pending).values()):  # the champion is the last
        models = digests(holder["winners"])
        for device, image in images_of(holder).items():
            tags.setdefault(models[device], {})[f"image.{device}"] = image["image"]
    return dict(tags)


def _holders(chain: Sequence[Record], pending: Challenge | None) -> dict[str, Decision | None]:
    released = [record for record in chain if record["kind"] == "release"]
    return {
        "challenger": pending or (released[-1] if released else None),
        "previous": before(chain),
        "champion": in_force(chain),
    }


def describe_winners(decision: Decision) -> list[str]:
    """A line per device: who won, where the model lies, the first letters of its digest."""
    return [
        f"{device}: {winner['candidate']}, {winner['folder']}, {winner['model_sha256'][:12]}"
        for device, winner in decision["winners"].items()
        if winner
    ]


def list_images(decision: Decision) -> list[str]:
    """A line per device that has an image."""
    return [f"image {image['image']} ({d})" for d, image in images_of(decision).items()]
