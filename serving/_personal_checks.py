"""Whether a match stands for the personal data that it looks like.

Sources: phone numbers, ITU-T E.164 (country codes as assigned in 2024) and the North American
Numbering Plan; IBAN, ISO 13616; cards, ISO/IEC 7812 (Luhn); SSN, the rules of the US Social
Security Administration since 2011; NHS number, NHS Data Dictionary (modulus 11); DNI and NIE,
Spanish Ministry of the Interior (modulus 23); German tax id, ISO/IEC 7064 mod 11,10; French NIR
(97 minus modulus 97); Italian codice fiscale, decree of 23 December 1976; Brazilian CPF (two
modulus 11 digits); Swiss AHV number (EAN-13 with prefix 756).
"""

import ipaddress
import re


def _digits(text: str) -> str:
    return re.sub("[^0-9]", "", text)


def _before(match: re.Match[str], length: int) -> str:
    return match.string[max(0, match.start() - length) : match.start()]


# Ends of file names, systemd units and hosts inside a network: no address of a person ends so.
_NO_MAIL = re.compile(
    "png|jpe?g|gif|svg|webp|pdf|html|css|js|json|ya?ml|txt|log|csv|xml|conf|sock|service|socket"
    "|timer|mount|slice|scope|target|local|localhost|localdomain|internal|lan|invalid|svc|cluster"
)


def is_email(match: re.Match[str]) -> bool:
    """An address that mail may reach: no file, unit, package, repository or URL's user."""
    address = match[0].lower()
    if ".." in address or _NO_MAIL.fullmatch(re.split("[^a-z]", address)[-1]):
        return False
    if re.search(r"@v?[0-9]+\.[0-9]", address):
        return False  # a package and its version
    if address.startswith(("git@", "hg@", "svn@")) and match.string[match.end() :][:1] in (
        ":",
        "/",
    ):
        return False  # a repository
    return not re.search(r"://[^/\s?#]*$", _before(match, 100))  # user and password in a URL


def is_iban(match: re.Match[str]) -> bool:
    """The account's remainder is 1 of 97 (ISO 13616)."""
    account = re.sub("[ -]", "", match[0])
    if len(_digits(account)) < 8 or not account.isascii():
        return False  # words; IGNORECASE takes dotless i and long s for letters of A to Z
    return int("".join(str(int(sign, 36)) for sign in account[4:] + account[:4])) % 97 == 1


def _luhn(digits: str) -> bool:
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (doubled + sum(int(digit) for digit in digits[-1::-2])) % 10 == 0


_CARD_NUMBERS = re.compile(
    r"4[0-9]{15}"  # Visa; the next line is Mastercard
    r"|5[1-5][0-9]{14}|(?:222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}"
    r"|3[47][0-9]{13}"  # American Express
    r"|(?:6011|64[4-9][0-9]|65[0-9]{2})[0-9]{12}"  # Discover
    r"|35(?:2[89]|[3-8][0-9])[0-9]{12}"  # JCB
    r"|3(?:0[0-5]|[689][0-9])[0-9]{11}"  # Diners Club
    r"|62[0-9]{14}(?:[0-9]{3})?"  # UnionPay
)


def is_card(match: re.Match[str]) -> bool:
    """A number that a card company gives out, with its Luhn digit."""
    digits = _digits(match[0])
    return _CARD_NUMBERS.fullmatch(digits) is not None and len(set(digits)) > 1 and _luhn(digits)


# Country codes of ITU-T E.164.
_COUNTRY = re.compile(
    "1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|21[12368]|22[0-9]|23[0-9]|24[0-9]"
    "|25[0-8]|26[0-9]|29[01789]|35[0-9]|37[0-8]|38[0-35-79]|42[013]|50[0-9]|59[0-9]|67[02-9]"
    "|68[0-35-9]|69[0-2]|80[08]|85[02356]|87[0-48]|88[0-368]|96[0-8]|97[0-79]|99[2-68]"
)
_NANP = re.compile("1(?:[2-9][0-9]{2}){2}[0-9]{4}")  # North America: no area or exchange below 200
_UNIT = re.compile(r" ?(?:bytes?|[KMGT]?i?B|[mnuµμ]?s|rows?|req\w*|tokens?|messages?|%)(?!\w)")


def is_phone(match: re.Match[str]) -> bool:
    """A country code as assigned and a length that E.164 allows."""
    written = match[0].replace("(0)", "").removeprefix("+")
    written = written.removeprefix("00") if match[0].startswith("00") else written
    first, digits = re.split("[^0-9]", written, maxsplit=1)[0], _digits(written)
    if match[0].startswith("00") and len(first) > 3:
        return False  # a number with leading zeros
    # Where a separator follows the country code, the code is all that stands before it.
    code = _COUNTRY.fullmatch(first) if len(first) <= 3 else _COUNTRY.match(first)
    if code is None or not 9 <= len(digits) <= 15 or _UNIT.match(match.string, match.end()):
        return False
    if code[0] == "1":
        return _NANP.fullmatch(digits) is not None
    return code[0] == "39" or digits[code.end()] != "0"  # only Italy keeps the leading zero


_VERSION = re.compile(
    r"(?:\b(?:v|ver|version|release|build|rev|revision|tag|firmware|driver|patch|section|chapter"
    r"|clause|step)|grad\w*|rolled back)\W{1,3}(?:(?:is|of|at|to|from)\W)?$",
    re.IGNORECASE,
)


def _address(match: re.Match[str]) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    if _VERSION.search(_before(match, 30)):
        return None
    try:
        return ipaddress.ip_address(match[0])
    except ValueError:
        return None


def is_address(match: re.Match[str]) -> bool:
    """An IP address of any kind, and no version number."""
    return _address(match) is not None


def is_public_address(match: re.Match[str]) -> bool:
    """Whether an address may lead to a person; four numbers below 20 read as a version."""
    address = _address(match)
    if address is None or not address.is_global or address.is_multicast:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return max(address.packed) >= 20
    return address.packed[0] >> 5 == 1  # 2000::/3, all that is assigned to hosts


def is_ssn(match: re.Match[str]) -> bool:
    """An area that the Social Security Administration gives out, and no printed sample."""
    if match[0].startswith(("000", "666")):
        return False  # never given out; neither is 9xx, which the pattern leaves out
    return match[0] not in ("078-05-1120", "219-09-9999", "123-45-6789")  # printed as samples


def is_nhs(match: re.Match[str]) -> bool:
    """The check digit fits (modulus 11), and the text before it says NHS."""
    digits = _digits(match[0])
    total = sum(
        int(digit) * weight for digit, weight in zip(digits, range(10, 1, -1), strict=False)
    )
    return "nhs" in _before(match, 40).lower() and (11 - total % 11) % 11 == int(digits[9])


def is_dni(match: re.Match[str]) -> bool:
    """The letter of a DNI or NIE fits (modulus 23)."""
    body = match[0][:-1].rstrip("-")
    number = int(str("XYZ".find(body[0])) + body[1:] if body[0] in "XYZ" else body)
    return number > 0 and "TRWAGMYFPDXBNJZSQVHLCKE"[number % 23] == match[0][-1]


def is_german_tax_id(match: re.Match[str]) -> bool:
    """Check digit and repeated digits fit, and the text before it names a tax id."""
    digits = _digits(match[0])
    repeated = [
        digits[:10].count(digit) for digit in set(digits[:10]) if digits[:10].count(digit) > 1
    ]
    product = 10
    for digit in digits[:10]:
        product = 2 * ((int(digit) + product) % 10 or 10) % 11
    named = re.search(r"steuer|idnr|identif|tax id|\btin\b", _before(match, 40), re.IGNORECASE)
    return bool(named) and repeated in ([2], [3]) and (11 - product) % 10 == int(digits[10])


def is_nir(match: re.Match[str]) -> bool:
    """The two check digits fit (97 minus modulus 97)."""
    number = match[0].replace(" ", "").replace("2A", "19").replace("2B", "18")
    return 97 - int(number[:13]) % 97 == int(number[13:])


_CODICE_ODD = "BAFHJNPRTVCESULDGIMOQKWZYX"  # value of each sign in an odd place, as a letter


def is_codice_fiscale(match: re.Match[str]) -> bool:
    """The last letter fits (modulus 26)."""
    values = [int(sign) if sign.isdigit() else ord(sign) - ord("A") for sign in match[0]]
    odd = sum(ord(_CODICE_ODD[value]) - ord("A") for value in values[0:15:2])
    return (odd + sum(values[1:15:2])) % 26 == values[15]


def is_cpf(match: re.Match[str]) -> bool:
    """Both check digits fit, and the digits are not all the same."""
    digits = [int(digit) for digit in _digits(match[0])]
    checks = [
        sum(d * w for d, w in zip(digits, range(last + 1, 1, -1), strict=False)) * 10 % 11 % 10
        for last in (9, 10)
    ]
    return len(set(digits)) > 1 and checks == digits[9:]


def is_ahv(match: re.Match[str]) -> bool:
    """The last digit fits (EAN-13)."""
    digits = [int(digit) for digit in _digits(match[0])]
    return (sum(digits[0::2]) + 3 * sum(digits[1::2])) % 10 == 0
