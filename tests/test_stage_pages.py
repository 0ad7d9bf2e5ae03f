"""docs/stages against dvc.yaml, the params and the code, and every link of the documents.

Each test counts what it checked, so that a check of nothing cannot pass.
"""

import ast
import re
from functools import cache

import pytest
from structure import ACTIONS, ROOT, dvc_stages, out_paths, python_files

from stages._params import Params, json_schema

FOLDER = ROOT / "docs/stages"
STAGES, SCHEMA = dvc_stages(), json_schema()
FORM = ["Reads", "Writes", "Parameters", "Failures", "Cost and method"]
KEY = re.compile(rf"`((?:{'|'.join(Params.model_fields)})(?:\.[\w<>]+)+)(?::[^`]*)?`")
FILE = re.compile(r"\.(json|jsonl|csv|md|html|bento|py)$")
PLACEHOLDER = re.compile(r"<[^>]+>|\$\{[^}]+\}")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def page(name):
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def sections(text):
    """What stands under each `##` heading."""
    parts = re.split(r"^## (.+)\n", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def without_blocks(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


def first_table(section):
    """What the first cells of the section's first table name in backticks, in its order."""
    lines = section.lstrip().splitlines()
    rows = lines[2 : next((n for n, line in enumerate(lines) if line[:1] != "|"), len(lines))]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])]


def paths(names):
    """Paths of which the candidate's name does not matter."""
    return sorted(PLACEHOLDER.sub("<>", name.removesuffix("/")) for name in names)


def keys(text):
    return {key for key in KEY.findall(text) if not FILE.search(key)}


def has_key(key):
    """Whether the params may have it; whatever the name of a recipe, a variant or a candidate."""
    nodes = [SCHEMA]
    for part in key.split("."):
        nodes = [found for node in nodes for found in children(node, part)]
    return bool(nodes)


def children(node, part):
    if "$ref" in node:
        node = SCHEMA["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    for choice in node.get("anyOf", []):
        yield from children(choice, part)
    if part in node.get("properties", {}):
        yield node["properties"][part]
    yield from node.get("patternProperties", {}).values()
    if isinstance(node.get("additionalProperties"), dict):
        yield node["additionalProperties"]


@cache
def messages():
    """Every text of the code, with … for what is filled in."""
    found = []
    for path in python_files("stages", "serving"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [v.value if isinstance(v, ast.Constant) else "…" for v in node.values]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\0".join(found)


def quoted_errors(section):
    """What a list's entries begin with in backticks, on one line."""
    return [" ".join(text.split()) for text in re.findall(r"^- `([^`]+)`", section, re.M)]


def anchors(path):
    """The anchors that GitHub gives a document's headings."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(path.read_text(encoding="utf-8")), re.M)
    words = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return {f"{w}-{n}" if (n := words[:place].count(w)) else w for place, w in enumerate(words)}


def test_every_stage_has_a_page_and_no_page_is_without_a_stage():
    assert {path.stem for path in FOLDER.glob("*.md")} == {*STAGES, "README"}


def test_the_index_has_the_stages_in_the_order_of_the_graph_and_every_other_command():
    index = sections(page("README"))
    named = re.findall(r"^\| \[`(\w+)`\]\((\w+)\.md\)", page("README"), re.M)
    assert named == [(name, name) for name in STAGES]
    commands = re.findall(r"^\| `make (\w+)` \|", index["Outside of the graph"], re.M)
    assert sorted(commands) == sorted(ACTIONS)


@pytest.mark.parametrize("name", STAGES)
def test_pages_have_one_form(name):
    text = page(name)
    assert text.startswith(f"# {name}\n\n")
    assert list(sections(text)) == FORM
    assert text.split("\n\n")[1].endswith("?"), "the question that the stage answers"
    assert "\n**Records.** " in text
    assert "\n**See also:** " in text
    assert 25 <= len(text.splitlines()) <= 60


@pytest.mark.parametrize("name", STAGES)
def test_a_page_names_the_files_of_its_stage(name):
    stage, found = STAGES[name], sections(page(name))
    assert paths(first_table(found["Writes"])) == paths(out_paths(stage))
    data = [path for path in stage["deps"] if not path.startswith(("stages/", "serving/"))]
    assert paths(first_table(found["Reads"])) == paths(data)


@pytest.mark.parametrize("name", STAGES)
def test_a_page_runs_its_stage_as_dvc_does(name):
    run = page(name).split("```")[1]
    with_candidate = " ${key}" in STAGES[name]["cmd"]
    commands = re.findall(rf"python -m stages\.{name} (\w*)", run)
    assert [bool(candidate) for candidate in commands] == [with_candidate]
    assert set(re.findall(r"stages\.(\w+)", run)) == {name}
    assert {target.split("@")[0] for target in re.findall(r"dvc repro ([\w@]+)", run)} == {name}


def test_parameters_exist_and_belong_to_their_stage():
    checked = 0
    for name, stage in STAGES.items():
        text = page(name)
        assert not [key for key in keys(text) if not has_key(key)], f"{name}: unknown keys"
        own = paths(stage["params"])
        for key in paths(first_table(sections(text)["Parameters"])):
            assert any(f"{key}.".startswith(f"{p}.") or p.startswith(f"{key}.") for p in own), key
            checked += 1
    assert not has_key("label.topk")
    assert not has_key("distill.recipes.student.aplha")
    assert checked >= 60


def test_errors_are_quoted_as_the_code_has_them():
    checked = 0
    for name in [*STAGES, "README"]:
        for error in quoted_errors(sections(page(name))["Failures"]):
            assert error in messages(), f"{name}: no such message: {error}"
            checked += 1
    assert checked >= 2 * len(STAGES)


def test_links_lead_to_files_and_headings_that_exist():
    checked, broken = 0, []
    for document in DOCUMENTS:
        text = without_blocks(document.read_text(encoding="utf-8"))
        for link in LINK.findall(re.sub(r"`[^`\n]*`", "", text)):
            if re.match(r"\w+:", link):
                continue
            checked += 1
            path, _, anchor = link.partition("#")
            target = (document.parent / path).resolve() if path else document
            if not target.exists() or (anchor and anchor not in anchors(target)):
                broken.append(f"{document.relative_to(ROOT)}: {link}")
    assert not broken
    assert checked >= 100


def test_documents_that_are_named_in_passing_exist():
    named = {
        (document.name, name)
        for document in DOCUMENTS
        for name in re.findall(r"\bdocs/[\w/]+\.(?:md|json)", document.read_text(encoding="utf-8"))
    }
    assert not [pair for pair in named if not (ROOT / pair[1]).is_file()]
    assert len(named) >= 30
