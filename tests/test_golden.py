"""Golden parity: asked singly and together, compared by id; a served process that ends early."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from converted_models import write_converted
from tiny_models import write_model
from toy import write_prepared

from serving.completion import Request
from serving.errors import StillhouseError
from stages import _golden
from stages._bento import environment
from stages._golden import Golden, Parity, Said
from stages._served import free_port, served

SECRET = "nobody may read this"
GOLDEN = [Golden(f"id{number}", Request(f"{SECRET} {number}")) for number in range(6)]


class Echo(BaseHTTPRequestHandler):
    """Answers with the prompt; `server.asked` keeps what came, `server.gate` who may go on."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(body)
        if self.server.gate:
            self.server.gate.wait(timeout=20)
        choice = {"text": body["prompt"], "completion_tokens": 2, "finish_reason": "stop"}
        choice |= {key: self.server.changes[key] for key in choice if key in self.server.changes}
        reply = {"prompt_tokens": 1, "choices": [choice]} | self.server.changes
        payload = json.dumps(reply).encode()
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    made = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    made.asked, made.gate, made.status, made.changes = [], None, 200, {}
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def url(server):
    return f"http://127.0.0.1:{server.server_port}/generate"


def said(one):
    return Said(one.request.prompt, 1, 2, "stop")


def test_requests_are_drawn_by_the_seed_and_no_more_than_there_are(tmp_path):
    examples = write_prepared(tmp_path)["calibration"]
    drawn = _golden.draw(examples, 3, seed=20)
    assert drawn == _golden.draw(examples, 3, seed=20)
    assert len(_golden.draw(examples, 99, seed=20)) == len(examples)
    assert {one.id for one in drawn} <= {example["id"] for example in examples}
    assert all(one.request.slots for one in drawn)
    with pytest.raises(StillhouseError, match="no prompts to ask"):
        _golden.draw([], 3, seed=20)


def test_the_expected_answers_are_the_predictor_s_own(tmp_path):
    folder = write_converted(tmp_path / "ct2", write_model(tmp_path / "model")) and tmp_path / "ct2"
    golden = [Golden("a", Request("fish")), Golden("b", Request("dogs"))]
    found = _golden.predict(folder, golden, "cpu")
    assert found == _golden.predict(folder, golden, "cpu")
    assert found[0] != found[1]
    assert all(answer.completion_tokens for answer in found)


def test_single_requests_carry_prompt_slots_and_context_and_nothing_absent(server):
    golden = [GOLDEN[0], Golden("x", Request("fish", {"food": "fish"}, "a pub"))]
    assert [s.text for s in _golden.ask_singly(url(server), golden, 20.0)] == [
        GOLDEN[0].request.prompt,
        "fish",
    ]
    assert server.asked == [
        {"prompt": GOLDEN[0].request.prompt},
        {"prompt": "fish", "slots": {"food": "fish"}, "context": "a pub"},
    ]


def test_clients_ask_at_once_and_answers_keep_their_order(server):
    server.gate = threading.Barrier(3)  # nobody is answered until three have asked
    found = _golden.ask_together(url(server), GOLDEN, clients=3, limit_s=20.0)
    assert found == [said(one) for one in GOLDEN]
    assert len(server.asked) == len(GOLDEN)


@pytest.mark.parametrize(
    "change",
    [{"text": "no"}, {"prompt_tokens": 3}, {"completion_tokens": 3}, {"finish_reason": "length"}],
    ids=["text", "prompt tokens", "answer tokens", "end"],
)
def test_any_difference_counts_and_fails_by_id_without_text(server, change):
    server.changes = change
    found = _golden.ask_singly(url(server), GOLDEN, 20.0)
    parity = _golden.compare(GOLDEN, [said(one) for one in GOLDEN], found)
    assert parity.to_dict() == {"requests": 6, "identical": 0}
    with pytest.raises(StillhouseError, match="6 of 6 served answers") as caught:
        _golden.check(parity, "cpu: stillhouse:1")
    assert "id0, id1, id2, id3, id4 and 1 more" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_one_difference_among_many_is_enough():
    expected = [said(one) for one in GOLDEN]
    found = [*expected[:3], expected[3]._replace(text="no"), *expected[4:]]
    parity = _golden.compare(GOLDEN, expected, found)
    assert parity == Parity(6, ("id3",))
    with pytest.raises(StillhouseError, match=r"1 of 6 served answers .* requests id3"):
        _golden.check(parity, "cpu")
    _golden.check(_golden.compare(GOLDEN, expected, expected), "cpu")


def test_a_refusal_and_a_reply_of_another_form_are_told_by_id_without_text(server):
    server.status = 429
    with pytest.raises(StillhouseError, match="request id0 was refused with status 429") as caught:
        _golden.ask_singly(url(server), GOLDEN, 20.0)
    assert SECRET not in str(caught.value)
    server.status, server.changes = 200, {"choices": []}
    with pytest.raises(StillhouseError, match="reply to request id0 is not of the") as caught:
        _golden.ask_singly(url(server), GOLDEN, 20.0)
    assert SECRET not in str(caught.value)


def test_a_server_that_is_gone_is_told_by_id():
    gone = f"http://127.0.0.1:{free_port()}/generate"
    with pytest.raises(StillhouseError, match="request id0 was not answered") as caught:
        _golden.ask_singly(gone, GOLDEN, 5.0)
    assert SECRET not in str(caught.value)


@pytest.mark.slow
def test_a_service_that_ends_before_it_is_ready_is_told_with_its_last_words(tmp_path):
    (tmp_path / "broken.py").write_text("raise SystemExit('no such model')\n")
    settings = environment(tmp_path / "home")
    with (
        pytest.raises(StillhouseError, match=r"ended with .* no such model") as caught,
        served("broken:Service", tmp_path, settings, limit_s=60.0),
    ):
        raise AssertionError("it was never ready")
    assert "\n" not in str(caught.value)
