"""Exported entries: what an outsider accepts, and what any change to the file does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.canonical import canonical_bytes, parse_canonical_object
from audit.errors import FiduciaryError, MalformedInput, NotFound, VerificationFailed
from audit.export_file import (
    MalformedExport,
    VerifiedExport,
    export_entry,
    export_header,
    verify_export,
)
from audit.keys import SigningKey, VerifyKey
from audit.leaf import Leaf
from audit.log import Entry, open_payload
from audit.merkle import hash_leaf
from audit.proof import Proof
from audit.shown import CLEAR_FIELDS, ShownEntry, verify_shown
from audit.statement import sign_statement
from tests.audit.logs import ORIGIN, Site

PROVEN = (*CLEAR_FIELDS, "leaf", "leaf_hash", "path")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, list[bytes]]]:
    """A log of 12 entries, one of them a statement, and its export, line by line."""
    site = Site(tmp_path_factory.mktemp("export"))
    site.fill(11)
    statement = sign_statement({"format": "fiduciary.thing/1", "name": "x"}, site.signer)
    site.journal.record_many(
        [
            Entry(
                "site:north",
                "thing.stated",
                statement.log_object,
                None,
                {"statement": statement.to_json()},
            )
        ]
    )
    yield site, export(site, range(12))
    site.close()


def export(site: Site, positions: Any, filters: dict[str, Any] | None = None) -> list[bytes]:
    lines = []
    checkpoint = ""
    for position in positions:
        proof = Proof.parse(site.journal.prove(position, with_leaf=True))
        assert proof.extra is not None
        checkpoint = proof.checkpoint
        leaf = Leaf.parse(proof.extra)
        fields = {name: leaf.clear()[name] for name in CLEAR_FIELDS}
        payload = open_payload(leaf, ORIGIN, site.keyring)
        shown = ShownEntry(fields, payload, proof.extra, hash_leaf(proof.extra).hex(), proof.path)
        lines.append(export_entry(shown, {"site": None}))
    head = export_header(
        origin=ORIGIN, checkpoint=checkpoint, filters=filters or {}, count=len(lines)
    )
    return [head, *lines]


def check(folder: Path, lines: list[bytes], key: VerifyKey) -> VerifiedExport:
    path = folder / "export.jsonl"
    path.write_bytes(b"".join(lines))
    return verify_export(path, key)


def changed(line: bytes, **changes: Any) -> bytes:
    return canonical_bytes(parse_canonical_object(line.rstrip(b"\n")) | changes) + b"\n"


def test_a_whole_log_verifies(made: tuple[Site, list[bytes]], tmp_path: Path) -> None:
    site, lines = made
    seen: list[tuple[int, int]] = []
    path = tmp_path / "export.jsonl"
    path.write_bytes(b"".join(lines))
    verified = verify_export(path, site.signer.public, ORIGIN, lambda *at: seen.append(at))
    assert (verified.entries, verified.statements, verified.forgotten) == (12, 1, 0)
    assert verified.whole
    assert verified.checkpoint.size == 12
    assert seen[-1] == (12, 12)


def test_a_part_of_a_log_verifies_as_a_part(made: tuple[Site, list[bytes]], tmp_path: Path) -> None:
    site, _ = made
    verified = check(tmp_path, export(site, [2, 3, 7], {"after": 1}), site.signer.public)
    assert (verified.entries, verified.whole, verified.filters) == (3, False, {"after": 1})
    forgotten = [*export(site, [2])[:1], changed(export(site, [2])[1], payload=None)]
    assert check(tmp_path, forgotten, site.signer.public).forgotten == 1


def test_each_line_is_canonical(made: tuple[Site, list[bytes]]) -> None:
    for line in made[1]:
        assert line.endswith(b"\n")
        assert parse_canonical_object(line[:-1]) == json.loads(line)


Lines = list[bytes]

CHANGES: dict[str, tuple[Callable[[Lines], Lines], type[FiduciaryError], str]] = {
    "empty": (lambda _: [], MalformedExport, "line 1"),
    "no header": (lambda lines: lines[1:], MalformedExport, "no header"),
    "another format": (
        lambda lines: [changed(lines[0], format="x/1"), *lines[1:]],
        MalformedExport,
        "no header",
    ),
    "count is text": (
        lambda lines: [changed(lines[0], count="12"), *lines[1:]],
        MalformedExport,
        "line 1",
    ),
    "count is true": (
        lambda lines: [changed(lines[0], count=True), *lines[1:2]],
        MalformedExport,
        "line 1",
    ),
    "another origin": (
        lambda lines: [changed(lines[0], origin="x"), *lines[1:]],
        VerificationFailed,
        "line 1: the export is said to be of x",
    ),
    "a line lost": (lambda lines: lines[:-1], MalformedExport, "11 entries, 12 were announced"),
    "a line in the middle lost": (
        lambda lines: lines[:4] + lines[5:],
        MalformedExport,
        "11 entries",
    ),
    "a line more": (lambda lines: [*lines, lines[-1]], MalformedExport, "more than 12"),
    "a line twice": (
        lambda lines: [*lines[:4], lines[3], *lines[5:]],
        VerificationFailed,
        "line 5: entry 2 follows entry 2",
    ),
    "lines swapped": (
        lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
        VerificationFailed,
        "line 3: entry 0 follows entry 1",
    ),
    "the end cut off": (
        lambda lines: [*lines[:-1], lines[-1][:-5]],
        MalformedExport,
        "the last line was cut off",
    ),
    "white space": (
        lambda lines: [lines[0], b" " + lines[1], *lines[2:]],
        MalformedExport,
        "line 2: malformed canonical JSON",
    ),
    "a field more": (
        lambda lines: [lines[0], changed(lines[1], more=1), *lines[2:]],
        MalformedExport,
        "line 2: malformed entry: fields: 1 unknown",
    ),
    "a path that is too long": (
        lambda lines: [lines[0], changed(lines[1], path=["AA=="] * 64), *lines[2:]],
        MalformedExport,
        "line 2",
    ),
    "a hash that is no text": (
        lambda lines: [lines[0], changed(lines[1], path=[1]), *lines[2:]],
        MalformedExport,
        "a hash is not text",
    ),
    "a payload that is no object": (
        lambda lines: [lines[0], changed(lines[1], payload="x"), *lines[2:]],
        MalformedExport,
        "line 2",
    ),
    "another time": (
        lambda lines: [lines[0], changed(lines[1], time="2020-01-01T00:00:00.000Z"), *lines[2:]],
        VerificationFailed,
        "line 2: entry 0: time is shown as",
    ),
    "a position that equals another type": (
        lambda lines: [*lines[:2], changed(lines[2], position=True), *lines[3:]],
        VerificationFailed,
        "line 3: entry 1: position is shown as",
    ),
    "another statement": (
        lambda lines: [*lines[:-1], _other_statement(lines[-1])],
        VerificationFailed,
        "line 13: entry 11: the payload shows thing:",
    ),
    "a statement that is none": (
        lambda lines: [*lines[:-1], changed(lines[-1], payload={"statement": 1})],
        MalformedExport,
        "line 13: entry 11: malformed statement",
    ),
}


def _other_statement(line: bytes) -> bytes:
    other = sign_statement(
        {"format": "fiduciary.thing/1", "name": "y"}, SigningKey.generate("somebody")
    )
    return changed(line, payload={"statement": other.to_json()})


@pytest.mark.parametrize("name", CHANGES)
def test_each_fault_has_its_message(
    made: tuple[Site, list[bytes]], tmp_path: Path, name: str
) -> None:
    site, lines = made
    change, kind, message = CHANGES[name]
    with pytest.raises(kind, match=message):
        check(tmp_path, change(lines), site.signer.public)


def test_the_key_decides(made: tuple[Site, list[bytes]], tmp_path: Path) -> None:
    _, lines = made
    with pytest.raises(VerificationFailed, match="line 1"):
        check(tmp_path, lines, SigningKey.generate(ORIGIN).public)
    path = tmp_path / "export.jsonl"
    with pytest.raises(VerificationFailed, match="expected elsewhere"):
        verify_export(path, made[0].signer.public, "elsewhere")
    with pytest.raises(NotFound):
        verify_export(tmp_path / "nowhere", made[0].signer.public)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_flipped_bit_is_refused_or_changes_nothing_that_is_proven(
    made: tuple[Site, list[bytes]], tmp_path: Path, data: st.DataObject
) -> None:
    site, lines = made
    original = b"".join(lines)
    at = data.draw(st.integers(0, len(original) - 1))
    bit = data.draw(st.integers(0, 7))
    flipped = bytearray(original)
    flipped[at] ^= 1 << bit
    path = tmp_path / "flipped.jsonl"
    path.write_bytes(bytes(flipped))
    try:
        verify_export(path, site.signer.public)
    except (MalformedInput, VerificationFailed):
        return
    for was, now in zip(original.splitlines()[1:], bytes(flipped).splitlines()[1:], strict=True):
        before, after = json.loads(was), json.loads(now)
        assert [before[name] for name in PROVEN] == [after[name] for name in PROVEN]
        if "statement" in before["payload"]:
            assert before["payload"]["statement"] == after["payload"].get(
                "statement", before["payload"]["statement"]
            )


@given(st.binary(max_size=300))
def test_anything_else_fails_in_one_way(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "junk.jsonl"
    path.write_bytes(data)
    with pytest.raises(MalformedInput):
        verify_export(path, SigningKey.generate(ORIGIN).public)


def test_a_shown_entry_states_what_is_proven(made: tuple[Site, list[bytes]]) -> None:
    site, lines = made
    entry = parse_canonical_object(lines[-1][:-1])
    proof = Proof.parse(site.journal.prove(11, with_leaf=True))
    assert proof.extra is not None
    fields = {name: entry[name] for name in CLEAR_FIELDS}
    shown = ShownEntry(
        fields, {"anything": 1}, proof.extra, hash_leaf(proof.extra).hex(), proof.path
    )
    checkpoint = verify_export_head(lines[0], site.signer.public)
    verified = verify_shown(shown, checkpoint)
    assert verified.leaf.action == "thing.stated"
    assert verified.statement is None  # this payload quotes none: it is its shower's word


def verify_export_head(line: bytes, key: VerifyKey) -> Any:
    from audit.checkpoint import verify_checkpoint

    return verify_checkpoint(json.loads(line)["checkpoint"], key)
