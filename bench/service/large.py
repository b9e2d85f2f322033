"""The service with a long past: a log of a million entries, ten thousand open requests."""

from __future__ import annotations

import base64
import random
import secrets
import sys
from typing import Any, Final
from urllib.parse import urlencode

from sqlalchemy import Table, insert, select, text

from audit.log import Entry, utc_clock
from bench.service.federation import Federation, request
from bench.service.running import served
from bench.service.server import OURS
from compliance.service.database import Database
from compliance.service.folder import open_registry
from compliance.service.log_index import Topics, index_fields
from compliance.service.settings import read_settings
from compliance.service.subject_tables import CasePartRow, CaseRow
from compliance.service.tables import Base, LogIndexRow
from compliance.statements import format_time

FILED: Final = 500
"""Requests that are filed by calls; the others are copies of their rows."""

PAGE: Final = 5_000
QUESTIONS: Final = 400
_CASES: Final[Table] = Base.metadata.tables[CaseRow.__tablename__]
_PARTS: Final[Table] = Base.metadata.tables[CasePartRow.__tablename__]

ACTIONS: Final = ("round.reported", "report.filed", "request.filed", "release.downloaded")


def measure_requests(federation: Federation, count: int) -> dict[str, Any]:
    """Requests that officers list, filter and see the clocks of."""
    sites = list(federation.tokens)
    sealed = base64.b64encode(secrets.token_bytes(300)).decode()
    filings = [
        request(
            "POST",
            "/v1/subject-requests",
            federation.officer,
            {
                "request_id": secrets.token_hex(16),
                "right": "erasure" if number % 2 else "access",
                "jurisdiction": "gdpr" if number % 3 else "ccpa",
                "sealed": {sites[number % len(sites)]: sealed},
            },
        )
        for number in range(FILED)
    ]
    questions = [
        request("GET", f"/v1/subject-requests?{urlencode(question)}", federation.officer)
        for question in (
            {},
            {"limit": 500},
            {"open": "true"},
            {"open": "true", "right": "erasure"},
            {"site": sites[0]},
            {"stage": "received"},
            {"overdue": "true"},
        )
    ]
    with served(OURS, federation.folder) as ours:
        filed = ours.load([filings[start::50] for start in range(50)])
        _copy_requests(federation, count)
        asked = ours.load([questions * 15])
    return {
        "open_requests": count,
        "requests_filed_per_second": round(filed["per_second"], 1),
        "requests_list_p50_ms": round(asked["p50_ms"], 1),
        "requests_list_p99_ms": round(asked["p99_ms"], 1),
        "requests_list_cpu_ms": round(asked["cpu_ms"], 1),
        "requests_errors": filed["errors"] + asked["errors"],
    }


def _copy_requests(federation: Federation, count: int) -> None:
    """Copies of the requests that were filed, until there are so many."""
    database = Database(
        read_settings(federation.folder.settings).database_url, federation.folder.path
    )
    try:
        with database.engine.begin() as connection:
            cases, parts = (
                [dict(row) for row in connection.execute(select(table)).mappings()]
                for table in (_CASES, _PARTS)
            )
            names = {}
            copies = []
            for number in range(count - len(cases)):
                case = cases[number % len(cases)]
                name, receipt = secrets.token_hex(16), secrets.token_hex(32)
                names[name] = case["request_id"]
                copy = {"request_id": name, "receipt_sha256": receipt, "position": 10**9 + number}
                copies.append(case | copy)
            of = {part["request_id"]: part for part in parts}
            connection.execute(insert(_CASES), copies)
            connection.execute(
                insert(_PARTS), [of[case] | {"request_id": name} for name, case in names.items()]
            )
    finally:
        database.close()


def measure_log(federation: Federation, count: int) -> dict[str, Any]:
    """Pages of a hundred entries, decrypted and proven, by conditions that find few or many."""
    began = format_time(utc_clock())
    _fill(federation, count)
    randomly = random.Random(1)  # noqa: S311  the same questions in every run
    conditions: list[dict[str, str]] = []
    for _ in range(QUESTIONS):
        number = randomly.randrange(count)
        conditions.append(
            randomly.choice(
                (
                    {"actor": f"site:site-{number % 50}"},
                    {"action": ACTIONS[number % 4]},
                    {"action": "request.", "site": f"site-{number % 50}"},
                    {"object": f"thing:{number}"},
                    {"after": str(number), "order": "oldest"},
                    {"until": format_time(utc_clock()), "actor": f"site:site-{number % 50}"},
                    {"action": "request."},
                    {"actor": f"site:site-{number % 50}", "action": ACTIONS[number // 50 % 4]},
                    {"since": began, "until": format_time(utc_clock()), "order": "oldest"},
                    {},
                )
            )
        )
    questions = [
        request("GET", f"/v1/log/entries?{urlencode(one)}", federation.officer)
        for one in conditions
    ]
    with served(OURS, federation.folder) as ours:
        asked = ours.load([questions])
    return {
        "log_entries": count,
        "log_query_p50_ms": round(asked["p50_ms"], 1),
        "log_query_p99_ms": round(asked["p99_ms"], 1),
        "log_query_cpu_ms": round(asked["cpu_ms"], 1),
        "log_query_errors": asked["errors"],
    }


def _fill(federation: Federation, count: int) -> None:
    """Append to the log, and to its index, as the service does, a page in one transaction."""
    registry = open_registry(federation.folder, utc_clock)
    try:
        for first in range(0, count, PAGE):
            entries = [_entry(number) for number in range(first, min(first + PAGE, count))]
            with registry.database.writing() as session:
                appended = registry.log.append_many(registry.storage(session), entries)
                rows = [
                    index_fields(entry, done.position, done.time, Topics())
                    for entry, done in zip(entries, appended, strict=True)
                ]
                session.execute(insert(LogIndexRow), rows)
            sys.stderr.write(f"\r{first + len(entries):,} of {count:,} entries")
        sys.stderr.write("\n")
        if registry.database.engine.dialect.name == "postgresql":
            with registry.database.engine.begin() as connection:
                connection.execute(text("ANALYZE"))  # as it does by itself within a minute
    finally:
        registry.close()


def _entry(number: int) -> Entry:
    return Entry(
        f"site:site-{number % 50}",
        ACTIONS[number // 50 % 4],
        f"thing:{number}",
        None,
        {"detail": "x" * 200},
        outlives_subject=True,
    )
