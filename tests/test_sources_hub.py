"""Hugging Face data sets: local folders in every form, and the hub only by commit."""

from pathlib import Path

import pytest
from source_cases import write

from serving.errors import StillhouseError
from stages._sources import read_hub


def _hub(folder: Path, **options):
    names = {"hub_split": "train", "prompt_column": "mr", "response_column": "ref"} | options
    return list(read_hub(folder.name, None, "train", root=folder.parent, **names))


@pytest.fixture(scope="module")
def hub_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    datasets = pytest.importorskip("datasets")
    root = tmp_path_factory.mktemp("hub")
    rows = datasets.Dataset.from_dict({"mr": ["a", "b", None], "ref": [["x", "y"], [""], ["z"]]})
    rows.save_to_disk(str(root / "single"))
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(root / "splits"))
    (root / "parquet").mkdir()
    rows.to_parquet(str(root / "parquet" / "train-00000-of-00001.parquet"))
    (root / "jsonl").mkdir()
    lines = (
        b'{"mr": "a", "ref": ["x", "y"]}\n{"mr": "b", "ref": [""]}\n{"mr": null, "ref": ["z"]}\n'
    )
    write(root / "jsonl" / "train.jsonl", lines)
    (root / "broken").mkdir()
    write(root / "broken" / "train.jsonl", '{"mr": "a", "ref": ["x"]}\n{"mr":')
    (root / "script").mkdir()
    write(root / "script" / "script.py", "raise SystemExit('this was run')")
    (root / "empty").mkdir()
    return root


@pytest.mark.parametrize("form", ["single", "splits", "parquet", "jsonl"])
def test_a_local_folder_is_read_in_each_of_its_forms(hub_folders: Path, form: str) -> None:
    items = _hub(hub_folders / form)

    assert [(i.line, i.prompt, i.reference) for i in items[:2]] == [(1, "a", "x"), (1, "a", "y")]
    assert [(i.line, i.reason) for i in items[2:]] == [
        (2, "empty_reference"),
        (3, "missing_prompt"),
    ]
    assert items[0].file == f"{form}/train"


@pytest.mark.parametrize(
    ("folder", "options", "message"),
    [
        ("splits", {"hub_split": "dev"}, "split 'dev', cannot be read"),
        ("single", {"hub_split": "test"}, "the folder holds one data set, train"),
        ("parquet", {"hub_split": "dev"}, "split 'dev', cannot be read"),
        ("parquet", {"response_column": "refs"}, "no column 'refs' .*Did you mean 'ref'"),
        ("broken", {}, "cannot be read"),
        ("script", {}, "cannot be read"),
        ("empty", {}, "cannot be read"),
    ],
)
def test_a_folder_that_cannot_be_read_gives_one_line(
    hub_folders: Path, folder: str, options: dict, message: str
) -> None:
    with pytest.raises(StillhouseError, match=message) as error:
        _hub(hub_folders / folder, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("owner/name", None, "prepare.hub.revision is None: expected the 40 hexadecimal digits"),
        ("owner/name", "main", "because names of branches move"),
        ("./missing", None, "expected a folder that exists or owner/name"),
        ("owner/name", "0" * 40, "owner/name, split 'train', cannot be read .*[Oo]ffline"),
    ],
    ids=["no revision", "branch", "no folder", "offline"],
)
def test_a_hub_data_set_needs_a_commit_and_a_network(tmp_path, name, revision, message) -> None:
    pytest.importorskip("datasets")
    columns = {"hub_split": "train", "prompt_column": "mr", "response_column": "ref"}
    with pytest.raises(StillhouseError, match=message):
        list(read_hub(name, revision, root=tmp_path, **columns))
