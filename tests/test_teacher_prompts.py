"""A teacher that is not trained answers with the prompt that won, wherever it is asked."""

import re
from contextlib import closing

import pytest
from endpoint_server import answers, endpoint_server, error
from pretrained_base import CHATML, write_base
from tiny_pipeline import (
    label_inputs,
    run_distill,
    run_label,
    run_teacher,
    tiny_params,
)
from toy import example, write_prepared

from serving.completion import Request
from serving.contract import read_contract
from serving.errors import StillhouseError
from serving.predictor import load
from serving.slots import parse_record
from stages import _io
from stages._label_plan import plan_labels
from stages._labels import iterate_labels, read_index, read_labels

GUIDE, SHORT = "You write for a guide to pubs, in English. Say: {prompt}", "Say: {prompt}"
SHOWN = "{shots}Input: {prompt}\nOutput:"
PRICES = {"price_per_1k_prompt_tokens_usd": 1.0, "price_per_1k_completion_tokens_usd": 2.0}


@pytest.fixture(autouse=True)
def _in_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Writer(dict):
    """Replies of a server that writes well where a mark is in the prompt, and clumsily elsewhere;
    a token is a word."""

    def __init__(self, mark):
        super().__init__()
        self.mark = mark

    def get(self, prompt):
        asked = re.findall(r"(?:Say|Input): (.*)", prompt)[-1]
        slots = parse_record(asked)
        text = f"There it has been heard of {' and '.join(slots.values())} indeed."
        if self.mark in prompt and len(slots) == 3:
            text = example(**slots)["references"][0]
        return answers(text, prompt_tokens=len(prompt.split()))


def endpoint_params(server, **prompting):
    endpoint = {"base_url": server.url, "model": "tiny", "concurrency": 1, **PRICES}
    section = {"source": "endpoint", "endpoint": endpoint, "generation": {"max_new_tokens": 24}}
    return tiny_params(teacher=section | ({"prompting": prompting} if prompting else {}))


def prompts_sent(server):
    return [s["body"]["messages"][-1]["content"] for s in server.seen if "body" in s]


def test_the_template_that_a_server_answers_best_becomes_the_teacher_s(tmp_path):
    with endpoint_server() as server:
        server.replies = Writer("guide")
        run_teacher(endpoint_params(server, templates=[SHORT, GUIDE]), tmp_path)
        tried = prompts_sent(server)
        with closing(load(tmp_path / "teacher")) as predictor:
            answer = predictor.answer([Request("name[X], food[fish], dogs[no]")])[0]
    assert answer.text == "X serves fish and dogs must stay outside."
    contract = read_contract(tmp_path / "teacher")
    assert (contract.prompt_template, contract.shots) == (GUIDE, 0)
    assert not (tmp_path / "teacher/shots").exists()
    validation = _io.read_jsonl(tmp_path / "prepared/validation.jsonl")
    wanted = [t.replace("{prompt}", e["prompt"]) for t in (SHORT, GUIDE) for e in validation]
    assert tried == wanted
    report = _io.read_json(tmp_path / "reports/teacher/teacher.json")["prompting"]
    assert (report["template"], report["shots"]) == (GUIDE, 0)
    assert report["why"] == "beats every other variant for certain"
    worse, best = report["variants"]
    assert best["bleu"]["low"] > worse["bleu"]["high"]
    counts = [best[f"{kind}_tokens_per_answer"]["score"] for kind in ("prompt", "completion")]
    assert best["cost_usd"] == pytest.approx(len(validation) * (counts[0] + 2 * counts[1]) / 1000)
    assert report["cost_usd"] == pytest.approx(worse["cost_usd"] + best["cost_usd"])


def test_examples_reach_the_server_wherever_the_teacher_answers(tmp_path):
    with endpoint_server() as server:
        server.replies = Writer("Output: ")
        params = endpoint_params(server, templates=[SHORT, SHOWN], shots=[0, 2])
        run_teacher(params, tmp_path)
        asked = len(prompts_sent(server))
        run_label(params, tmp_path)
        labelled = prompts_sent(server)[asked:]
        plan = plan_labels(params, label_inputs(tmp_path))
        server.seen.clear()
        with closing(load(tmp_path / "teacher")) as predictor:
            predictor.answer([Request(e["prompt"]) for e in plan.examples])
        served = prompts_sent(server)
    report = _io.read_json(tmp_path / "reports/teacher/teacher.json")["prompting"]
    assert (report["template"], report["shots"]) == (SHOWN, 2)
    assert labelled[: len(served)] == served
    for row, prompt in zip(plan.examples, served, strict=True):
        assert prompt.count("\nOutput: ") == 2
        assert prompt.count(f"Input: {row['prompt']}\n") == 1  # at the end, where it is asked
        assert prompt.endswith(f"Input: {row['prompt']}\nOutput:")
    manifest = read_index(tmp_path / "labels").manifest
    assert manifest.prompt_sha256 == report["prompt_sha256"]
    labels = iterate_labels(read_labels(tmp_path / "labels", plan.manifest))
    texts = {label.example_id: label.text for label in labels if label.source == "train"}
    assert texts[plan.examples[0]["id"]] == plan.examples[0]["references"][0]


def test_labels_of_another_prompt_are_refused_by_name(tmp_path):
    with endpoint_server() as server:
        server.replies = Writer("Output: ")
        params = endpoint_params(server, templates=[SHOWN], shots=[1])
        run_teacher(params, tmp_path)
        run_label(params, tmp_path)
        params = endpoint_params(server, templates=[SHOWN], shots=[2])
        run_teacher(params, tmp_path)
    plan = plan_labels(params, label_inputs(tmp_path))
    with pytest.raises(StillhouseError, match=r"prompt_sha256: expected .*, found ") as caught:
        read_labels(tmp_path / "labels", plan.manifest)
    assert "template_sha256" not in str(caught.value)


def test_a_choice_that_failed_pays_for_no_answer_twice(tmp_path):
    write_prepared(tmp_path / "prepared")
    with endpoint_server(*[answers("Paid.")] * 5, error(401)) as server:
        server.replies = Writer("guide")
        params = endpoint_params(server, templates=[SHORT, GUIDE])
        with pytest.raises(StillhouseError, match="gave 401"):
            run_teacher(params, tmp_path)
        more = endpoint_params(server, templates=[SHORT, GUIDE, "Write. Say: {prompt}"])
        run_teacher(more, tmp_path)
        assert len(prompts_sent(server)) == 5 + 1 + 3 + 8 + 8
        report = run_teacher(more, tmp_path)["prompting"]
        assert len(prompts_sent(server)) == 5 + 1 + 3 + 8 + 8
    first, best, _ = report["variants"]
    assert report["template"] == GUIDE
    paid = 5 * (5 + 2 * 1)  # the tokens of five answers from the first run
    asked = sum(len(prompt.split()) for prompt in prompts_sent(server)[6:9])
    assert first["cost_usd"] == pytest.approx((paid + asked + 2 * 3 * 12) / 1000, rel=0.1)
    assert best["bleu"]["score"] == pytest.approx(100.0)


def test_an_endpoint_s_reports_are_those_of_every_teacher(tmp_path):
    with endpoint_server() as server:
        run_teacher(endpoint_params(server), tmp_path)
        assert [asked["path"] for asked in server.seen] == ["/v1/models"]
    found = {path.name for path in (tmp_path / "reports/teacher").iterdir()}
    assert found == {"teacher.json", "curve.csv", "validations.csv"}
    report = _io.read_json(tmp_path / "reports/teacher/teacher.json")
    assert report["prompting"] is None
    assert report["server"].endswith("serves tiny.")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_a_model_on_disk_reads_the_same_prompt_in_labelling_and_serving(tmp_path, kind):
    positions = {"n_positions" if kind == "gpt2" else "max_position_embeddings": 512}
    base = write_base(tmp_path / "base", kind, chat=CHATML, **positions)
    prompting = {"templates": [SHOWN], "shots": [2, 3]}
    pretrained = {"model": str(base), "tuning": "none"}
    section = {"source": "pretrained", "pretrained": pretrained, "prompting": prompting}
    section["generation"] = {"max_new_tokens": 24}
    sources = {"sources": ["train", "pool", "gold"]}  # so small a teacher may finish no answer
    recipes = {
        "student": {"init": "scratch", **sources},
        "control": {"init": "scratch", "method": "sft"},
    }
    recipes["own_text"] = {"method": "on_policy", "init": "scratch", **sources}
    params = tiny_params(teacher=section, distill={"recipes": recipes})
    report = run_teacher(params, tmp_path)["prompting"]
    assert [row["shots"] for row in report["variants"]] == [2, 3]

    contract = read_contract(tmp_path / "teacher")
    assert contract.prompt_template == report["template"]
    assert contract.prompt_template.startswith("<|im_start|>user\n{shots}Input: {prompt}")
    assert contract.shots == report["shots"]
    run_label(params, tmp_path)
    plan = plan_labels(params, label_inputs(tmp_path))
    assert plan.manifest.prompt_sha256 == report["prompt_sha256"]
    predictor = load(tmp_path / "teacher")
    requests = [Request(e["prompt"], e.get("slots")) for e in plan.examples]
    served = {e["id"]: a for e, a in zip(plan.examples, predictor.answer(requests), strict=True)}
    asked = dict(zip(served, predictor.encode(requests), strict=True))
    made = list(iterate_labels(read_labels(tmp_path / "labels", plan.manifest)))
    answered = {n.example_id: n.text for n in made if n.source != "gold"}
    answered |= {
        row["example_id"]: row["text"]
        for row in _io.read_jsonl(tmp_path / "labels/rejected.jsonl")
        if row["source"] != "gold"
    }
    assert answered == {name: answer.text for name, answer in served.items()}
    for label in made[::20]:
        (judged,) = predictor.token_logprobs([asked[label.example_id]], [label.token_ids.tolist()])
        assert label.mean_logprob == pytest.approx(sum(judged) / len(judged), abs=2e-3)
    texts = [predictor.prompts.decode(ids) for ids in asked.values()]
    for row, text in zip(plan.examples, texts, strict=True):
        assert text.count("\nOutput: ") == contract.shots
        assert text.count(f"Input: {row['prompt']}\n") == 1

    run_distill(params, tmp_path)  # the student learns to do without the examples
    student = load(tmp_path / "student")
    assert student.contract.shots == 0
    ids = student.encode(requests[:1])[0]
    assert student.prompts.decode(ids).count("Input: ") == 1
    with pytest.raises(StillhouseError, match="method on_policy asks teacher and student"):
        run_distill(params, tmp_path, "own_text")
