"""Personal data that is nobody's, with right check digits, and ways to disguise it.

Shares no code and no table with serving/_personal_rules.py and _personal_checks.py: the check
digits are computed here from the standards in another way, so that no fault is made twice.
"""

from collections.abc import Callable
from random import Random

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Values of signs in odd places of a codice fiscale: 0-9, then A-Z (decree of 23 December 1976).
ODD = [1, 0, 5, 7, 9, 13, 15, 17, 19, 21]
ODD_LETTERS = [*ODD, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23]


def digits(rng: Random, count: int) -> str:
    """Random digits."""
    return "".join(rng.choice("0123456789") for _ in range(count))


def grouped(text: str, *sizes: int) -> str:
    """`text` in groups of these sizes, with blanks between them."""
    parts, place = [], 0
    for size in sizes:
        parts.append(text[place : place + size])
        place += size
    return " ".join(part for part in [*parts, text[place:]] if part)


def email(rng: Random) -> str:
    """An address at a domain that is reserved for examples, or looks like a company's."""
    name = rng.choice(["jo.lark", "m_ferro", "tanaka", "o.brien", "nina+news", "k-weber"])
    host = rng.choice(["example.com", "mail.example.org", "northwind.de", "acme.co.uk", "kite.io"])
    return f"{name}{rng.randrange(100)}@{host}"


def iban(rng: Random) -> str:
    """Four countries, half of them in groups of four."""
    country, bank, count = rng.choice([("DE", "", 18), ("GB", "WEST", 14), ("NL", "ABNA", 10)])
    account = bank + digits(rng, count)
    rest = 0
    for sign in account + country + "00":
        for digit in sign if sign.isdigit() else str(LETTERS.index(sign) + 10):
            rest = (rest * 10 + int(digit)) % 97
    whole = f"{country}{98 - rest:02d}{account}"
    return whole if rng.random() < 0.5 else grouped(whole, *[4] * (len(whole) // 4))


def card(rng: Random) -> str:
    """Visa, Mastercard or American Express; the last digit is found by trying."""
    start, length = rng.choice([("4", 16), ("53", 16), ("37", 15)])
    body = start + digits(rng, length - len(start) - 1)
    for last in "0123456789":
        total = 0
        for place, digit in enumerate(reversed(body + last)):
            total += int(digit) if place % 2 == 0 else (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)[int(digit)]
        if total % 10 == 0:
            break
    whole = body + last
    if rng.random() < 0.5:
        return whole
    return grouped(whole, 4, 6) if length == 15 else grouped(whole, 4, 4, 4)


def ip(rng: Random) -> str:
    """A public address, one in four of version 6."""
    if rng.random() < 0.25:
        return "2a01:" + ":".join(f"{rng.randrange(1, 65536):x}" for _ in range(7))
    return f"{rng.choice([81, 84, 93, 145, 188])}." + ".".join(
        str(rng.randrange(20, 255)) for _ in range(3)
    )


def phone(rng: Random) -> str:
    """Germany, France, the United Kingdom, the United States, as people write them."""
    match rng.randrange(4):
        case 0:
            return f"+49 30 {digits(rng, 4)}{rng.randrange(1000, 10000)}"
        case 1:
            return "+33 6 " + " ".join(digits(rng, 2) for _ in range(4))
        case 2:
            return f"+44 20 7946 0{digits(rng, 3)}"
    return f"({rng.choice(['212', '415', '646'])}) 555-01{digits(rng, 2)}"


def us_ssn(rng: Random) -> str:
    """A number in an area that is given out."""
    return f"{rng.randrange(100, 660)}-{rng.randrange(1, 100):02d}-{rng.randrange(1, 10000):04d}"


def uk_nhs(rng: Random) -> str:
    """Modulus 11; bodies whose check digit would be 10 are not given out."""
    while True:
        body = rng.choice("4679") + digits(rng, 8)
        check = -sum(int(body[place]) * (10 - place) for place in range(9)) % 11
        if check != 10:
            return grouped(f"{body}{check}", 3, 3)


def es_dni(rng: Random) -> str:
    """Eight digits and the letter of their remainder."""
    number = rng.randrange(10_000_000, 100_000_000)
    letters = "TRWAGMYFPDXBNJZSQVHLCKE"
    return f"{number}{letters[number % 23]}"


def de_tax_id(rng: Random) -> str:
    """One digit of the first ten twice, one never; ISO/IEC 7064 mod 11,10."""
    body = rng.sample("123456789", 9)
    twice = rng.choice(body)
    body.insert(rng.randrange(1, 10), twice)
    state = 10
    for digit in body:
        state = ((state + int(digit)) % 10 or 10) * 2 % 11
    return grouped("".join(body) + str((11 - state) % 10), 2, 3, 3)


def fr_nir(rng: Random) -> str:
    """Sex, year, month, place, number; 97 minus the remainder."""
    body = f"{rng.choice('12')}{digits(rng, 2)}{rng.randrange(1, 13):02d}"
    body += f"{rng.randrange(1, 95):02d}{digits(rng, 6)}"
    return grouped(f"{body}{97 - int(body) % 97:02d}", 1, 2, 2, 2, 3, 3)


def it_fiscal_code(rng: Random) -> str:
    """Surname, name, date, town; the last letter from the table above."""
    consonants = "".join(rng.choice("BCDFGLMNPRSTV") for _ in range(6))
    town = rng.choice("FHLD") + digits(rng, 3)
    body = f"{consonants}{digits(rng, 2)}{rng.choice('ABCDEHLMPRST')}{rng.randrange(10, 29)}{town}"
    total = 0
    for place, sign in enumerate(body, 1):
        value = int(sign) if sign.isdigit() else LETTERS.index(sign)
        total += ODD_LETTERS[value] if place % 2 else value
    return body + LETTERS[total % 26]


def br_cpf(rng: Random) -> str:
    """Two check digits, each from all that stands before it."""
    body = [rng.randrange(10) for _ in range(8)] + [rng.randrange(1, 9)]
    for _ in range(2):
        total = sum(digit * weight for weight, digit in enumerate(reversed(body), 2))
        body.append(0 if total % 11 < 2 else 11 - total % 11)
    text = "".join(map(str, body))
    return f"{text[:3]}.{text[3:6]}.{text[6:9]}-{text[9:]}"


def ch_ahv(rng: Random) -> str:
    """EAN-13 that begins with 756."""
    body = "756" + digits(rng, 9)
    odd, even = sum(map(int, body[0::2])), sum(map(int, body[1::2]))
    text = f"{body}{-(odd + 3 * even) % 10}"
    return f"{text[:3]}.{text[3:7]}.{text[7:11]}.{text[11:]}"


KINDS: dict[str, Callable[[Random], str]] = {
    made.__name__: made
    for made in (email, iban, card, ip, phone, us_ssn, uk_nhs, es_dni, de_tax_id, fr_nir)
} | {made.__name__: made for made in (it_fiscal_code, br_cpf, ch_ahv)}
# Kinds that are looked for only where a word says so, as documents do.
NAMED = {"uk_nhs": "NHS number", "de_tax_id": "Steuer-IdNr."}
SENTENCES = [
    "Please write {value} into the record.",
    "The guest left {value}, and asked for a table at 19:30.",
    "We found {value} in the log of the payment service",
    "{value} is what the customer gave us on 3 May.",
]
FULL_WIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}


def _between(text: str, sign: str, keep: Callable[[str], bool]) -> str:
    """`sign` between neighbours that both satisfy `keep`."""
    pairs = zip(text, text[1:] + " ", strict=True)
    return "".join(a + (sign if keep(a) and keep(b) else "") for a, b in pairs)


def _line_break(text: str) -> str:
    middle = len(text) // 2
    return f"{text[:middle].rstrip()}\n{text[middle:].lstrip()}"


DISGUISES: dict[str, Callable[[str], str]] = {
    "plain": lambda text: text,
    "zero_width": lambda text: _between(text, "\u200b", str.isalnum),
    "full_width": lambda text: text.translate(FULL_WIDTH),
    "mixed_case": lambda text: "".join(
        c.upper() if i % 2 else c.lower() for i, c in enumerate(text)
    ),
    "blank_for_hyphen_and_dot": lambda text: text.replace("-", " ").replace(".", " "),
    "blanks_between_all": lambda text: _between(text, " ", str.isalnum),
    "dots_between_digits": lambda text: _between(text.replace(" ", "."), ".", str.isdigit),
    "line_break": _line_break,
    "bracketed_at_dot": lambda text: text.replace("@", " [at] ").replace(".", " [dot] "),
    "at_dot_in_words": lambda text: text.replace("@", " at ").replace(".", " dot "),
}
ONLY_EMAIL = ("bracketed_at_dot", "at_dot_in_words")


def plant(rng: Random, kind: str, disguise: str) -> tuple[str, int, int]:
    """A sentence with disguised personal data of a kind, at text[start:end]."""
    value = DISGUISES[disguise](KINDS[kind](rng))
    before, after = rng.choice(SENTENCES).split("{value}")
    before += f"{NAMED[kind]} " if kind in NAMED else ""
    return before + value + after, len(before), len(before) + len(value)
