"""What the law lists, and under which kinds it is found: HIPAA's Safe Harbor, the GDPR's Article 9.

Examples carry what is found in brackets; a test finds each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from client.deidentification.findings import (
    ADDRESS,
    AGE,
    DATE_TIME,
    EMAIL_ADDRESS,
    GROUP,
    IDENTIFIER,
    IP_ADDRESS,
    LOCATION,
    NUMBER,
    PERSON,
    PHONE_NUMBER,
    URL,
)


@dataclass(frozen=True)
class Listed:
    """One kind of a law's list.

    Attributes:
        number: As the law numbers it.
        name: In short.
        examples: By kind of finding, with what is found in brackets; none where text holds none.
        note: What is not found.
    """

    number: str
    name: str
    examples: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


SAFE_HARBOR: Final = (
    Listed("A", "names", {PERSON: "seen with [Anita Kadakia] today"}),
    Listed(
        "B",
        "geographic subdivisions smaller than a state",
        {
            ADDRESS: "lives at [22 Elm Street], third floor",
            LOCATION: "she lives in [Edinburgh] now",
        },
        "of states and countries too; nothing is kept unless `generalise` says so",
    ),
    Listed(
        "C",
        "dates but the year, and ages over 89",
        {DATE_TIME: "admitted on [3 May 2024] with pain", AGE: "a [93] year old woman"},
        "ages of all, and years",
    ),
    Listed("D", "telephone numbers", {PHONE_NUMBER: "ring [212-555-0142 ext. 33] please"}),
    Listed("E", "fax numbers", {PHONE_NUMBER: "fax [+49 30 5550 1234] please"}),
    Listed("F", "e-mail addresses", {EMAIL_ADDRESS: "write to [ann@mail.example] now"}),
    Listed("G", "social security numbers", {"US_SSN": "her SSN: [536-22-8714]"}),
    Listed("H", "medical record numbers", {IDENTIFIER: "MRN [0048213] was seen"}),
    Listed("I", "health plan beneficiary numbers", {NUMBER: "Medicare [1EG4-TE5-MK72] is hers"}),
    Listed("J", "account numbers", {IDENTIFIER: "account number [8830-112-559] is closed"}),
    Listed("K", "certificate and licence numbers", {IDENTIFIER: "licence no. [D12-88412] expired"}),
    Listed("L", "vehicle identifiers and plates", {IDENTIFIER: "VIN [1M8GDM9AXKP042788] was sold"}),
    Listed(
        "M", "device identifiers and serial numbers", {IDENTIFIER: "serial [AB-4471-99] failed"}
    ),
    Listed("N", "web addresses", {URL: "it is on [https://clinic.example/ann]"}),
    Listed("O", "IP addresses", {IP_ADDRESS: "from [203.0.113.7] again"}),
    Listed("P", "biometric identifiers", note="not in text; pictures are not searched"),
    Listed("Q", "full-face photographs", note="not in text; pictures are not searched"),
    Listed(
        "R",
        "any other unique number, characteristic or code",
        {IDENTIFIER: "my username is [mountainlily_77]"},
        "a characteristic that a sentence describes is not found",
    ),
)
"""45 CFR 164.514(b)(2)(i)."""

GDPR_SPECIAL_CATEGORIES: Final = (
    Listed("1", "racial or ethnic origin", {GROUP: "he is a [Peruvian] engineer"}),
    Listed("2", "political opinions", {GROUP: "she is a [Socialist] there"}, "named groups only"),
    Listed(
        "3",
        "religious or philosophical beliefs",
        {GROUP: "a practising [Buddhist] from"},
        "named groups only",
    ),
    Listed("4", "trade union membership", note="found only as an organisation's name"),
    Listed("5", "genetic data", note="not found: it is often what is learned from"),
    Listed("6", "biometric data", note="not in text; pictures are not searched"),
    Listed("7", "data concerning health", note="not found: it is what is learned from"),
    Listed("8", "sex life or sexual orientation", note="not found"),
)
"""Regulation (EU) 2016/679, Article 9(1), in its order."""
