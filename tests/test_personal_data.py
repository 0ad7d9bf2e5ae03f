"""Personal data: each kind with its checksum, no false alarm on incident texts, linear time."""

import csv
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.personal_data import ALL, Scan, Span, find, scrub

# text, kind, what must be found. Numbers are the samples of the standards and the test numbers of
# the card networks; the telephone numbers are reserved for fiction (Ofcom, NANP 555).
FOUND = [
    ("Write to a.b+c@example.com.", "email", "a.b+c@example.com"),
    ("mailto:o'brien@mail.example.org?subject=x", "email", "o'brien@mail.example.org"),
    ("müller@bücher.de schrieb", "email", "müller@bücher.de"),
    ("jane.doe (at) example (dot) com", "email", "jane.doe (at) example (dot) com"),
    ("jane[at]example.com", "email", "jane[at]example.com"),
    ("ｊａｎｅ＠example.com", "email", "ｊａｎｅ＠example.com"),
    ("ja\u200bne@exa\u00admple.com!", "email", "ja\u200bne@exa\u00admple.com"),
    ("https://x.example/?u=jane@example.com", "email", "u=jane@example.com"[2:]),
    ("Pay to DE89 3704 0044 0532 0130 00 and", "iban", "DE89 3704 0044 0532 0130 00"),
    ("GB82WEST12345698765432", "iban", "GB82WEST12345698765432"),
    ("fr14-2004-1010-0505-0001-3m02-606", "iban", "fr14-2004-1010-0505-0001-3m02-606"),
    ("BE68 5390 0754 7034 is mine", "iban", "BE68 5390 0754 7034"),
    ("NO9386011117947,", "iban", "NO9386011117947"),
    ("card 4111 1111 1111 1111 123", "card", "4111 1111 1111 1111"),
    ("jane,4111111111111111,12/27", "card", "4111111111111111"),
    ("5555-5555-5555-4444", "card", "5555-5555-5555-4444"),
    ("2223.0031.2200.3222", "card", "2223.0031.2200.3222"),
    ("4111 - 1111 - 1111 - 1111", "card", "4111 - 1111 - 1111 - 1111"),
    ("3782 822463 10005", "card", "3782 822463 10005"),
    ("30569309025904", "card", "30569309025904"),
    ("４１１１１１１１１１１１１１１１", "card", "４１１１１１１１１１１１１１１１"),
    ("٤١١١١١١١١١١١١١١١", "card", "٤١١١١١١١١١١١١١١١"),
    ("from 81.2.69.142:443", "ip", "81.2.69.142"),
    ("client=81.2.69.142.", "ip", "81.2.69.142"),
    ("[2a00:1450:4001:81b::200e]:443", "ip", "2a00:1450:4001:81b::200e"),
    ("call +44 20 7946 0958 now", "phone", "+44 20 7946 0958"),
    ("+44 (0)20 7946 0958", "phone", "+44 (0)20 7946 0958"),
    ("+442079460958 2024-01-02", "phone", "+442079460958"),
    ("+33 6 12 34 56 78", "phone", "+33 6 12 34 56 78"),
    ("0044 20 7946 0958", "phone", "0044 20 7946 0958"),
    ("+390612345678", "phone", "+390612345678"),
    ("(212) 555-0142", "phone", "(212) 555-0142"),
    ("1-212-555-0142", "phone", "1-212-555-0142"),
    ("SSN 536-90-4399", "us_ssn", "536-90-4399"),
    ("NHS number: 943 476 5919", "uk_nhs", "943 476 5919"),
    ("12345678Z", "es_dni", "12345678Z"),
    ("NIE X1234567L", "es_dni", "X1234567L"),
    ("NIE Y1234567-X", "es_dni", "Y1234567-X"),
    ("Steuer-IdNr. 36 574 261 809", "de_tax_id", "36 574 261 809"),
    ("2 55 08 14 168 025 38", "fr_nir", "2 55 08 14 168 025 38"),
    ("RSSMRA85T10A562S", "it_fiscal_code", "RSSMRA85T10A562S"),
    ("CPF 111.444.777-35", "br_cpf", "111.444.777-35"),
    ("756.9217.0769.85", "ch_ahv", "756.9217.0769.85"),
]

# The same shapes with a wrong check digit, range, length or context.
NOT_FOUND = [
    "DE88 3704 0044 0532 0130 00",
    "DE89 3704 0044 0532 0130 0",
    "XX89 3704 0044 0532 0130 00",
    "DE90 3704 0044 0532 0130 00",
    "TR33 0006 1005 1978 6457 84ıı 26",
    "DE8 93704 0044 0532 0130 00",
    "DE89-3704-0044-0532-0130-00-1",
    "00442079460958",
    "4111 1111 1111 1112",
    "0000 0000 0000 0000",
    "9111 1111 1111 1111",
    "4111 1111 1111 1111 4111",
    "10.2.3.4 and 192.168.0.1 and 203.0.113.9 and 127.0.0.1",
    "fe80::1ff:fe23:4567:890a and 2001:db8::8a2e:370:7334",
    "81.2.69.300",
    "81.2.69.142.7",
    "+99912345678",
    "+1 123 456 7890",
    "212-155-0142",
    "000-12-3456 and 666-12-3456 and 912-12-3456",
    "536-00-4399 and 536-90-0000 and 078-05-1120",
    "NHS number: 943 476 5918",
    "943 476 5919",
    "12345678A",
    "36574261809",
    "IdNr 36574261808",
    "IdNr 12345678903",
    "2 55 08 14 168 025 39",
    "2 55 18 14 168 025 38",
    "RSSMRA85T10A562T",
    "111.444.777-36 and 111.111.111-11",
    "756.9217.0769.86",
    "jane@localhost and jane@example",
]

CLEAN = """\
checkout-api p99 latency rose to 1.8 s, above the 400 ms threshold
payments: 1,800 ms at 12:30:45.123, back to 120 ms at 12:55
Rolled back to v10.2.3.4 at 14:05 UTC
Upgraded from version 81.2.69.142 after the 4.3.2.1 rollout
Kubernetes 1.29.3, etcd 3.5.12, containerd 1.7.13-rc.1
build 2024.01.02.1530 of search-indexer
Chrome/120.0.6099.109 Safari/537.36 on Windows NT 10.0
request id 550e8400-e29b-41d4-a716-446655440000
trace 4bf92f3577b34da6a3ce929d0e0e4736, span 00f067aa0ba902b7
commit 9fceb02d0ae598e95dc970b74767f19372d61af8
2024-01-02T10:00:00+00:00 first alert, 2024-01-02T10:25:00Z resolved
Mon, 02 Jan 2024 10:00:00 +0200 (CEST)
Mon Jan 2 10:00:00 2024 +1100
epoch 1704189600, in ms 1704189600123, in ns 1704189600123456789
order 202401021530, invoice 4500012345, ticket INC0012345
orders 1234-5678-9012 and PO-4500-1234-5678
error budget 99.95 %, burn rate 14.4x over 1 h
queue depth 1 234 567, then 12 345 678
+25 % traffic in 10 min, +1,800 ms p95, +3 replicas
heap grew by +134217728 bytes, then +1073741824 bytes
RSS +268435456 B; heap +2147483648
offsets +10 -20 -30 -40 -50
UTC+02:00, GMT +0530, +02:00
UTC +2 2024-10-12
ports 443, 8080, 8443 and 30000-32767
0.0.0.0:8080 is bound, 127.0.0.1 answers, 10.0.12.7 does not
peer 10.244.3.17:9092 in 10.244.0.0/16 is gone
blocked 81.2.69.0/24 at the edge
docs show 192.0.2.10, 198.51.100.7 and 203.0.113.5
resolvers 8.8.8.8 and 1.1.1.1 timed out
fe80::1, ::1 and 2001:db8::1 are configured
MAC 00:1a:2b:3c:4d:5e on eth0
fingerprint 16:27:ac:a5:76:28:2d:36:63:1b:56:4d:eb:df:a6:48
std::vector<int>::iterator in a::b::c
sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
git@github.com:acme/checkout.git failed to clone
postgres://app:s3cret@db.acme.com:5432/orders refused connections
image@2x.png and logo@3x.webp are missing
pip@23.1.dev and left-pad@1.3.0-beta.final
react@18.2.0, @types/node@20.10.5
getty@tty1.service and user@1000.service failed
root@db-01.internal and deploy@cluster.local lost their keys
@channel: see #incident-42 (at) noon
batch sizes 128 256 1024 4096
latencies 4012 4100 4233 4390 4512 ms
percentiles 100 200 3000 | 120 240 3600 | 943 476 5919
memory 4096 8192 1024 2048
segments 12 345 678 901 and 36574261809
the ratio is 0.4539148803436467
3.141592653589793 and 2.718281828459045
price 4.111.111.111.111.111
ISBN 978-3-16-148410-0, EAN 4006381333931
SKU 12345678B, part 1234567X
cell A1:B52, range 100-200-3000
phase 555-0142, room 020-7946
2024-01-02 to 2024-03-04, week 01-02
kernel 5.15.0-91-generic, driver 535.129.03
10.1000/182 and arXiv:1911.03905
RFC 8259 section 4.3.2.100, clause 81.2.69.142
us-east-1, eu-west-1a and ap-southeast-2 are green
de12 nodes were restarted and all of them are back again
no12 of 30 pods are ready
pod checkout-api-7d4b9c6f5d-x2x7z evicted, exit code 137
ARN arn:aws:sns:eu-west-1:123456789012:alerts
account 123456789012, region eu-west-1
snowflake 1198745632014520320
0xDEADBEEFCAFE and 0x7ffd4c3e2a10
name[The Eagle], food[Japanese], priceRange[£20-25], customer rating[5 out of 5]
The Vaults pub near Café Adriatic has a 5 star rating. Prices start at £30.
It’s rated 3 out of 5 – moderately priced (£20–25).
""".splitlines()


@pytest.mark.parametrize(("text", "kind", "found"), FOUND, ids=[f"{k}-{f}" for _, k, f in FOUND])
def test_each_kind_is_found_where_it_stands(text: str, kind: str, found: str) -> None:
    scan = find(text)

    assert [(span.kind, text[span.start : span.end]) for span in scan.spans] == [(kind, found)]
    assert scan.complete


def test_every_kind_has_an_example() -> None:
    assert {kind for _, kind, _ in FOUND} == set(ALL)


@pytest.mark.parametrize("text", NOT_FOUND)
def test_a_shape_without_its_check_digit_or_context_is_left_alone(text: str) -> None:
    assert find(text) == Scan((), True)


@pytest.mark.parametrize("text", CLEAN)
def test_incident_texts_raise_no_alarm(text: str) -> None:
    assert [text[span.start : span.end] for span in find(text).spans] == []


def test_the_clean_lines_are_many_and_different() -> None:
    assert len(set(CLEAN)) == len(CLEAN) >= 60


@pytest.mark.skipif("E2E_DIR" not in os.environ, reason="E2E_DIR names no folder with the E2E data")
def test_e2e_texts_raise_no_alarm() -> None:
    checked = 0
    for path in sorted(Path(os.environ["E2E_DIR"]).glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as stream:
            for row in csv.reader(stream):
                checked += len(row)
                assert not any(find(field).spans for field in row), row
    assert checked > 1000


def test_kinds_limit_the_search() -> None:
    text = "jane@example.com 81.2.69.142"

    assert find(text, ["ip"]).spans == (Span("ip", 17, 28),)
    assert find(text, []).spans == ()


def test_addresses_that_name_nobody_are_found_on_request() -> None:
    assert find("10.2.3.4", every_ip=True).spans == (Span("ip", 0, 8),)
    assert find("fe80::1ff:fe23:4567:890a", every_ip=True).spans == (Span("ip", 0, 24),)
    assert find("v10.2.3.4 10.2.3.400", every_ip=True).spans == ()


def test_scrub_writes_the_kind_in_place() -> None:
    text = "Ask jane@example.com or +44 20 7946 0958, twice jane@example.com."

    assert scrub(text) == "Ask [email] or [phone], twice [email]."
    assert scrub(text, ["phone"]) == "Ask jane@example.com or [phone], twice jane@example.com."


def test_text_past_the_cap_is_called_unread_and_not_passed_on() -> None:
    text = "x " * 500 + "jane@example.com " + "y " * 500

    assert not find(text, max_chars=1000).complete
    assert find(text, max_chars=2000).spans == find(text).spans
    assert scrub(text, max_chars=1010) == "x " * 155 + "[not scanned]"
    assert "[email]" in scrub(text, max_chars=1800)


def test_overlapping_matches_leave_no_rest_behind() -> None:
    # The card number stands inside the address; both are masked as one.
    assert scrub("4111111111111111@example.com") == "[email]"


@given(st.text(max_size=60), st.sampled_from([f for _, _, f in FOUND]), st.text(max_size=60))
def test_any_text_is_scanned_without_an_error(before: str, found: str, after: str) -> None:
    text = f"{before} {found} {after}"
    scan = find(text)

    ends = [0, *(end for span in scan.spans for end in (span.start, span.end)), len(text)]
    assert ends == sorted(ends)
    assert all(span.start < span.end for span in scan.spans)
    scrub(text)


@pytest.mark.parametrize(
    "unit",
    ["1", "1 ", "a@", "a.", "'a", "+1 ", "1.", "1:", "a (at) ", "((", "de12 ", "4111 ", "４"],
)
def test_time_grows_with_length_and_no_faster(unit: str) -> None:
    # Bounded patterns take well under a second for this; a quadratic one would take minutes.
    text = unit * (200_000 // len(unit))
    started = time.process_time()
    find(text)

    assert time.process_time() - started < 5.0
