"""What retraining changes in params.yaml, by the means of a profile, and how that is taken back.

configs/retrained.yaml names the windows that are learned from and the incumbent as a candidate; it
is laid over params.yaml as it is (stages/_profile.py). Windows of earlier retrainings stay in it:
whoever left them out would have the next student forget them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from serving.errors import StillhouseError
from stages import _io
from stages._params import read_yaml
from stages._profile import CONFIGS, MARK, PARAMS, apply_profile, merge
from stages._retraining.incumbent import INCUMBENT

PROFILE = "retrained"
BEFORE = "before"  # folder of the two files as they were
HEAD = """\
# Made by `make retrain`: the windows that were learned from, and the model that they are compared
# with. Commit it with params.yaml; `make retrain ARGS=--undo` takes the last one back.
"""


@dataclass(frozen=True)
class Before:
    """params.yaml and the profile as they were."""

    params: str
    profile: str | None
    """None: there was none."""
    made: str | None = None
    """What params.yaml became; None where that was not seen, such as of one that was killed."""


def overlay_of(window: str, use: Mapping[str, Any]) -> dict[str, Any]:
    """The params that retraining on one window sets.

    Args:
        use: fields of `prepare.windows.<window>`.
    """
    return {
        "prepare": {"windows": {window: dict(use)}},
        "answer": {"candidates": {INCUMBENT.name: INCUMBENT.as_posix()}},
    }


def lay_over(root: Path, overlay: Mapping[str, Any]) -> str:
    """Join the overlay to configs/retrained.yaml and lay that over params.yaml.

    Returns:
        The difference, as `make profile` prints it.
    """
    path = root / CONFIGS / f"{PROFILE}.yaml"
    data = read_yaml(path) if path.is_file() else {}
    merge(data, overlay)
    yaml, stream = YAML(), StringIO()
    yaml.dump(data, stream)
    before = read_before(root)
    _io.write_text(path, HEAD + stream.getvalue())
    try:
        return apply_profile(PROFILE, root, keep_edits=True)
    except BaseException:
        restore(root, before, "")
        raise


def named_windows(root: Path) -> list[str]:
    """Windows that params.yaml names now."""
    return list((read_yaml(root / PARAMS).get("prepare") or {}).get("windows") or {})


def read_before(root: Path) -> Before:
    """The two files as they are."""
    path = root / CONFIGS / f"{PROFILE}.yaml"
    profile = path.read_text(encoding="utf-8") if path.is_file() else None
    return Before(_read_params(root), profile)


def keep(before: Before, folder: Path) -> None:
    """Keep the two files below `folder`, for `load`."""
    _io.write_json(folder / f"{BEFORE}.json", before.__dict__)


def load(folder: Path) -> Before:
    """What `keep` kept.

    Raises:
        StillhouseError: there is nothing.
    """
    path = folder / f"{BEFORE}.json"
    if not path.is_file():
        raise StillhouseError(
            f"{path} is gone, which held {PARAMS} as it was. Restore it and configs/{PROFILE}.yaml "
            f"with Git, or take the window out of prepare.windows by hand."
        )
    return Before(**_io.read_json(path))


def restore(root: Path, before: Before, window: str) -> None:
    """Put both files back as they were.

    Of a params.yaml that somebody edited since, only the window and the incumbent go.

    Raises:
        StillhouseError: it is no YAML any more.
    """
    path, present = root / CONFIGS / f"{PROFILE}.yaml", _read_params(root)
    if present not in (before.params, before.made):
        read_yaml(root / PARAMS)  # tells mistakes with their line
        _io.write_text(root / PARAMS, take_out(present, before.params, window))
    elif present != before.params:
        _io.write_text(root / PARAMS, before.params)
    if before.profile is None:
        path.unlink(missing_ok=True)
    else:
        _io.write_text(path, before.profile)


def take_out(present: str, before: str, window: str) -> str:
    """The text of params.yaml with window and incumbent as in the text before, all else kept."""
    yaml, stream, changed = YAML(), StringIO(), False
    yaml.width = 100
    head, body = _cut_mark(present)
    data, earlier = yaml.load(body), yaml.load(before)
    places = (("prepare", "windows", window), ("answer", "candidates", INCUMBENT.name))
    for section, names, name in places:
        now, then = ((one.get(section) or {}).get(names) or {} for one in (data, earlier))
        if now.get(name) == then.get(name):
            continue
        changed = True
        if name in then:
            now[name] = then[name]
        else:
            del now[name]
    yaml.dump(data, stream)
    ours = head.startswith(f"{MARK}{PROFILE} ")
    return (_cut_mark(before)[0] if ours else head) + stream.getvalue() if changed else present


def _cut_mark(text: str) -> tuple[str, str]:
    """The line that names a profile, empty without one, and the rest."""
    head, _, body = text.partition("\n")
    return (f"{head}\n", body) if head.startswith(MARK) else ("", text)


def _read_params(root: Path) -> str:
    return (root / PARAMS).read_text(encoding="utf-8")
