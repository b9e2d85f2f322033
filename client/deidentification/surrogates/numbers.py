"""Stand-ins for numbers, codes and online addresses: the same layout, from ranges nobody is given.

| kind | stand-in |
|---|---|
| telephone | same layout and country code; North American numbers in 555-01xx |
| card | same layout, begins with 9 (no card scheme), valid check digit |
| IBAN | same country and layout, check digits 00 (never valid) |
| social security number | begins with 9 (never issued) |
| IP address | the documentation ranges of RFC 5737 and RFC 3849 |
| web and mail | the reserved domains of RFC 2606 |
| other numbers | same layout: digits for digits, letters for letters, a known prefix stays |
"""

from __future__ import annotations

import re

from client.deidentification.surrogates.choice import KeyedChoice
from client.deidentification.surrogates.invented import family_name

_PREFIX = re.compile(
    r"(?:MRN|MR|PT|PAT|HOSP|NHS|ID|NO|NR|ACC|ACCT|AC|CUST|CUS|CIF|CL|REF|INV|POL|CASE|CLM|TKT|TXN|"
    r"ORD|MEM|GRP|RX|LAB|VIN|SN|IMEI)(?=[-/.:# ]?\d)",
    re.IGNORECASE,
)
_DOMAINS = ("example.org", "example.net", "example.com")
_DOCUMENTATION_NETWORKS = ("192.0.2.", "198.51.100.", "203.0.113.")


def identifier(choice: KeyedChoice, original: str) -> str:
    """A number or code of the same layout."""
    prefix = _PREFIX.match(original)
    kept = prefix.group() if prefix else ""
    return kept + choice.like(original[len(kept) :])


def social_security_number(choice: KeyedChoice, original: str) -> str:
    """A number of the same layout that begins with 9."""
    return re.sub(r"\d", "9", choice.like(original), count=1)


def phone(choice: KeyedChoice, original: str) -> str:
    """A telephone number of the same layout."""
    extension = re.search(r"\s*(?:,\s*)?(?:x|ext|#)", original, re.IGNORECASE)
    main = original[: extension.start()] if extension else original
    rest = original[len(main) :]
    digits = re.sub(r"\D", "", main)
    made = choice.like(digits)
    if len(digits) == 10 and digits[0] in "23456789":
        made = f"{2 + choice.below(8)}{made[1:3]}55501{made[8:]}"
    elif len(digits) == 11 and digits[0] == "1":
        made = f"1{2 + choice.below(8)}{made[2:4]}55501{made[9:]}"
    elif main.lstrip("( ").startswith("+"):
        made = digits[:2] + made[2:]
    elif digits.startswith("00"):
        made = digits[:4] + made[4:]
    elif digits.startswith("0"):
        made = "0" + made[1:]
    return _laid_out(main, made) + re.sub(r"\d+", lambda m: choice.like(m.group()), rest)


def card(choice: KeyedChoice, original: str) -> str:
    """A card number of the same layout that begins with 9 and has a valid check digit."""
    digits = "9" + choice.like(re.sub(r"\D", "", original))[1:-1]
    total = 0
    for at, digit in enumerate(reversed(digits)):
        number = int(digit) * (2 if at % 2 == 0 else 1)
        total += number - 9 if number > 9 else number
    return _laid_out(original, digits + str(-total % 10))


def iban(choice: KeyedChoice, original: str) -> str:
    """An account number of the same country and layout with impossible check digits."""
    return original[:2] + "00" + choice.like(original[4:])


def ip_address(choice: KeyedChoice, original: str) -> str:
    """An address from the ranges set aside for documentation."""
    if ":" in original:
        return f"2001:db8::{choice.below(65536):x}:{choice.below(65536):x}"
    return choice.one_of(_DOCUMENTATION_NETWORKS) + str(1 + choice.below(254))


def web_address(choice: KeyedChoice, original: str) -> str:
    """An address below a reserved domain; a handle for a handle."""
    if original.startswith("@"):
        return "@" + family_name(choice).lower()
    scheme = re.match(r"[a-z]+://", original, re.IGNORECASE)
    host = f"{family_name(choice).lower()}.{choice.one_of(_DOMAINS)}"
    return (scheme.group() if scheme else "") + host


def mail_domain(choice: KeyedChoice) -> str:
    """A reserved domain."""
    return choice.one_of(_DOMAINS)


def _laid_out(original: str, digits: str) -> str:
    """The digits where the original has digits, everything else as in the original."""
    left = iter(digits)
    return "".join(next(left) if char.isdecimal() else char for char in original)
