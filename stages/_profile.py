"""Lay a profile over params.yaml: `make profile NAME=e2e`, or `python -m stages._profile e2e`.

A profile (configs/<name>.yaml) holds only what differs. It is merged deeply into the committed
params.yaml, where null takes a recipe, a variant or a candidate away; the result replaces
params.yaml and the difference is printed. NAME=default goes back to the committed file. Edits of
your own are never overwritten: the command refuses while params.yaml holds any that no profile
made.
"""

import argparse
import difflib
import subprocess
import sys
from collections.abc import Mapping, MutableMapping
from copy import deepcopy
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.representer import RoundTripRepresenter

from serving.errors import StillhouseError
from stages._io import write_json, write_text
from stages._params import check_params, json_schema, read_yaml

PARAMS = Path("params.yaml")
CONFIGS = Path("configs")
SCHEMA = Path("docs/params.schema.json")
MARK = "# profile: "
OF_NAMES = ("recipes", "variants", "candidates", "windows")  # whose keys are a person's own names


def merge(base: MutableMapping[str, Any], overlay: Mapping[str, Any], named: bool = False) -> None:
    """Merge `overlay` into `base` in place: mappings deeply, the rest replaces.

    null takes an entry of a person's own names away (a recipe, a variant, a candidate); elsewhere
    it is a value, such as that of a gate which is off.
    """
    for key, value in overlay.items():
        if value is None and named:
            base.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(base.get(key), MutableMapping):
            base[key] = deepcopy(base[key])  # a YAML alias may share it with another section
            merge(base[key], value, named=key in OF_NAMES)
        else:
            base[key] = value


def render(committed: str, overlay: Mapping[str, Any], name: str) -> str:
    """The committed params file with a profile laid over it; comments and order are kept."""
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 100, True
    yaml.Representer = _Written
    data = yaml.load(committed)
    merge(data, overlay)
    stream = StringIO()
    yaml.dump(data, stream)
    return f"{MARK}{name} (configs/{name}.yaml over the committed file)\n{stream.getvalue()}"


class _Written(RoundTripRepresenter):
    """null as a person writes it, so that a profile's difference shows what it changes."""


_Written.add_representer(
    type(None), lambda written, _: written.represent_scalar("tag:yaml.org,2002:null", "null")
)


def apply_profile(name: str, root: Path, keep_edits: bool = False) -> str:
    """Replace params.yaml by the committed file with the profile laid over it.

    Returns:
        The unified difference to what params.yaml held before.

    Raises:
        StillhouseError: no such profile, a result that is no valid params file, or edits that
            would be lost.
    """
    path = root / PARAMS
    present = path.read_text(encoding="utf-8") if path.exists() else ""
    committed = _committed(root) or present
    if keep_edits:
        committed = present.split("\n", 1)[1] if present.startswith(MARK) else present
    elif present not in ("", committed) and present != _made_by_profile(present, committed, root):
        if present.startswith(MARK) and name != "default":
            raise StillhouseError(
                f"{PARAMS} is not what its profile makes of the committed file. If the profile or "
                f"the committed file has changed since: git checkout {PARAMS} && make profile "
                f"NAME={name}. If {PARAMS} has edits of your own, commit them first."
            )
        keep = f", or lay the profile over them: python -m stages._profile {name} --keep-edits"
        raise StillhouseError(
            f"{PARAMS} has edits that are not committed and that no profile made. Commit them or "
            f"take them back (git checkout {PARAMS}){'' if name == 'default' else keep}"
        )
    text = committed if name == "default" else render(committed, _overlay(name, root), name)
    check_params(_parse(text), root / PARAMS)
    write_text(path, text)
    before, after = present.splitlines(keepends=True), text.splitlines(keepends=True)
    return "".join(difflib.unified_diff(before, after, "params.yaml before", "params.yaml now"))


def _overlay(name: str, root: Path) -> dict[str, Any]:
    path = root / CONFIGS / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in (root / CONFIGS).glob("*.yaml"))
        raise StillhouseError(f"No profile {name!r}; there are: default, {', '.join(known)}.")
    return read_yaml(path)


def _made_by_profile(present: str, committed: str, root: Path) -> str | None:
    """What the profile named in the first line would give, or None when none is named."""
    first = present.split("\n", 1)[0]
    if not first.startswith(MARK):
        return None
    name = first.removeprefix(MARK).split(" ", 1)[0]
    return render(committed, _overlay(name, root), name)


def _committed(root: Path) -> str | None:
    """params.yaml as Git has it, or None outside a checkout."""
    command = ["git", "show", f"HEAD:./{PARAMS}"]
    shown = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)  # noqa: S603
    return shown.stdout if shown.returncode == 0 else None


def _parse(text: str) -> dict[str, Any]:
    data = YAML(typ="safe", pure=True).load(text)
    return data if isinstance(data, dict) else {}


def main() -> None:
    """Apply a profile and print the difference."""
    parser = argparse.ArgumentParser(
        prog="python -m stages._profile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "name", nargs="?", default="default", help="configs/<name>.yaml, or default"
    )
    parser.add_argument("--keep-edits", action="store_true", help="lay it over the present file")
    parser.add_argument("--schema", action="store_true", help=f"write {SCHEMA} and stop")
    arguments = parser.parse_args()
    try:
        if arguments.schema:
            write_json(SCHEMA, json_schema())
            return
        difference = apply_profile(arguments.name, Path(), arguments.keep_edits)
    except StillhouseError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(difference or f"params.yaml already is profile {arguments.name}.\n")
    sys.stdout.write("Next: make repro\n")


if __name__ == "__main__":
    main()
