"""Questions to the log: what they find, how pages follow each other, what is recorded, and what a
client believes."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, event, insert, text
from sqlalchemy.orm import Session

from audit.canonical import canonical_bytes
from audit.checkpoint import Checkpoint, sign_checkpoint
from audit.cosignature import WitnessKey, cosign, verify_cosignature, with_lines
from audit.errors import MalformedInput, Unauthorised, Unreachable, VerificationFailed
from audit.keys import SigningKey
from compliance.log_views import LogFilter, LogQuery
from compliance.service.log_positions import LogTimes, count_entries, find_positions
from compliance.service.log_search import Cursor, read_page
from compliance.service.tables import Base, LogIndexRow
from tests.compliance.asking import ask, everything, forged, with_history
from tests.compliance.federation import Coordinator, Site
from tests.compliance.running import RunningService
from tests.compliance.test_bad_input import problem

SUBJECT = "ab" * 32

Row = dict[str, Any]


@pytest.fixture
def history(service: RunningService, tmp_path: Path) -> RunningService:
    return with_history(service, tmp_path)


def positions(rows: list[Row], wanted: Callable[[Row], bool]) -> list[int]:
    return [row["position"] for row in rows if wanted(row)]


# --- what is found -------------------------------------------------------------------------------


def test_the_newest_come_first(history: RunningService) -> None:
    officer = history.as_("officer")
    size = len(history.entries())
    (page,) = officer.log_pages(LogQuery())
    assert [view.position for view in page.entries] == list(reversed(range(size)))
    assert (page.size, page.next) == (size, None)
    assert [view.position for view in officer.log_entries(limit=3)] == [size, size - 1, size - 2]
    assert [view.position for view in officer.log_entries(limit=3, order="oldest")] == [0, 1, 2]


def test_each_condition_finds_exactly_what_meets_it(history: RunningService) -> None:
    rows = everything(history)
    officer = history.as_("officer")
    plan = next(view.plan_id for view in officer.plans() if view.state == "completed")
    release = officer.releases()[0].release_id
    middle = rows[len(rows) // 2]
    questions: list[tuple[Row, Callable[[Row], bool]]] = [
        ({"actor": "site:north"}, lambda row: row["actor"] == "site:north"),
        ({"action": "plan.approved"}, lambda row: row["action"] == "plan.approved"),
        ({"action": "plan."}, lambda row: row["action"].startswith("plan.")),
        ({"action": "site."}, lambda row: row["action"].startswith("site.")),
        ({"action": "plan"}, lambda row: False),
        ({"object": f"plan:{plan}"}, lambda row: row["object"] == f"plan:{plan}"),
        ({"object": plan}, lambda row: False),
        ({"subject": SUBJECT}, lambda row: row["subject"] == SUBJECT),
        ({"site": "north"}, lambda row: row["site"] == "north"),
        ({"plan": plan}, lambda row: row["plan"] == plan),
        ({"release": release}, lambda row: row["release"] == release),
        ({"since": middle["time"]}, lambda row: row["time"] >= middle["time"]),
        ({"until": middle["time"]}, lambda row: row["time"] < middle["time"]),
        ({"after": 5}, lambda row: row["position"] > 5),
        (
            {"plan": plan, "site": "north", "since": rows[3]["time"]},
            lambda row: row["plan"] == plan and row["site"] == "north",
        ),
        ({"actor": "nobody"}, lambda row: False),
    ]
    for question, wanted in questions:
        shown = [position for page in ask(officer, **question) for position in page]
        in_history = [position for position in shown if position < len(rows)]
        assert in_history == positions(rows, wanted)[::-1], question
    without = [question for question, wanted in questions if not positions(rows, wanted)]
    assert len(without) == 3


def test_moments_have_any_offset_and_are_never_let_in_early(history: RunningService) -> None:
    rows = everything(history)
    officer = history.as_("officer")
    first = next(row["position"] for row in rows if row["time"] > rows[4]["time"])
    time = rows[first]["time"]  # 2026-11-02T09:…Z
    local = time.replace("T09", "T10").replace("Z", "+01:00")
    assert ask(officer, since=local, until=time) == [[]]
    assert ask(officer, since=local, order="oldest", limit=1000)[0][0] == first
    just_after = time.replace(".000Z", ".0001Z")
    assert ask(officer, since=just_after, order="oldest", limit=1000)[0][0] > first
    assert ask(officer, until=time, order="newest")[0][0] == first - 1
    for odd in ("2026-11-02", "yesterday", "2026-11-02T10:00:00", "2026-13-01T00:00:00Z"):
        answer = history.http(history.token("officer")).get(
            "/v1/log/entries", params={"since": odd}
        )
        assert "query.since" in problem(answer, 422)["detail"]


def test_a_payload_is_shown_until_it_is_forgotten(history: RunningService) -> None:
    officer = history.as_("officer")
    (approved,) = officer.log_entries(action="plan.approved")
    assert approved.payload is not None
    assert approved.payload["statement"]
    history.registry.keyring.destroy(f"action:plan.approved:{approved.time[:7]}")
    (forgotten,) = officer.log_entries(action="plan.approved")
    assert forgotten.payload is None
    assert forgotten.leaf == approved.leaf


def test_cosignatures_of_the_head_come_with_it(history: RunningService) -> None:
    witness = SigningKey.generate("witness.test/north")
    registry = history.registry
    with registry.database.writing() as session:
        storage = registry.storage(session)
        note = registry.log.checkpoint(storage)
        cosigned = with_lines(note, [cosign(note, witness, 1_800_000_000)])
        storage.write_cosignature(witness.name, storage.size(), cosigned)
    first, second = (next(history.as_("officer").log_pages(LogQuery(limit=1))) for _ in range(2))
    head, _ = verify_cosignature(first.note, WitnessKey.of(witness.public))
    assert head == first.checkpoint
    assert witness.name not in second.note  # the first question made a new head


# --- what is recorded ----------------------------------------------------------------------------


def test_each_question_is_an_entry(history: RunningService) -> None:
    auditor = history.as_("auditor")
    size = len(history.entries())
    auditor.log_entries(site="north", subject=SUBJECT, limit=7)
    actor, action, name, payload = history.last_entry()
    assert (actor, action, name) == ("auditor", "log.queried", "log:entries")
    assert payload == {
        "filters": {"site": "north", "subject": SUBJECT},
        "order": "newest",
        "continued": False,
        "size": size,
        "answers": 1,
    }
    assert [view.action for view in auditor.log_entries(action="log.")] == ["log.queried"]


def test_no_entry_no_answer(history: RunningService) -> None:
    http = history.http(history.token("officer"))
    before = history.tables()
    for fault in ("append", "commit"):
        setattr(history.faults, fault, True)
        document = problem(http.get("/v1/log/entries"), 503)
        assert "audit entry" in document["detail"]
        with pytest.raises(Unreachable):
            history.as_("officer").log_entries()
        setattr(history.faults, fault, False)
        assert history.tables() == before


def test_others_may_not_ask_and_that_is_recorded(history: RunningService) -> None:
    for path in ("entries", "export"):
        answer = history.http(history.token("coordinator")).get(f"/v1/log/{path}")
        problem(answer, 403)
        actor, action, name, payload = history.last_entry()
        assert (actor, action) == ("coordinator", "request.refused")
        assert (name, payload["reason"]) == (f"operation:GET /v1/log/{path}", "role-missing")
    with pytest.raises(Unauthorised):
        history.as_("coordinator").log_entries()


# --- pages ---------------------------------------------------------------------------------------


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    order=st.sampled_from(["newest", "oldest"]),
    limit=st.integers(1, 9),
    question=st.sampled_from(
        [{}, {"actor": "officer"}, {"action": "log."}, {"site": "north"}, {"actor": "nobody"}]
    ),
    appended=st.lists(st.integers(0, 3), max_size=6),
)
def test_pages_hold_each_entry_once_whatever_is_appended_between(
    history: RunningService, order: Any, limit: int, question: Row, appended: list[int]
) -> None:
    registry = history.registry
    rows = everything(history)
    expected = positions(rows, lambda row: _meets(row, question))
    query: LogQuery | None = LogQuery(order=order, limit=limit, **question)
    shown: list[int] = []
    growth = iter(appended)
    while query is not None:
        with registry.reading() as session:
            page = read_page(registry, session, query)
        shown += [view.position for view in page.entries]
        assert page.size == len(rows)
        query = query.model_copy(update={"cursor": page.next}) if page.next else None
        for number in range(next(growth, 0)):
            with registry.writing(None) as transaction:
                transaction.actor = "officer"
                transaction.record("log.tested", "site:north", {"number": number})
    assert shown == (expected if order == "oldest" else expected[::-1])


def _meets(row: Row, question: Row) -> bool:
    return all(
        row[name].startswith(value) if name == "action" else row[name] == value
        for name, value in question.items()
    )


def test_pages_are_whole_while_others_write(history: RunningService) -> None:
    size = len(history.entries())
    failures = []

    def write() -> None:
        try:
            for _ in range(60):  # bounded: whoever reads the oldest first runs after the end
                with history.registry.writing(None) as transaction:
                    transaction.record("thing.done", "site:north", {})
        except BaseException as error:  # noqa: BLE001  reported by the main thread
            failures.append(error)

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    try:
        orders = {
            order: ask(history.as_("officer"), order=order, limit=4)
            for order in ("newest", "oldest")
        }
    finally:
        for writer in writers:
            writer.join()
    assert failures == []
    newest = [position for page in orders["newest"] for position in page]
    oldest = [position for page in orders["oldest"] for position in page]
    assert newest == list(reversed(range(newest[0] + 1)))
    assert oldest == list(range(len(oldest)))
    assert len(oldest) > newest[0] >= size - 1


def test_a_cursor_is_of_one_question(history: RunningService) -> None:
    http = history.http(history.token("officer"))
    first = http.get("/v1/log/entries", params={"site": "north", "limit": 2}).json()
    assert len(first["entries"]) == 2
    cursor = first["next"]
    good = http.get("/v1/log/entries", params={"site": "north", "limit": 5, "cursor": cursor})
    assert good.status_code == 200  # another limit is the same question
    for other in (
        {"site": "south"},
        {},
        {"site": "north", "order": "oldest"},
        {"site": "north", "actor": "officer"},
    ):
        answer = http.get("/v1/log/entries", params={**other, "cursor": cursor})
        document = problem(answer, 422)
        assert "other filters" in document["detail"]
        assert "without a cursor" in document["fix"]


def test_a_cursor_of_a_longer_log_is_refused(history: RunningService) -> None:
    query = LogQuery()
    cursor = Cursor(10**6, 10**6 + 1, query.identity()).encoded()
    answer = history.http(history.token("officer")).get(
        "/v1/log/entries", params={"cursor": cursor}
    )
    document = problem(answer, 422)
    assert "log of 1000001 entries" in document["detail"]
    assert "audit verify" in document["fix"]


@given(
    st.text(max_size=60)
    | st.binary(max_size=60).map(lambda data: base64.urlsafe_b64encode(data).decode())
)
def test_anything_else_is_no_cursor(text: str) -> None:
    with pytest.raises(MalformedInput, match="malformed cursor") as caught:
        Cursor.parse(text)
    assert caught.value.fix


@pytest.mark.parametrize(
    "document",
    [
        {"last": 3, "size": 3, "query": "x"},
        {"last": -1, "size": 3, "query": "x"},
        {"last": True, "size": 3, "query": "x", "more": 1},
        {"last": "1", "size": 3, "query": "x"},
        [1, 2, "x"],
    ],
)
def test_a_cursor_that_makes_no_sense_is_refused(document: Any) -> None:
    text = base64.urlsafe_b64encode(canonical_bytes(document)).decode().rstrip("=")
    with pytest.raises(MalformedInput, match="malformed cursor"):
        Cursor.parse(text)


@given(st.integers(0, 10**9), st.integers(1, 10**9), st.text(max_size=80))
def test_a_cursor_is_read_as_it_was_written(last: int, more: int, identity: str) -> None:
    cursor = Cursor(last, last + more, identity)
    try:
        encoded = cursor.encoded()
    except MalformedInput:
        return  # a lone surrogate; digests have none
    assert Cursor.parse(encoded) == cursor


# --- parameters ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "query", "name"),
    [
        ("/v1/log/entries", "q=jane", "?"),
        ("/v1/log/entries", "jane=1", "?"),
        ("/v1/log/entries", "subjectt=jane", "subjectt"),
        ("/v1/log/entries", "format=csv", "format"),
        ("/v1/log/export", "limit=5", "?"),
        ("/v1/plans", "states=approved", "states"),
        ("/v1/log/checkpoint", "x=1", "?"),
    ],
)
def test_unknown_parameters_are_refused_by_a_name_of_ours(
    service: RunningService, path: str, query: str, name: str
) -> None:
    document = problem(service.http(service.token("officer")).get(f"{path}?{query}"), 422)
    assert f"query.{name}: unknown parameter" in document["detail"]
    assert "jane" not in str(document)
    assert document["fix"].startswith("this takes")


def test_a_parameter_given_twice_is_refused(service: RunningService) -> None:
    http = service.http(service.token("officer"))
    document = problem(http.get("/v1/log/entries?actor=officer&actor=site:north"), 422)
    assert "query.actor: given twice" in document["detail"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("actor", ""),
        ("action", "Plan."),
        ("subject", "jane doe"),
        ("site", "../x"),
        ("plan", "3fa2c1"),
        ("release", "sha256:0"),
        ("order", "random"),
        ("limit", "0"),
        ("limit", "1001"),
        ("after", "-2"),
        ("cursor", "x" * 501),
    ],
)
def test_malformed_conditions_are_refused(service: RunningService, name: str, value: str) -> None:
    http = service.http(service.token("officer"))
    document = problem(http.get("/v1/log/entries", params={name: value}), 422)
    assert f"query.{name}" in document["detail"]


# --- what a client believes ----------------------------------------------------------------------


def _flip(encoded: str) -> str:
    data = bytearray(base64.b64decode(encoded))
    data[len(data) // 2] ^= 1
    return base64.b64encode(bytes(data)).decode()


def _swap_statements(page: Row) -> None:
    quoting = [entry for entry in page["entries"] if "statement" in (entry["payload"] or {})]
    quoting[0]["payload"], quoting[1]["payload"] = quoting[1]["payload"], quoting[0]["payload"]


FORGERIES: dict[str, tuple[Callable[[Row], Any], str]] = {
    "time": (lambda page: page["entries"][0].update(time="2020-01-01T00:00:00.000Z"), "time is"),
    "actor": (lambda page: page["entries"][0].update(actor="coordinator"), "actor is shown"),
    "action": (lambda page: page["entries"][0].update(action="plan.rejected"), "action is shown"),
    "object": (lambda page: page["entries"][0].update(object="plan:x"), "object is shown"),
    "subject": (lambda page: page["entries"][0].update(subject="someone"), "subject is shown"),
    "position": (lambda page: page["entries"][0].update(position=0), "position is shown"),
    "leaf": (
        lambda page: page["entries"][0].update(leaf=_flip(page["entries"][0]["leaf"])),
        "malformed|hash is",
    ),
    "leaf of another": (
        lambda page: page["entries"][0].update(leaf=page["entries"][1]["leaf"]),
        "hash is",
    ),
    "leaf hash": (lambda page: page["entries"][0].update(leaf_hash="0" * 64), "hash is"),
    "path": (
        lambda page: page["entries"][0]["path"].__setitem__(
            0, _flip(page["entries"][0]["path"][0])
        ),
        "inclusion proof",
    ),
    "shorter path": (lambda page: page["entries"][0]["path"].pop(), "inclusion proof"),
    "an entry twice": (
        lambda page: page["entries"].insert(0, page["entries"][0]),
        "follows entry",
    ),
    "another order": (lambda page: page["entries"].reverse(), "out of order"),
    "statements swapped": (_swap_statements, "the payload shows"),
    "checkpoint cut": (lambda page: page.update(checkpoint=page["checkpoint"][:-4]), "malformed"),
    "checkpoint unsigned": (
        lambda page: page.update(checkpoint=page["checkpoint"].replace("\n", "0\n", 1)),
        "signature|origin|signed",
    ),
    "a larger log": (lambda page: page.update(size=10**6), "checkpoint signs"),
    "more than asked for": (
        lambda page: page.update(entries=page["entries"] * 40),
        "more than 100|follows",
    ),
    "more without entries": (lambda page: page.update(entries=[], next="x"), "empty page"),
    "no entries at all": (lambda page: page.pop("entries"), "cannot be read"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_answer_is_refused(history: RunningService, name: str) -> None:
    change, message = FORGERIES[name]
    with (
        forged(history, change) as client,
        pytest.raises((VerificationFailed, MalformedInput), match=message),
    ):
        client.log_entries()


def test_a_checkpoint_by_another_key_is_refused(history: RunningService) -> None:
    other = SigningKey.generate(history.trust.origin)

    def resign(page: Row) -> None:
        head = Checkpoint.parse_text(page["checkpoint"].partition("\n\n")[0] + "\n")
        page["checkpoint"] = sign_checkpoint(head, other)

    with forged(history, resign) as client, pytest.raises(VerificationFailed, match="signed by"):
        client.log_entries()


@pytest.mark.parametrize(
    "question",
    [
        {"actor": "coordinator"},
        {"action": "plan.approved"},
        {"action": "plan."},
        {"object": "site:north"},
        {"subject": SUBJECT},
        {"since": "2026-11-02T09:10:00Z"},
        {"until": "2026-11-02T09:10:00Z"},
        {"after": 20},
    ],
)
def test_an_answer_to_another_question_is_refused(history: RunningService, question: Row) -> None:
    genuine = history.http(history.token("officer")).get("/v1/log/entries").json()
    with (
        forged(history, lambda page: page.update(genuine)) as client,
        pytest.raises(VerificationFailed, match="was not asked for"),
    ):
        client.log_entries(**question)


def test_an_index_that_lies_convinces_nobody(history: RunningService) -> None:
    with history.registry.database.writing() as session:
        session.execute(text("UPDATE log_index SET actor = 'coordinator' WHERE position = 2"))
    with pytest.raises(VerificationFailed, match="entry 2 was not asked for"):
        history.as_("officer").log_entries(actor="coordinator")


def test_what_is_not_proven(history: RunningService) -> None:
    """Documented in docs/adr/0012: omissions, and payloads that quote no statement."""

    def lie(page: Row) -> None:
        (invited,) = (e for e in page["entries"] if e["action"] == "site.invited")
        invited["payload"] = {"kit_sha256": "a lie"}
        page["entries"] = [e for e in page["entries"] if e["action"] != "plan.rejected"]

    with forged(history, lie) as client:
        shown = {view.action: view for view in client.log_entries()}
    assert shown["site.invited"].payload == {"kit_sha256": "a lie"}
    assert "plan.rejected" not in shown


def test_pages_of_two_histories_are_refused(history: RunningService) -> None:
    def pages(change: Callable[[Row], Any], path: str, message: str) -> None:
        with forged(history, change, path=path) as client:
            found = client.log_pages(LogQuery(limit=20))
            with pytest.raises(VerificationFailed, match=message):
                list(found)

    pages(
        lambda answer: answer["hashes"].__setitem__(0, _flip(answer["hashes"][0])),
        "/v1/log/consistency",
        "consistency proof",
    )
    seen: list[Row] = []

    def fork(page: Row) -> None:
        seen.append(page)
        if len(seen) == 2:
            head = Checkpoint(history.trust.origin, page["size"] + 1, bytes(32))
            page.update(
                checkpoint=sign_checkpoint(head, history.registry.signer), entries=[], next=None
            )

    pages(fork, "/v1/log/entries", "consistency proof")
    seen.clear()

    def shrink(page: Row) -> None:
        seen.append(page)
        if len(seen) == 2:
            head = Checkpoint(history.trust.origin, seen[0]["size"], bytes(32))
            page.update(
                size=head.size,
                checkpoint=sign_checkpoint(head, history.registry.signer),
                entries=[],
                next=None,
            )

    pages(shrink, "/v1/log/entries", "consistency proof: root")

    seen.clear()
    genuine = (
        history.http(history.token("officer")).get("/v1/log/entries", params={"limit": 20}).json()
    )

    def replay(page: Row) -> None:
        seen.append(page)
        if len(seen) == 2:
            page.update(genuine)

    pages(replay, "/v1/log/entries", "are about|shown before")


# --- how they are found --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large_index() -> Iterator[Engine]:
    """An index of 100,000 entries, without the log."""
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    rows = [
        {
            "position": number,
            "time": f"2026-11-{number // 4000 + 1:02}T{number // 200 % 24:02}:00:00.000Z",
            "actor": f"actor-{number % 50}",
            "action": ("plan.approved", "site.reported", "round.reported")[number % 3],
            "object": f"plan:{number % 1000}",
            "subject": f"{number % 5000:08x}" if number % 10 == 0 else None,
            "site": f"site-{number % 7}",
            "plan": f"sha256:{number % 100:064x}",
            "release": f"sha256:{number % 30:064x}" if number % 20 == 0 else None,
        }
        for number in range(100_000)
    ]
    with engine.begin() as connection:
        connection.execute(insert(LogIndexRow), rows)
    yield engine
    engine.dispose()


DIGEST = "sha256:" + "0" * 64

ONE_DAY = {"since": "2026-11-09T00:00:00Z", "until": "2026-11-10T00:00:00Z"}

QUESTIONS: list[tuple[Row, str]] = [
    ({}, "PRIMARY KEY"),
    ({"after": 50_000}, "PRIMARY KEY"),
    ({"actor": "actor-3"}, "log_index_by_actor"),
    ({"action": "plan.approved"}, "log_index_by_action"),
    ({"action": "plan."}, "log_index_by_action"),
    ({"object": "plan:7"}, "log_index_by_object"),
    ({"subject": "00000010"}, "log_index_by_subject"),
    ({"site": "site-1"}, "log_index_by_site"),
    ({"plan": DIGEST}, "log_index_by_plan"),
    ({"release": DIGEST}, "log_index_by_release"),
    (ONE_DAY, "PRIMARY KEY"),
    ({"actor": "actor-3", "action": "plan.approved"}, "log_index_by_actor_and_action"),
    ({"site": "site-1", "action": "plan.approved"}, "log_index_by_site_and_action"),
    ({"site": "site-1", "action": "plan."}, "log_index_by_site_and_action"),
    ({"actor": "actor-3", **ONE_DAY}, "log_index_by_actor"),
    ({"action": "plan.", **ONE_DAY}, "log_index_by_action"),
]
"""A question, and the index that it walks along."""


@pytest.mark.parametrize("order", ["newest", "oldest"])
@pytest.mark.parametrize("question", range(len(QUESTIONS)))
def test_a_page_is_found_by_an_index(large_index: Engine, question: int, order: Any) -> None:
    conditions, index = QUESTIONS[question]
    asked: list[tuple[str, Any]] = []
    with Session(large_index) as session:
        connection = session.connection()
        event.listen(
            connection, "before_cursor_execute", lambda *call: asked.append((call[2], call[3]))
        )
        wanted = LogFilter(**conditions)
        find_positions(session, LogTimes(), wanted, 100_000, order, 101, last=60_000)
        query, parameters = asked[-1]
        explained = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", parameters)
        plan = [str(row[3]) for row in explained]
    assert not any(step.startswith("SCAN log_index") for step in plan), plan
    assert any(index in step for step in plan), plan
    assert "USE TEMP B-TREE FOR ORDER BY" not in plan, plan


def test_what_the_index_finds_is_what_was_asked_for(large_index: Engine) -> None:
    with Session(large_index) as session:
        wanted = LogFilter(actor="actor-3", site="site-1", since="2026-11-09T00:00:00Z")
        found = find_positions(session, LogTimes(), wanted, 90_000, "oldest", 90_000)
        assert found == [
            n for n in range(90_000) if n % 50 == 3 and n % 7 == 1 and n // 4000 + 1 >= 9
        ]
        assert count_entries(session, wanted, 90_000) == len(found)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=12),
    st.lists(st.integers(0, 9), min_size=1, max_size=4),
    st.integers(0, 10),
    st.integers(0, 10),
)
def test_a_time_is_found_although_the_clock_was_set_back(
    hours: list[int], more: list[int], since: int, until: int
) -> None:
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine, [Base.metadata.tables["log_index"]])
    row = {"actor": "a", "object": "b", "subject": None, "site": None, "plan": None}
    row |= {"release": None}

    def time_of(hour: int) -> str:
        return f"2026-11-02T{hour:02}:00:00.000Z"

    wanted = LogFilter(action="c.", since=time_of(since), until=time_of(until))
    times = LogTimes()
    with Session(engine) as session:
        for first, added in ((0, hours), (len(hours), more)):
            for position, hour in enumerate(added, first):
                entry = {"position": position, "time": time_of(hour), "action": f"c.{hour % 3}"}
                session.execute(insert(LogIndexRow), [row | entry])
            size = first + len(added)
            expected = [n for n, hour in enumerate(hours + more) if since <= hour < until]
            expected = [n for n in expected if n < size]
            found = find_positions(session, times, wanted, size, "oldest", 100)
            assert list(found) == expected
            newest = find_positions(session, times, wanted, size, "newest", 100)
            assert list(newest) == expected[::-1]
            low, high = times.span(session, size, time_of(since), time_of(until))
            assert all(low <= n < high for n in expected)
    engine.dispose()


def test_a_site_is_found_with_what_others_did_to_it(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    plan_id = coordinator.approved_plan()
    coordinator.run(plan_id, north)
    shown = service.as_("auditor").log_entries(site="north", order="oldest")
    assert [(view.actor, view.action) for view in shown] == [
        ("coordinator", "site.invited"),
        ("site:north", "site.enrolled"),
        ("coordinator", "site.admitted"),
        ("site:north", "site.reported"),
        ("site:north", "site.reported"),
    ]
    assert {view.plan for view in shown[3:]} == {plan_id}
