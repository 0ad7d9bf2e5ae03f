"""Every command of README.md, docs/ and deploy/ is really run by a test or by CI, and checked.

tests/documented_classes.py says who runs which. The slow test runs what can be run in a finished
small project, in the documents' order, and compares what is printed with what is shown.
"""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from documented import Command, collect, read
from documented_arguments import problems, refused, to_parse
from documented_classes import ELSEWHERE, NOT_HERE, ROWS, RUNS, NotHere, is_benchmark, rows_of
from documented_running import Walk, unlike
from structure import ROOT
from workflow_cases import copy_project

# Sizes alone: as small as every stage still takes. Laid over params.yaml as a reader's own profile.
MINE = """
run: {threads: 1}
prepare:
  incidents: {train_prompts: 240, validation_prompts: 24, calibration_prompts: 60, test_prompts: 40}
baseline: {confidence_rows: 100, jobs: 1}
teacher:
  scratch:
    vocabulary: 600
    shape: {layers: 2, width: 96, heads: 3, kv_heads: 3, feed_forward: 192}
  training: {steps: 12, validations: 1, validation_prompts: 8}
  generation: {answers: 1, max_new_tokens: 40}
label:
  train_prompts: 40
  pool_prompts: 20
  max_slot_errors: null
  gold: true
  generation: {max_new_tokens: 40}
distill:
  recipes: {student: {sources: [train, pool, gold]}}
  shape: {feed_forward: 96}
  training: {steps: 8, validations: 1, validation_prompts: 8}
  generation: {answers: 1, max_new_tokens: 40}
quantize: {variants: {int8: null, nf4: null, ct2_int8: null}, prompts: 4}
answer: {candidates: {int8: null, nf4: null, ct2_int8: null}}
detectors: {max_texts: 20, resamples: 100}
evaluate: {metrics: [bleu, slot_error_rate, perplexity], resamples: 100}
ladder: {resamples: 100}
benchmark: {prompts: 4, seconds: 0.05, batch_sizes: [1]}
select:
  resamples: 100
  gates: {latency_p95_ms: 60000, min_prompts: 20, bleu_ratio: null, slot_error_rate_rise: null}
package: {golden_requests: 8}
plant: {rows: 60}
drift: {embeddings: false, calibration: {repeats: 2, most_rows: 40}, permutations: 399}
"""
COMMANDS = collect(ROOT)


def in_blocks() -> list[Command]:
    """Commands that a reader is to type, benchmarks aside."""
    return [c for c in COMMANDS if c.kind != "inline" and not is_benchmark(c)]


def test_every_command_in_a_block_belongs_to_exactly_one_row():
    found = {command: rows_of(command) for command in in_blocks()}
    nowhere = [str(command) for command, rows in found.items() if not rows]
    twice = [str(command) for command, rows in found.items() if len(rows) > 1]
    table = "tests/documented_classes.py"
    assert not nowhere, "\n".join([f"no row of {table} says who runs:", *nowhere])
    assert not twice, "\n".join([f"several rows of {table} fit:", *twice])
    assert len(found) >= 70


def test_every_row_is_of_use():
    used = Counter(row for command in COMMANDS for row in rows_of(command))
    assert [row for row in ROWS if not used[row]] == []


def test_what_runs_elsewhere_is_there():
    checked = 0
    for command in in_blocks():
        for row in rows_of(command, ELSEWHERE):
            words = re.fullmatch(row.text, command.text).expand(row.words)
            text = (ROOT / row.by).read_text(encoding="utf-8")
            assert words in text, f"{command}: {row.by} has no {words!r}"
            checked += 1
    assert checked >= 20


def test_targets_modules_options_and_files_that_are_named_exist():
    wrong, asked = [], []
    for command in COMMANDS:
        if command.kind == "python":
            continue
        wrong += [f"{command}: {problem}" for problem in problems(command.text)]
        try:
            asked += [(command, words) for words in to_parse(command.text)]
        except (AssertionError, ValueError) as error:
            wrong.append(f"{command}: {error}")
    found = refused(words for _, words in asked)
    wrong += [f"{c}: {found[tuple(words)]}" for c, words in asked if found[tuple(words)]]
    assert not wrong, "\n".join(wrong)
    assert len(asked) >= 100


def test_blocks_are_what_a_shell_or_python_can_read():
    for command in in_blocks():
        if command.kind == "python":
            compile(command.text, str(command), "exec")
            continue
        ended = subprocess.run(["bash", "-n", "-c", command.text], capture_output=True, text=True)
        assert not ended.returncode, f"{command}: {ended.stderr}"


@pytest.mark.parametrize("row", [row for row in NOT_HERE if row.dry], ids=lambda row: row.text)
def test_what_needs_a_cluster_is_taken_by_its_client(row: NotHere, tmp_path):
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed. Run .ci/packages.")
    (tmp_path / "model-keys.jsonl").touch()
    for command in in_blocks():
        if rows_of(command, [row]):
            text = f"{command.text} {row.dry}"
            ended = subprocess.run(["bash", "-c", text], cwd=tmp_path, capture_output=True)
            assert not ended.returncode, f"{command}: {ended.stderr!r}"


def test_the_reader_sees_prompts_continued_lines_quotations_and_here_documents():
    text = """# Title
`make help` and `make\nrepro`, not `make`.

```
$ one --a \\
    --b    # a comment
said so
$ two '{"a":
  1}'
```

```sh
three <<'END'
not a command
END
make four
```

```
make · five
```

    make six

```yaml
make: seven
```
"""
    found = [(c.line, c.text, c.kind, c.output) for c in read("x.md", text)]
    assert found == [
        (2, "make help", "inline", ()),
        (2, "make repro", "inline", ()),
        (6, "one --a \\\n    --b", "shell", ("said so",)),
        (9, "two '{\"a\":\n  1}'", "shell", ()),
        (14, "three <<'END'\nnot a command\nEND", "shell", ()),
        (17, "make four", "shell", ()),
        (24, "make six", "shell", ()),
    ]


@pytest.mark.parametrize(
    ("shown", "said", "same"),
    [
        (("done in 3.1 s: 4 run", "…", "  a  1"), "x\ndone in 77 s: 1 run\nb\n a 2,000.5\n", True),
        (("b", "a"), "a\nb\n", False),
        (('{"a": {"b": 1}}',), '{"a": {"b": 5}}', True),
        (('{"a": {"b": 1}}',), '{"a": {"c": 5}}', False),
        ((), "anything", True),
    ],
)
def test_what_is_shown_is_compared_by_its_shape(shown, said, same):
    assert (unlike(shown, said) == "") is same


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """A finished project: a copy of the tree in Git, the small profile, and `make repro`."""
    place = tmp_path_factory.mktemp("reader")
    project = copy_project(place / "project")
    (project / ".venv").symlink_to(Path(sys.executable).parent.parent)
    for lock in (project / "requirements").glob("*.txt"):
        os.utime(lock, (0, 0))  # older than the environment: make installs nothing
    (project / "configs/mine.yaml").write_text(MINE, encoding="utf-8")
    found = Walk(project, place / "walk")
    made = (
        "git init --quiet && git add --all && git commit --quiet --message all && "
        "make profile NAME=mine && make repro"
    )
    code, said = found.shell(made, 1800.0)
    assert code == 0, said[-5000:]
    found.first = re.sub(r"(?m)^\S+ \| ", "", said)  # the stage that says a line
    code, said = found.shell("git commit --quiet --all --message made")
    assert code == 0, said
    yield found
    found.stop()


@pytest.mark.slow
def test_commands_do_what_the_documents_say(walk):
    typed = {row for command in in_blocks() for row in rows_of(command, RUNS)}
    ran, wrong = Counter(), []
    for command in COMMANDS:
        for row in rows_of(command, RUNS):
            if command.kind == "inline" and (row in typed or ran[row]):
                continue  # in a sentence; a block has it
            ran[row] += 1
            problem = walk.problem(command, row)
            if problem:
                wrong.append(f"{command}\n{problem}")
    assert not wrong, "\n\n".join(wrong)
    assert set(ran) == set(RUNS)
