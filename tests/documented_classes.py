"""Who runs which command of the documents: every command in a block has exactly one row here.

`Run`: tests/test_documented_commands.py, in a finished small project. `Elsewhere`: another test, or
.ci/run; the file and words in it are named and looked up. `NotHere`: it needs what no machine that
tests run on has; its syntax is checked, and of our own programs target, module and options.

A row's `text` is a regular expression for the whole command. Placeholders are filled by `fill`.
Benchmarks have tests of their own (tests/test_benchmark_*.py) and no row.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from documented import Command

BENCHMARK = re.compile(r"^(\w+=\S+ )*python -m benchmarks\.\w+")
HEX = "0123456789abcdef" * 4


@dataclass(frozen=True)
class Run:
    """Run, and its output looked at; where the document shows output, that is compared as well."""

    text: str
    says: str
    """Found in what it prints; of a server: in its log, or what the address answers."""
    file: str = ".*"
    fill: tuple[tuple[str, str], ...] = ()
    """What stands for a reader's words; {project}, {place}, {kept}, {venv}, {port} are known."""
    serves: str = ""
    """It is a server, ready when this path is answered, and runs to the document's end."""
    shows: str = ""
    """The path at which it then says that; else the same."""
    asks: bool = False
    """It wants a running server; `make serve` is started where none is."""
    first: bool = False
    """The output shown is that of `make repro`, which made the project."""
    varies: str = ""
    """Of the output shown: what is another one in the small project."""


@dataclass(frozen=True)
class Elsewhere:
    """Really run by a test or by CI: `words`, with groups of `text`, stand in `by`."""

    text: str
    by: str
    words: str
    file: str = ".*"


@dataclass(frozen=True)
class NotHere:
    """Needs what is not here."""

    text: str
    needs: str
    file: str = ".*"
    dry: str = ""
    """What makes it a trial that changes nothing, where the program is installed."""


Row = Run | Elsewhere | NotHere

README = r"README\.md"
CD = "docs/(choosing|development|retraining).md|README.md|deploy/kubernetes/README.md"
SHELL_WORDS = r"[^\n]*(?:\n[^\n]*)*"
COMMIT = (("-m …", "-m done"), ("git add params", "echo '# read' >> params.yaml; git add params"))
CLONED = (
    (
        "git clone … && cd stillhouse",
        "cd {place} && git clone --quiet {project} stillhouse && cd stillhouse && "
        "ln -s {venv} .venv && touch --date 2000-01-01 requirements/*.txt",
    ),
)

SERVICE = Run("make serve", '"models"', README, serves="/readyz", shows="/page.json")
RUNS = (
    Run("make repro", r"pipeline done in [\d.]+ s: \d+ ", README, first=True),
    SERVICE,
    Run(r"curl -s localhost:3000/generate" + SHELL_WORDS, r'"finish_reason": ?"', asks=True),
    Run(r"from openai import OpenAI\n" + SHELL_WORDS, r"\w", asks=True),
    Run("make help", r"repro +Create the environment", r"README\.md|docs/development\.md"),
    Run("make status", r"champion +nothing was released yet", README),
    Run("dvc repro", "Data and pipelines are up to date", README),
    Run("dvc metrics show", r"(?m)^Path +.*student\.bleu"),
    Run("dvc plots show", r"file://\S+/index\.html", r"README\.md|docs/report\.md"),
    Run(
        "mlflow ui",
        "(?i)mlflow",
        README,
        fill=(("mlflow ui", "mlflow ui --port {port}"),),
        serves="/",
    ),
    Run("make doctor", "Nothing is in the way", README),
    Run("source .venv/bin/activate", "", README),
    Run(r"make backup REMOTE=/mnt/kept", r"backup \S+: \d+ files", fill=(("/mnt/kept", "{kept}"),)),
    Run(r"git clone … && cd stillhouse", "", fill=CLONED),
    Run(r"make restore REMOTE=/mnt/kept", r"restored: \d+ files", fill=(("/mnt/kept", "{kept}"),)),
    Run(
        r"\.venv/bin/bentoml serve serving\.service:Stillhouse",
        '"models"',
        serves="/readyz",
        shows="/page.json",
    ),
    Run(r"RECORD=.*", ""),
    Run(r"curl -s localhost:3000/cascade .*", r'"routing"', asks=True, varies="parts|cost_by_rung"),
    Run("git add params.yaml dvc.lock && git commit -m …", "done", fill=COMMIT),
    Run("make release", r"release 1(:| has these)", r"docs/choosing\.md"),  # twice: first, again
    Run("git add releases && git commit -m …", r"releases/1\.json", fill=COMMIT),
    Run(
        r"bentoml import \$PWD/(models/bento/)?cpu\.bento",
        r"stillhouse:[0-9a-f]{12}-",
        fill=(("$PWD/cpu.bento", "$PWD/models/bento/cpu.bento"),),
    ),
    Run(
        r"python -m serving\.keys add (?!--file scratch).*",
        r"sh_\w+",
        r"docs/deploy\.md|deploy/kubernetes/README\.md",
    ),
    Run(r'export STILLHOUSE_KEY_LINES="\$\(cat keys\.jsonl\)"', ""),
    Run(r"python -m serving\.edge --port 3000", '"models"', serves="/readyz", shows="/page.json"),
    Run(r"python -m serving\.live_files data/live", "", r"docs/live\.md"),
    Run(
        "make export",
        "models/export/",
        r"docs/other_servers\.md",
        fill=(("make export", 'make export ARGS="--prompts 40"'),),
        varies=r"winner \w+",
    ),
    Run("cd models/export/torchserve/extra", ""),
    Run(r"mkdir -p model_store", ""),
    Run(r"dvc repro package", "Stage 'package'", r"docs/packaging\.md", first=True),
    Run(r"export BENTOML_HOME=\$PWD/scratch/bentoml", ""),
    Run(r"bentoml serve stillhouse:latest", '"models"', serves="/readyz", shows="/page.json"),
    Run(r"make window ARGS=--compare", r"data/windows/\S+", r"docs/retraining\.md"),
    Run("dvc repro drift", "Updating lock file|up to date", r"docs/retraining\.md"),
    Run("make watch", "(?m)^(nothing|wait): ", r"docs/retraining\.md"),
    Run("make retrain", "(nothing|wait): ", r"docs/retraining\.md"),
    Run(r"from stages\._windows\.reading import " + SHELL_WORDS, ""),
    Run(
        r"dvc repro( -s)? [a-z]+(@\w+)?",
        r"up to date|didn't change|Updating lock file",
        r"docs/stages/.*|docs/cascade\.md",
        fill=(("@ct2_int8", "@ct2"),),
    ),
    Run(r"python -m stages\.evaluate --help", r"usage: python -m stages\.evaluate"),
    Run("make format", r"left unchanged|reformatted", r"docs/development\.md"),
    Run("git add dvc.lock", "", r"docs/development\.md"),
)

ELSEWHERE = (
    Elsewhere("make (test|test-slow)", ".ci/run", r"make \1\n"),
    Elsewhere("make repro", ".ci/run", "make repro\n", r"docs/.*"),
    Elsewhere(
        'make window ARGS="--last-rows .* && make repro', "tests/test_window.py", '"--compare")'
    ),
    Elsewhere("make env", ".github/workflows/train.yml", "make env"),
    Elsewhere("make profile NAME=default", "tests/test_params.py", 'apply_profile("default"'),
    Elsewhere("make container-check", ".ci/run", "make container-check"),
    Elsewhere('make repro && git add params.yaml dvc.lock.*"', ".ci/run", "make repro\n"),
    Elsewhere(r"make challenge ARGS=.*", "tests/test_challenge.py", "import challenge, main", CD),
    Elsewhere(r"make canary ARGS=.*", "tests/test_canary.py", '"-m", "stages.canary", *urls', CD),
    Elsewhere(
        r"make canary ARGS=.*", "tests/test_canary.py", '"-m", "stages.canary"', ".*/canary.md"
    ),
    Elsewhere(
        "make release", "tests/test_canary_verdict.py", "release(", "README.md|docs/development.md"
    ),
    Elsewhere("make rollback.*", "tests/test_workflow_rollback.py", "`make rollback`", CD),
    Elsewhere(
        r"make challenge && make canary ARGS=… && make release",
        "tests/test_canary_verdict.py",
        "release(",
    ),
    Elsewhere(
        r"BENTOML_HOST=0\.0\.0\.0 " + SHELL_WORDS + "--ssl-certfile" + SHELL_WORDS,
        "tests/test_service_tls.py",
        '"--ssl-certfile"',
    ),
    Elsewhere(
        r"STILLHOUSE_TEACHER_URL=\S+ STILLHOUSE_TEACHER_KEY=\S+ python -m serving\.edge",
        "tests/test_edge.py",
        "STILLHOUSE_TEACHER_URL",
    ),
    Elsewhere(r"torchrun .*", "tests/test_training_distributed.py", '"torch.distributed.run"'),
    Elsewhere(
        r"accelerate launch (?!.*--use_fsdp).*",
        "tests/test_training_distributed.py",
        '"accelerate.commands.launch"',
    ),
    Elsewhere(
        r"accelerate launch --use_fsdp .*", "tests/test_training_distributed.py", '"--use_fsdp"'
    ),
    Elsewhere(r"import shutil\n" + SHELL_WORDS, "tests/test_extend.py", 'blocks("python")'),
    Elsewhere(
        r".*bentoml serve stillhouse(_teacher)?:latest --port 3457|bentoml import .*teacher\.bento|"
        r"python -m serving\.keys add --file scratch/teacher\.keys .*|STILLHOUSE_TEACHER_URL=\S+ "
        r"STILLHOUSE_TEACHER_KEY=\S+ bentoml serve .*",
        "tests/test_package_teacher.py",
        "STILLHOUSE_KEYS",
    ),
    Elsewhere(r"python -m stages\.([a-z]+)( \w+)?", "dvc.yaml", r"cmd: python -m stages.\1"),
    Elsewhere(r"python -m stages\._embedder .*", "tests/test_embedding.py", "export("),
    Elsewhere(
        r"deploy/kubernetes/(apply|set-weights) .*", "tests/test_kubernetes.py", "SET_WEIGHTS"
    ),
    Elsewhere(r"promtool (check|test) .*", "tests/test_monitoring.py", 'promtool("check", "rules"'),
    Elsewhere(r"AESGCM\(key\)" + SHELL_WORDS, "tests/test_live_log.py", "open_sealed"),
)

NOT_HERE = (
    NotHere(r"make container ARGS=.*", "docker and a registry"),
    NotHere(r"docker run " + SHELL_WORDS, "docker and the image"),
    NotHere(r"cd /tmp && bentoml containerize .*", "docker"),
    NotHere(r"(aws|gcloud|az) " + SHELL_WORDS, "an account of a cloud"),
    NotHere(r"cat (model\.json|deployment\.yml)", "a file of the reader's, shown"),
    NotHere(r'curl -s "\$\(az ' + SHELL_WORDS, "an account of a cloud"),
    NotHere(r"curl localhost:80[08]0/" + SHELL_WORDS, "Triton or TorchServe"),
    NotHere(r"python -m stages\._export\..* --triton .*", "Triton"),
    NotHere(r"pip install .*", "a package index"),
    NotHere(r"torch-model-archiver " + SHELL_WORDS + "|torchserve .*", "TorchServe"),
    NotHere(r"kubectl create namespace .*", "a cluster", dry="--dry-run=client --output name"),
    NotHere(
        r"kubectl -n stillhouse create secret .*", "a cluster", dry="--dry-run=client --output name"
    ),
)

ROWS: tuple[Row, ...] = (*RUNS, *ELSEWHERE, *NOT_HERE)


def is_benchmark(command: Command) -> bool:
    """Whether it is a benchmark's."""
    return bool(BENCHMARK.match(command.text))


def rows_of(command: Command, rows: Iterable[Row] = ROWS) -> list[Row]:
    """The rows that fit a command."""
    return [
        row
        for row in rows
        if re.fullmatch(row.text, command.text) and re.fullmatch(row.file, command.file)
    ]
