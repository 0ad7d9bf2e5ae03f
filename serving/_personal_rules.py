"""What personal data looks like: a pattern per kind, with the check that a match must pass.

Every quantifier is bounded, every start is at the edge of a run. The lengths of IBANs are those of
the SWIFT registry; the checks and their sources are in serving/_personal_checks.py.
"""

import re
from collections.abc import Callable
from typing import Literal

from serving._personal_checks import (
    is_ahv,
    is_card,
    is_codice_fiscale,
    is_cpf,
    is_dni,
    is_email,
    is_german_tax_id,
    is_iban,
    is_nhs,
    is_nir,
    is_phone,
    is_public_address,
    is_ssn,
)

Kind = Literal[
    "email",
    "iban",
    "card",
    "ip",
    "phone",
    "us_ssn",
    "uk_nhs",
    "es_dni",
    "de_tax_id",
    "fr_nir",
    "it_fiscal_code",
    "br_cpf",
    "ch_ahv",
]

_LABEL = r"[^\W_][\w-]{0,62}"
_LOCAL = r"(?<![\w.%+-])\w[\w.%+'-]{0,63}"
_END = r"(?:xn--[a-z0-9-]{2,59}|[^\W\d_]{2,24})(?!\w)"
_OPEN, _CLOSE = r" {0,2}[\[({] {0,2}", r" {0,2}[\])}] {0,2}"
_IBAN_LENGTHS = (
    "15 NO 16 BE 18 DK|FK|FI|FO|GL|NL|SD 19 MK|SI 20 AT|BA|EE|KZ|LT|LU|MN|XK 21 CH|HR|LI|LV "
    "22 BG|BH|CR|DE|GB|GE|IE|ME|RS|VA 23 AE|GI|IL|IQ|OM|SO|TL "
    "24 AD|CZ|ES|MD|PK|RO|SA|SE|SK|TN|VG 25 LY|PT|ST 26 IS|TR 27 BI|DJ|FR|GR|IT|MC|MR|SM "
    "28 AL|AZ|BY|CY|DO|GT|HU|LB|NI|PL|SV 29 BR|EG|PS|QA|UA 30 JO|KW|MU|YE 31 MT|SC 32 LC 33 RU"
)
_IBAN = "|".join(
    f"(?:{codes})[0-9]{{2}}(?:[ -]?[A-Z0-9]{{4}}){{{int(length) // 4 - 1}}}"
    + (f"[ -]?[A-Z0-9]{{{int(length) % 4}}}" if int(length) % 4 else "")
    for length, codes in re.findall("([0-9]+) ([A-Z|]+)", _IBAN_LENGTHS)
)
_GAP = r"[ .-]{1,3}"
# Looks behind the digit that was just read: the engine finds a digit several times faster than
# a place where no word goes on.
_ALONE = r"(?<![\w.-].)"

RULES: tuple[tuple[Kind, re.Pattern[str], Callable[[re.Match[str]], bool]], ...] = (
    ("email", re.compile(rf"{_LOCAL}@(?:{_LABEL}\.){{1,6}}{_END}"), is_email),
    (
        "email",  # name (at) example (dot) com
        re.compile(
            rf"{_LOCAL}{_OPEN}(?:at|@){_CLOSE}"
            rf"(?:{_LABEL}(?:\.|{_OPEN}(?:dot|\.){_CLOSE})){{1,5}}{_END}",
            re.IGNORECASE,
        ),
        is_email,
    ),
    (
        "iban",
        re.compile(rf"(?<![\w-])(?=[A-Z]{{2}}[0-9]{{2}})(?:{_IBAN})(?!-?\w)", re.IGNORECASE),
        is_iban,
    ),
    (
        "card",
        re.compile(
            rf"(?<!\w)(?<!\w[.-])(?<![0-9],)(?<![0-9]{{4}} )(?:[0-9]{{4}}(?:{_GAP}[0-9]{{4}}){{3}}"
            rf"|[0-9]{{4}}{_GAP}[0-9]{{6}}{_GAP}[0-9]{{4,5}}|[0-9]{{14,19}})"
            r"(?!\w|[.-]\w| [0-9]{4}(?!\w))"
        ),
        is_card,
    ),
    (
        "ip",
        re.compile(
            r"[0-9](?<![\w.+-].)(?<![A-Za-z]/.)[0-9]{0,2}(?:\.[0-9]{1,3}){3}"
            r"(?!\w|\.[0-9]|/[0-9]|-\w)"
        ),
        is_public_address,
    ),
    (
        "ip",
        re.compile(r"(?<![\w:.])[0-9A-Fa-f]{1,4}(?::{1,2}[0-9A-Fa-f]{1,4}){2,7}(?!\w|:\w|/[0-9])"),
        is_public_address,
    ),
    (
        "phone",
        re.compile(
            r"(?<![\w.,+-])(?:\+[1-9][0-9]{9,14}(?!\w)"
            r"|(?:\+|00)[1-9][0-9]{0,3}[ .-]?(?:\([0-9]{1,4}\)[ .-]?)?"
            r"[0-9](?:[ ./-]?[0-9]){4,12}+(?!\w|[./-][0-9]))"
        ),
        is_phone,
    ),
    (
        "phone",  # (212) 555-0142, 1-212-555-0142
        re.compile(
            r"(?<![\w.+-])(?<!\w\()(?:1[ -])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}-)"
            r"[2-9](?!11)[0-9]{2}-[0-9]{4}(?!\w|[.-]\w)"
        ),
        bool,  # the shape is all there is to check
    ),
    (
        "us_ssn",
        re.compile(rf"[0-8]{_ALONE}[0-9]{{2}}-(?!00)[0-9]{{2}}-(?!0000)[0-9]{{4}}(?!\w|[.-]\w)"),
        is_ssn,
    ),
    (
        "uk_nhs",
        re.compile(rf"[0-9]{_ALONE}[0-9]{{2}}(?:[ -]?[0-9]{{3}}){{2}}[0-9](?!\w|[.-]\w)"),
        is_nhs,
    ),
    ("es_dni", re.compile(rf"[0-9XYZ]{_ALONE}[0-9]{{7}}-?[A-Z](?![\w-])"), is_dni),
    (
        "de_tax_id",
        re.compile(rf"[1-9]{_ALONE}[0-9](?: ?[0-9]{{3}}){{3}}(?!\w|[.-]\w)"),
        is_german_tax_id,
    ),
    (
        "fr_nir",
        re.compile(
            rf"[12]{_ALONE} ?[0-9]{{2}} ?(?:0[1-9]|1[0-2]) ?(?:[0-9]{{2}}|2[AB])"
            r"(?: ?[0-9]{3}){2} ?[0-9]{2}(?!\w|[.-]\w)"
        ),
        is_nir,
    ),
    (
        "it_fiscal_code",
        re.compile(r"(?<!\w)[A-Z]{6}[0-9]{2}[ABCDEHLMPRST][0-9]{2}[A-Z][0-9]{3}[A-Z](?!\w)"),
        is_codice_fiscale,
    ),
    (
        "br_cpf",
        re.compile(rf"[0-9]{_ALONE}[0-9]{{2}}(?:\.[0-9]{{3}}){{2}}-[0-9]{{2}}(?!\w|[.-]\w)"),
        is_cpf,
    ),
    ("ch_ahv", re.compile(rf"7{_ALONE}56(?:\.[0-9]{{4}}){{2}}\.[0-9]{{2}}(?!\w|[.-]\w)"), is_ahv),
)
