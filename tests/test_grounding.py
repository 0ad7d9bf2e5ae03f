"""Grounding: what no prompt supports is found, every other writing of it is not, in linear time."""

import time

import pytest

from serving.grounding import KINDS, MAX_CHARS, check_grounding

INCIDENT = "service[checkout-api], metric[p95 latency], value[250 ms], start[18:41 UTC]"
PUB = "name[Blue Spice], food[Italian], area[riverside], near[Café Rouge]"

# prompt, answer, kind, what must be found
UNSUPPORTED = [
    ("value[25 %]", "The error rate rose to 26%.", "number", "26"),
    ("value[25 %]", "It lasted for twenty-six minutes.", "number", "twenty-six"),
    ("messages[576,000]", "The queue held 577,000 messages.", "number", "577,000"),
    ("value[5 ms]", "Latency was 5 minutes.", "number", "5"),
    ("value[5 %]", "It took 5 seconds.", "number", "5"),
    ("It took 5 minutes.", "It took 5 hours.", "number", "5"),
    (INCIDENT, "Down since 18:42 UTC.", "number", "18:42"),
    (INCIDENT, "Down since 6:41 am.", "number", "6:41 am"),
    ("metric[p95 latency]", "The 99th percentile rose.", "number", "99th"),
    ("name[The Eagle]", "The Eagle, open since 1998, is a pub.", "number", "1998"),
    ("price[20-25]", "It costs 20 to 30.", "number", "30"),
    ("version[2.3.1]", "We shipped 2.3.4 today.", "number", "2.3.4"),
    (PUB, "Blue Spice is near Burger King.", "name", "Burger King"),
    (PUB, "It serves Japanese food.", "name", "Japanese"),
    (PUB, "Golden Palace serves Italian food.", "name", "Palace"),
    (PUB, "We met in February.", "name", "February"),
    ("region[eu-central-1]", "Customers in Frankfurt and Dublin saw it.", "name", "Dublin"),
    ("region[eu-central-2]", "Customers in Frankfurt saw it.", "name", "Frankfurt"),
    ("place[Frankfurt]", "We moved to eu-central-1.", "code", "eu-central-1"),
    (PUB, "It belongs to O’Neill’s.", "name", "O’Neill’s"),
    ("service[api-7]", "The fault was in api-8.", "code", "api-8"),
    ("region[eu-west-1]", "It hit us-east-1.", "code", "us-east-1"),
    ("ticket[INC-4711]", "See INC-4712 for more.", "code", "INC-4712"),
    (PUB, "They call it “the best of Rome”.", "quote", "“the best of Rome”"),
    (PUB, 'A sign says "closed for repairs".', "quote", '"closed for repairs"'),
    (PUB, "Book at https://spice.example/book.", "link", "https://spice.example/book"),
    (PUB, "See www.bluespice.co.uk, please.", "link", "www.bluespice.co.uk"),
    (PUB, "Write to chef@spice.example!", "link", "chef@spice.example"),
]

SUPPORTED = [
    ("value[2]", "There were two outages."),
    ("users[1200]", "About 1,200 users, or 1.2k, saw it."),
    ("users[1,200]", "One thousand two hundred users."),
    ("share[5 %]", "5% or 5 percent or five per cent of users."),
    ("value[0.25 s]", "Latency was 250 ms."),
    ("duration[90 min]", "It took 1 h 30 min."),
    ("duration[1 h 30 min]", "It took 90 minutes."),
    ("duration[2.5 h]", "It lasted two and a half hours."),
    ("duration[45 min]", "It lasted three quarters of an hour."),
    (INCIDENT, "Since 6:41 pm the 95th percentile of the Checkout API was at 250ms."),
    (INCIDENT, "P95 on checkout_api passed its 250-ms limit."),
    ("service[api-7]", "API 7 failed, and Api-7's users noticed."),
    ("price[£20-25]", "It costs £20 to £25, so 20–25 pounds."),
    (PUB, "One of the best: no one leaves hungry, zero doubts, a two-step queue."),
    (PUB, "Located at the riverside, Blue Spice's CAFE ROUGE neighbours are many."),
    (PUB, "There is a place. Great food! Why not? Here: Order. (Really.) “Italian” it is."),
    (PUB, "BLUE SPICE IS A GREAT PLACE FOR EVERYONE."),
    (PUB, "Great Food At The Riverside Every Day"),
    ("Is Italy far?", "No, the Italian border is near."),
    ("the new york city marathon", "The NYC race is on."),
    ("region[eu-central-1]", "Customers in Frankfurt saw errors in EU-central-1."),
    ("region[sa-east-1]", "It hit the São Paulo region."),
    ("zone[europe-west3-a]", "We left Frankfurt."),
    ("1. Say what happened. 2. Say why.", "1. It broke.\n2. It was old.\n3) I fixed it."),
    ("see http://www.example.com/a/", "See example.com/a."),
    ("mail Bob@Example.com", "I wrote to bob@example.com."),
    (PUB, "I'm sure I'll say OK."),
    (PUB, ""),
    ("", "it is what it is."),
]


@pytest.mark.parametrize(("prompt", "answer", "kind", "found"), UNSUPPORTED)
def test_a_claim_without_support_is_found_where_it_stands(prompt, answer, kind, found):
    claims = check_grounding(answer, prompt).unsupported
    assert [(c.kind, answer[c.start : c.end]) for c in claims] == [(kind, found)]


@pytest.mark.parametrize(("prompt", "answer"), SUPPORTED)
def test_other_writings_of_the_prompt_are_no_alarm(prompt, answer):
    claims = check_grounding(answer, prompt).unsupported
    assert [(c.kind, answer[c.start : c.end]) for c in claims] == []


def test_every_kind_is_tested():
    assert {kind for _, _, kind, _ in UNSUPPORTED} == set(KINDS)


def test_the_context_supports_too():
    answer = "The Eagle closed in 1998."
    assert check_grounding(answer, "What happened to The Eagle?").unsupported
    assert not check_grounding(answer, "What happened?", "The Eagle: closed, 1998").unsupported


def test_claims_are_counted_whether_supported_or_not():
    found = check_grounding("Blue Spice on api-7 costs 20 and 30 at the Mill.", f"{PUB} 20")
    assert found.claims == 5  # Spice, api-7, 20, 30, Mill; Blue opens the sentence
    assert len(found.unsupported) == 3


def test_a_claim_inside_another_is_found_once():
    found = check_grounding('It says "Mill 7 opens" at http://x.example/Mill-8.', PUB)
    assert [claim.kind for claim in found.unsupported] == ["quote", "link"]


def test_what_is_not_read_is_said():
    answer = "word " * (MAX_CHARS // 5) + "The Mill has 9."
    found = check_grounding(answer, PUB)
    assert not found.complete
    assert not found.unsupported
    assert check_grounding("It has 9.", PUB).complete


def test_a_claim_far_into_a_long_prompt_still_supports():
    prompt = "nothing here " * 2000 + "name[The Mill], rooms[9], code[api-7]"
    assert not check_grounding("At the Mill there are nine rooms on api-7.", prompt).unsupported
    assert check_grounding("At the Mill there are ten rooms.", prompt).unsupported


HOSTILE = ["a", "Aa ", "1", "1,", "1.", '"ab ', "a.", "a-1-", "a@a.", "1:11 ", "one ", "twenty-"]
HOSTILE += ["us-east-", "http://", "1h 1m ", "a hundred ", "\n1. ", "É", "(", "a1 B2x ", "p9"]
HOSTILE += ["x" * 99 + "-"]


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_text_takes_no_time(piece):
    text = (piece * MAX_CHARS)[:MAX_CHARS]
    started = time.process_time()
    assert check_grounding(text, text).complete
    assert time.process_time() - started < 5.0  # some 0.2 s; a runaway takes minutes
