"""The load benchmark's contenders: how they are asked, started, and measured in turns."""

import json

import pytest
from load_server import OPENAI, WHOLE, load_on, reply, scripted
from tiny_models import write_model

from benchmarks.serve_load import __main__ as program
from benchmarks.serve_load import offline, peers, turns
from benchmarks.serve_load.dialects import Dialect, read_answer, write_requests
from benchmarks.serve_load.load import (
    run_closed_loop,
)
from benchmarks.serve_load.servers import Server, answers, running
from benchmarks.serve_load.summary import TARGETS
from benchmarks.serve_load.summary import summarise as tell
from benchmarks.serve_load.wire import Reply
from serving.completion import Completion, Request
from serving.errors import StillhouseError


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("completions", WHOLE),
        ("native", {"text": "x", "completion_tokens": 3}),
        ("bare", {"text": "x", "completion_tokens": 3}),
        ("batch", [{"text": "x", "completion_tokens": 3}]),
    ],
)
def test_each_dialect_is_asked_greedily_and_read(kind, body):
    dialect = Dialect(kind, "/path", "m", "<{prompt}>", {"X-Name": "value"})
    request = write_requests(dialect, 80, ["fish"], 8)[0]
    head, _, content = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /path HTTP/1.1\r\n") and b"\r\nX-Name: value" in head
    assert f"Content-Length: {len(content)}".encode() in head
    asked = json.loads(content)
    assert "<fish>" in (asked.get("prompt"), *asked.get("prompts", []))
    assert kind != "completions" or (asked["temperature"], asked["max_tokens"]) == (0, 8)
    found = Reply(200, {"content-type": "application/json"}, json.dumps(body).encode(), None)
    assert read_answer(dialect, found) == ("x", 3)


class Counting:
    """Answers with as many tokens as the prompt has characters."""

    def __init__(self):
        self.batches = []

    def answer(self, requests):
        self.batches.append([request.prompt for request in requests])
        return [Completion(r.prompt, 1, len(r.prompt), "stop", None) for r in requests]


class Standing:
    """A server in this process, which cannot be stopped."""

    def __init__(self, port, name):
        self.port, self.server, self.turns = port, Server(name, "", [], {}, "/", OPENAI), []

    def resume(self):
        self.turns.append("resume")

    def pause(self):
        self.turns.append("pause")

    def memory(self):
        return {"tree_proportional_mb": 500.0, "engine_resident_mb": 99.0}


TINY = ["--winner=w", "--clients", "1", "2", "--peak-clients", "3", "--rounds=1", "--ramp=0"]
TINY += ["--seconds=0.1", "--open-seconds=0.1", "--overload-seconds=0.1", "--most=40"]


def test_every_experiment_runs_in_turns_and_is_told_beside_its_target(tmp_path):
    async def answer(number, writer):
        writer.write(reply() if number % 9 else reply(503, {}, "Retry-After: 1\r\n"))

    bench = turns.Bench(program.read_options(TINY), ["one", "two"])
    with scripted(answer) as port:
        ours, other = Standing(port, peers.OURS), Standing(port, "plain_batching")
        both = {peers.OURS: ours, "plain_batching": other}
        found = program.measure(bench, both, None)
    assert found["overload"]["rate_per_s"] == 4 * found["peak"]["answers_per_s"]
    assert set(found["overload"]["results"]) == {"200", "503"}
    assert ours.turns == ["resume", "pause"] * (len(ours.turns) // 2)
    found |= {"servers": {}, "generator": {"requests_per_s": 9000.0}}
    said = tell(found)
    for part in (
        "of plain_batching, at least 1.3",
        "at most 3;",
        "at least 0.9;",
        "99 MB",
        "same answers as",
        "9,000",
    ):
        assert part in said


def test_a_load_that_its_count_ends_is_measured_until_then():
    bench = turns.Bench(program.read_options([*TINY, "--ramp=1", "--most=3"]), ["one"])
    load = load_on(1, most=3, seconds=60.0)
    assert bench.end_of([0.0, 1.0], load) == 60.0
    assert bench.end_of([0.0, 1.0, 2.0], load) == 2.0
    with pytest.raises(StillhouseError, match=r"3 requests were sent in 0.30 s.*Raise --most"):
        bench.end_of([0.1, 0.2, 0.3], load)


def test_a_server_that_refuses_is_not_measured(tmp_path):
    async def answer(number, writer):
        writer.write(reply(500, {}))

    (tmp_path / "log").write_text("no memory left\n")
    bench = turns.Bench(program.read_options(TINY), ["one"])
    with scripted(answer) as port, pytest.raises(StillhouseError, match=r"\['500'\].*no memory"):
        turns.warm_up(bench, Standing(port, "peer"), tmp_path / "log")


def test_a_report_names_no_place_of_this_machine(tmp_path):
    told = f"{program.sys.executable} {tmp_path}/winner {program.ROOT}/x {peers.BIN}/transformers"
    found = program.shorten({"command": told}, str(tmp_path))
    assert found == {"command": "python WORK/winner x transformers"}


def test_perfect_batches_are_full_and_of_like_length():
    predictor = Counting()
    requests = [Request("x" * length) for length in (5, 1, 4, 2, 3)]
    ordered = offline.order_by_length(predictor, requests)
    assert [len(request.prompt) for request in ordered] == [1, 2, 3, 4, 5]
    found = offline.measure(predictor, ordered, 2, 0.0)
    assert [[len(text) for text in batch] for batch in predictor.batches[1:]] == [[1, 2], [3, 4]]
    assert found["passes"] == 1 and found["tokens_per_s"] == pytest.approx(10 / found["seconds"])


def test_prompts_come_from_json_lines_or_e2e(tmp_path, monkeypatch):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a"}\n{"prompt": "a"}\n{"prompt": "b"}\n')
    assert peers.read_prompts(rows, 5) == ("rows.jsonl", ["a", "b"])
    (tmp_path / peers.E2E_FILE).write_text('mr,ref\n"name[A], food[B]",x\n"name[C]",y\n')
    monkeypatch.setenv("E2E_DIR", str(tmp_path))
    assert peers.read_prompts(None, 1) == (peers.E2E_FILE, ["name[A], food[B]"])


def test_the_library_gets_a_folder_with_all_it_needs(tmp_path):
    from transformers import AutoTokenizer, GenerationConfig

    student = write_model(tmp_path / "student")
    for name in ("generation_config.json", "tokenizer_config.json"):
        (student / name).unlink()
    folder = peers.library_copy(student, tmp_path / "copy")
    assert not (folder / "contract.json").exists()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    generation = GenerationConfig.from_pretrained(folder)
    assert generation.eos_token_id == tokenizer.eos_token_id is not None
    assert generation.do_sample is False


def make_servers(tmp_path, *flags):
    options = program.read_options(["--winner=w", "--threads=1", *flags])
    models = {name: write_model(tmp_path / name) for name in ("winner", "student")}
    models |= {"library": tmp_path / "library", "float32": tmp_path / "float32"}
    return peers.make_servers(options, models, tmp_path / "home")


def test_contenders_share_core_threads_and_prompts(tmp_path):
    servers = make_servers(tmp_path, "--server-core=1")
    assert set(servers) == {peers.OURS, peers.SAME_DTYPE, *TARGETS} - {"offline"}
    for server in servers.values():
        assert list(server.command[:3]) == ["taskset", "--cpu-list", "1"]
        assert server.environment["OMP_NUM_THREADS"] == "1"
    assert servers["serve"].dialect.template == "<|prompt|>{prompt}<|answer|>"
    assert "--continuous-batching" in servers["serve_batching"].command
    assert servers["stillhouse"].dialect.template is None


@pytest.mark.parametrize("name", ["serv", peers.OURS])
def test_a_contender_that_is_unknown_or_ours_cannot_be_left_out(tmp_path, name):
    with pytest.raises(StillhouseError, match=rf"--without names \['{name}'\], expected some of"):
        make_servers(tmp_path, "--without", name)


@pytest.mark.slow
def test_a_server_is_timed_paused_weighed_and_killed(tmp_path):
    options = program.read_options(["--winner=w", "--server-core=0"])
    with running(peers.null_server(options), tmp_path / "log", 60.0) as server:
        assert server.ready_s > 0
        server.pause()
        server.resume()
        found = run_closed_loop(load_on(server.port), clients=2)
        assert [o.result for o in found] == [200] * 6
        memory = server.memory()
        assert 1 < memory["tree_proportional_mb"] < 500 and not memory["engine_resident_mb"]
        tree, port = server.tree(), server.port
    assert not any(process.is_running() for process in tree)
    assert not answers(port, "/")


@pytest.mark.slow
def test_a_server_that_ends_is_told_with_its_last_words(tmp_path):
    command = ["sh", "-c", "echo no such model; exit 3"]
    server = Server("broken", "", command, {}, "/", OPENAI)
    with (
        pytest.raises(StillhouseError, match=r"broken ended with 3; it said: no such model"),
        running(server, tmp_path / "log", 60.0),
    ):
        pass
