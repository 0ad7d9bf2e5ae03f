"""What must agree, agrees: one name in six places, deps with imports, params with their schema.

Each test counts what it checked, so that a check of nothing cannot pass.
"""

import ast
import json
import re
import subprocess
import tomllib

import pytest
from structure import (
    ACTIONS,
    ROOT,
    dvc_stages,
    imported_modules,
    out_paths,
    programs,
    python_files,
    read_yaml,
    stage_files,
    transitive_imports,
)

from serving._native_document import VERSION
from stages._params import Params, Section, check_params, json_schema, load_params
from stages._profile import merge
from stages._provenance import dvc_md5

# Support that changes what is recorded or printed, never what a stage computes: an edit there must
# not make every result stale.
NOT_A_DEPENDENCY = {
    "stages/_stage.py",
    "stages/_progress.py",
    "stages/_run.py",
    "stages/_endings.py",
    "stages/_recorder.py",
    "stages/_tracking",
    "stages/_provenance.py",
    "stages/_params",  # a stage's own section is what it depends on, through `params:`
    "serving/errors.py",
}
# A stage's run.json, or the whole folder with it where files bear the names of candidates.
RECORD = r"reports/{name}(/.*run\.json)?"
ONE_IMPORTER = {
    "mlflow": {"stages/_tracking"},
    "evaluate": {"stages/_scores.py", "stages/_metrics"},
    "bentoml": {"serving/service.py"},
    "redis": {"serving/_redis.py"},
}


def relative(path):
    return path.relative_to(ROOT).as_posix()


def test_every_stage_has_one_name_in_six_places():
    stages = dvc_stages()
    for name, stage in stages.items():
        source = stage_files()[name].read_text(encoding="utf-8")
        assert re.search(rf"^def {name}\(\s*params: Params", source, re.M), f"{name}: its function"
        assert f"run_stage({name}," in source, f"{name}: its MLflow run"
        assert name in Params.model_fields, f"{name}: its section in params.yaml"
        assert (ROOT / "tests" / f"test_{name}.py").is_file(), f"{name}: its test file"
        records = [p for p in out_paths(stage) if re.fullmatch(RECORD.format(name=name), p)]
        assert len(records) == 1, f"{name}: its folder in reports/"
    assert set(stages) == set(stage_files())
    assert len(stages) >= 4


def test_what_acts_on_the_world_is_a_make_target_and_no_dvc_stage():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in ACTIONS:
        assert name in programs()
        assert name not in dvc_stages()
        assert re.search(rf"^{name}: .*\n\t\$\(BIN\)/python -m stages\.{name}\b", makefile, re.M), (
            name
        )
        assert (ROOT / "tests" / f"test_{name}.py").is_file(), f"{name}: its test file"
    outs = [path for stage in dvc_stages().values() for path in out_paths(stage)]
    assert not any(path.startswith("releases") for path in outs), "DVC deletes outputs before a run"


def test_stages_are_run_as_modules_only():
    commands = [stage["cmd"] for stage in dvc_stages().values()]
    for name, command in zip(dvc_stages(), commands, strict=True):
        assert command.split(" $")[0] == f"python -m stages.{name}"
    texts = [ROOT / "Makefile", ROOT / "README.md", ROOT / ".ci/run"]
    texts += sorted((ROOT / ".github").rglob("*.yml"))
    for path in texts:
        assert not re.search(r"python3? +stages/", path.read_text(encoding="utf-8")), path
    assert len(commands) >= 4
    assert len(texts) >= 4


def test_deps_name_every_file_that_a_stage_imports():
    checked = 0
    for name, stage in dvc_stages().items():
        needed = {relative(p) for p in transitive_imports(stage_files()[name])}
        needed |= {f"stages/{name}.py"}
        needed -= {"stages/__init__.py", "serving/__init__.py"}  # empty
        needed = {re.sub(r"/(_\w+)/.*", r"/\1", path) for path in needed}  # a package as a whole
        needed -= NOT_A_DEPENDENCY
        if "serving" in stage["deps"]:  # the whole folder
            needed = {path for path in needed if not path.startswith("serving/")}
        named = {d for d in stage["deps"] if d.startswith(("stages/", "serving/"))}
        assert named - {"stages/_metrics"} == needed, f"{name}: dvc.yaml against imports"
        checked += len(needed)
    assert checked >= 20


def test_params_of_a_stage_are_the_sections_it_reads():
    for name, stage in dvc_stages().items():
        tree = ast.parse(stage_files()[name].read_text(encoding="utf-8"))
        used = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "params"
        }
        named = {param.split(".")[0] for param in stage["params"]}
        assert used <= named, f"{name} reads params that dvc.yaml does not name"
        assert named <= used | {"seed", "run", name}


def test_imports_go_one_way():
    checked = 0
    for path in python_files("stages", "serving"):
        for name in imported_modules(path):
            checked += 1
            package, _, module = name.partition(".")
            if path.is_relative_to(ROOT / "serving"):
                assert package != "stages", f"{relative(path)} imports {name}"
            elif package == "stages" and module:
                assert module.startswith("_"), f"{relative(path)} imports the stage {name}"
    assert checked >= 100


@pytest.mark.parametrize("package", ONE_IMPORTER)
def test_a_big_tool_has_one_importer(package):
    importers = {
        relative(path)
        for path in python_files("stages", "serving")
        if any(name.split(".")[0] == package for name in imported_modules(path))
    }
    allowed = ONE_IMPORTER[package]
    strangers = {p for p in importers if not any(p.startswith(name) for name in allowed)}
    assert importers, f"nothing imports {package}"
    assert not strangers


def test_params_file_and_schema_agree():
    params = load_params(ROOT / "params.yaml")
    sections = read_yaml(ROOT / "params.yaml")
    assert list(sections) == list(Params.model_fields)
    assert params.prepare.source == "incidents"
    written = json.loads((ROOT / "docs/params.schema.json").read_text(encoding="utf-8"))
    assert written == json_schema(), "run: make schema"


def test_every_param_is_documented():
    described = 0
    for section in Section.__subclasses__():
        for name, field in section.model_fields.items():
            is_section = name in Params.model_fields and section is Params
            assert field.description or is_section, f"{section.__name__}.{name}: no description"
            described += 1
    assert described >= 40


def test_every_profile_gives_valid_params():
    profiles = sorted((ROOT / "configs").glob("*.yaml"))
    for path in profiles:
        data = read_yaml(ROOT / "params.yaml")
        merge(data, read_yaml(path))
        check_params(data, path)
    assert {"tiny", "e2e"} <= {path.stem for path in profiles}


def test_git_ignores_every_output():
    outs = [path for stage in dvc_stages().values() for path in out_paths(stage)]
    outs = [path.replace("${key}", "student") for path in outs]
    shown = subprocess.run(
        ["git", "check-ignore", "--no-index", *outs], cwd=ROOT, capture_output=True, text=True
    )
    assert set(outs) - set(shown.stdout.split()) == set()
    assert len(outs) >= 10


def test_actions_are_pinned_by_commit():
    uses = [
        line.strip()
        for path in sorted((ROOT / ".github/workflows").glob("*.yml"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if "uses:" in line and "uses: ./" not in line  # tests/test_workflows.py has those, too
    ]
    for line in uses:
        assert re.search(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line
    assert len(uses) >= 3


def test_readme_lists_every_stage():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[`(\w+)`\]\(docs/stages/\1\.md\) \|", readme, re.M)
    assert rows == list(dvc_stages())
    assert len(readme.splitlines()) < 200
    assert not re.search(r"^[A-Z]{4,}$", readme, re.M), "a placeholder was left"


def test_the_service_states_the_project_s_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == VERSION


def test_dvc_lock_belongs_to_this_tree():
    lock = read_yaml(ROOT / "dvc.lock")["stages"]
    made = {path for stage in dvc_stages().values() for path in out_paths(stage)}
    names = Params().answer.candidates
    made |= {re.sub(r"\$\{\w+\}", name, path) for path in made for name in names}
    # a stage may read one file of another's folder, or a folder that others write into
    made |= {"data/labels/index.json", "data/answers", "reports/distill", "reports/benchmark"}
    made |= {"models/variants", "reports/quantize"}
    made |= {f"data/windows/planted/{file}" for file in ("rows.parquet", "window.json")}
    checked = 0
    for name, stage in lock.items():
        for dep in stage["deps"]:
            if dep["path"] not in made and dep["path"] != "data/raw":
                assert dvc_md5(ROOT / dep["path"]) == dep["md5"], f"{name}: run dvc repro, commit"
                checked += 1
    assert checked >= 20


def test_params_file_names_every_param_that_a_default_run_reads():
    data = read_yaml(ROOT / "params.yaml")
    optional = {"files", "hub", "pretrained", "endpoint", "prompting"}  # of other sources
    checked = 0
    for section, field in Params.model_fields.items():
        if section == "seed":
            continue
        for name in set(type(field.default).model_fields) - optional:
            assert name in data[section], f"{section}.{name}"
            checked += 1
    assert checked >= 25
