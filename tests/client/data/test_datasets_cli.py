"""`client data`, as an operator types it: messages, exit codes, JSON, and what is on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from audit.errors import ExitCode
from audit.terminal import run_app
from client.cli import app
from client.leaks import read_planted
from client.site import Site
from client.vault import Vault
from tests.client.data.records import journalled

NOTES = (
    "who,name,what,kind\n"
    'P-1,Maria Lopez,"Please call Maria Lopez on 07700 900123, thanks.",callback\n'
    "P-1,Maria Lopez,lopez again: my bill of £20 is wrong.,billing\n"
    "P-2,Sunniva Dahl,I moved to 14 Larch Close (Harrowby) on 3 May 2025.,details\n"
)
COLUMNS = ("--subject", "who", "--text", "what", "--label", "kind")


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "notes.csv"
    path.write_text(NOTES, encoding="utf-8")
    return path


def test_records_are_added_shown_verified_and_removed(typed: Any, notes: Path, site: Site) -> None:
    code, out, _ = typed(
        "add", str(notes), *COLUMNS, "--known", "name", "--purpose", "triage",
        "--legal-basis", "consent", "--dataset", "calls",
    )  # fmt: skip
    assert code == ExitCode.OK
    assert "3 records of 2 subjects in 3 classes" in out
    assert "several records, each one person: 1" in out
    code, out, _ = typed("list", "--json")
    (listed,) = json.loads(out)
    assert (listed["name"], listed["purposes"]) == ("calls", ["triage"])
    assert listed["labels"] == ["billing", "callback", "details"]
    code, out, _ = typed("show", "calls", "--json")
    assert json.loads(out) == listed
    assert typed("show", "calls")[0] == typed("list")[0] == ExitCode.OK
    code, out, _ = typed("verify", "--json")
    assert json.loads(out) == {
        "verified": True,
        "datasets": [{"name": "calls", "records": 3, "problems": []}],
    }
    code, out, _ = typed("remove", "calls", "--yes", "--json")
    assert json.loads(out) == {"removed": "calls", "records": 3}
    assert "vault is empty" in typed("list")[1]
    assert journalled(site)[-2:] == ["dataset-added", "dataset-removed"]


def test_nothing_is_removed_without_a_yes(typed: Any, notes: Path, site: Site) -> None:
    assert typed("add", str(notes), *COLUMNS)[0] == ExitCode.OK
    before = journalled(site)
    code, _, err = typed("remove", "default")
    assert (code, "add --yes" in err) == (ExitCode.USAGE, True)
    assert journalled(site) == before
    assert typed("verify", "default")[0] == ExitCode.OK


def test_digests_are_shown_whole_on_a_narrow_terminal(
    typed: Any, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed("add", str(notes), *COLUMNS)
    (listed,) = json.loads(typed("list", "--json")[1])
    monkeypatch.setenv("COLUMNS", "60")
    shown = "".join(typed("show", "default")[1].split())
    assert listed["digest"] in shown
    assert listed["deidentification_digest"] in shown


def test_what_is_stored_names_nobody(typed: Any, notes: Path, site: Site) -> None:
    assert typed("add", str(notes), *COLUMNS)[0] == ExitCode.OK
    with Vault.open(site.paths, site.keyring) as vault:
        stored = " ".join(record.text for record in vault.examples("default")).lower()
    for gone in ("maria", "lopez", "07700", "larch", "harrowby", "may 2025"):
        assert gone not in stored
    assert "my bill of £20 is wrong" in stored


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        ("who,what\nP,t\n", ExitCode.MALFORMED_INPUT, "no column 'kind'"),
        ("who,what,kind\nP,,k\n", ExitCode.MALFORMED_INPUT, "line 2 has no text"),
        ("who,what,kind\nP,t,k\nP,t,k\n", ExitCode.MALFORMED_INPUT, "line 3 repeats"),
        ("who,what,kind\nP,t\n", ExitCode.MALFORMED_INPUT, "line 2: expected 3 fields, got 2"),
        ("who,what,kind\nP,caf\udce9,k\n", ExitCode.MALFORMED_INPUT, "line 2: not UTF-8"),
        ("who,what,kind\n", ExitCode.MALFORMED_INPUT, "no record"),
        ("", ExitCode.MALFORMED_INPUT, "is empty"),
        ("who,what,kind\nP,\x01,k\n", ExitCode.REFUSED, "left for 'default': 1 not-readable-text"),
    ],
)
def test_a_bad_file_gets_one_message_and_leaves_nothing(
    typed: Any, notes: Path, site: Site, content: str, code: ExitCode, message: str
) -> None:
    notes.write_bytes(content.encode(errors="surrogateescape"))
    before = journalled(site)
    ended, out, err = typed("add", str(notes), *COLUMNS)
    assert ended == code
    assert message in err
    assert err.count("error:") == 1
    assert "fix:" in err
    assert out == ""
    assert json.loads(typed("list", "--json")[1]) == []
    assert journalled(site) == before


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("add", "absent.csv", *COLUMNS), ExitCode.NOT_FOUND),
        (("add", "notes.xlsx", *COLUMNS), ExitCode.MALFORMED_INPUT),
        (("add", "notes.csv"), ExitCode.MALFORMED_INPUT),
        (("show", "nothing"), ExitCode.NOT_FOUND),
        (("verify", "nothing"), ExitCode.NOT_FOUND),
        (("remove", "nothing", "--yes"), ExitCode.NOT_FOUND),
        (("remove", "calls"), ExitCode.NOT_FOUND),
        (("readmit", "P-1", "--reason", "asked"), ExitCode.NOT_FOUND),
        (("readmit", "P-1", "--reason", " "), ExitCode.MALFORMED_INPUT),
        (("check-leaks", "--planted", "absent.json"), ExitCode.NOT_FOUND),
    ],
)
def test_mistakes_have_their_exit_codes(typed: Any, words: tuple[str, ...], code: ExitCode) -> None:
    ended, out, err = typed(*words)
    assert ended == code, err
    assert out == ""


def test_options_are_checked(typed: Any, notes: Path) -> None:
    for option, value in (("--dataset", "Bad Name"), ("--purpose", "X"), ("--legal-basis", "no")):
        ended, _, err = typed("add", str(notes), *COLUMNS, option, value)
        assert ended == ExitCode.MALFORMED_INPUT, err
    assert typed("add", str(notes), *COLUMNS, "--known", "nope")[0] == ExitCode.MALFORMED_INPUT


def test_a_dataset_is_replaced_when_asked(typed: Any, notes: Path) -> None:
    assert typed("add", str(notes), *COLUMNS)[0] == ExitCode.OK
    assert typed("add", str(notes), *COLUMNS)[0] == ExitCode.CONFLICT
    code, out, _ = typed("add", str(notes), *COLUMNS, "--replace", "--json")
    assert (code, json.loads(out)["version"]) == (ExitCode.OK, 2)


def test_duplicates_and_gaps_are_left_out_when_asked(typed: Any, notes: Path) -> None:
    notes.write_text("who,what,kind\nP,t,k\nP,t,k\nQ,,k\n", encoding="utf-8")
    code, out, _ = typed("add", str(notes), *COLUMNS, "--allow-duplicates", "--drop-empty")
    assert code == ExitCode.OK
    assert "1 repeated row left out" in out
    assert "1 incomplete row left out" in out
    assert "no purpose was stated" in out


def test_a_tampered_row_is_reported(typed: Any, notes: Path, site: Site) -> None:
    import sqlite3

    assert typed("add", str(notes), *COLUMNS)[0] == ExitCode.OK
    with sqlite3.connect(site.paths.vault) as connection:
        connection.execute("UPDATE records SET sealed = zeroblob(99) WHERE position = 1")
    code, out, err = typed("verify")
    assert code == ExitCode.VERIFICATION_FAILED
    assert "does not verify" in out
    assert "record 1" in err


def test_an_erased_subject_comes_back_only_after_readmission(
    typed: Any, notes: Path, site: Site
) -> None:
    assert typed("add", str(notes), *COLUMNS)[0] == ExitCode.OK
    with Vault.open(site.paths, site.keyring) as vault:
        vault.erase("P-1")
    code, out, _ = typed("add", str(notes), *COLUMNS, "--replace")
    assert "2 rows of erased subjects left out" in out
    code, out, _ = typed("readmit", "P-1", "--reason", "the person asked for it", "--json")
    assert code == ExitCode.OK
    code, out, _ = typed("add", str(notes), *COLUMNS, "--replace", "--json")
    assert json.loads(out)["subjects"] == 2
    assert "subject-readmitted" in journalled(site)


def test_the_demo_from_messages_to_leak_count(typed: Any, tmp_path: Path, site: Site) -> None:
    """And nothing identifying is anywhere in the site's folder, before and after an erasure."""
    folder = tmp_path / "notes"
    ended = typed_without_dir("demo", str(folder), "--subjects", "80", "--site", "north")
    assert ended == ExitCode.OK
    columns = ("--subject", "subject_id", "--text", "text", "--label", "label")
    known = ("--known", "full_name", "--known", "phone")
    code, _, _ = typed("add", str(folder / "notes.csv"), *columns, *known, "--dataset", "messages")
    assert code == ExitCode.OK
    code, out, _ = typed("check-leaks", "--planted", str(folder / "planted.json"), "--json")
    counted = json.loads(out)
    assert code == ExitCode.OK
    assert counted["planted"] > 200
    assert counted["left"] <= counted["planted"] // 100
    code, out, _ = typed("check-leaks", "--planted", str(folder / "planted.json"))
    assert f"searched {counted['records']} records" in out

    planted = read_planted(folder / "planted.json")
    assert_nothing_of(planted.subjects, site.paths.root)
    subject = min(planted.subjects)
    with Vault.open(site.paths, site.keyring) as vault:
        assert vault.erase(subject).records_removed > 0
    assert_nothing_of(planted.subjects, site.paths.root)


def typed_without_dir(*words: str) -> int:
    """A command that concerns no site."""
    import sys

    before = sys.argv
    sys.argv = ["client", "data", *words]
    try:
        with pytest.raises(SystemExit) as ended:
            run_app(app)
    finally:
        sys.argv = before
    return int(str(ended.value.code))


def assert_nothing_of(subjects: Any, folder: Path) -> None:
    """No planted identifier, and no subject id, in any file of a folder, in any common encoding."""
    stored = b"\n".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())
    lowered = stored.lower()
    assert len(stored) > 10_000
    for subject, identifiers in subjects.items():
        for value in (subject, *(i.value for i in identifiers)):
            if len(value) >= 6:  # shorter ones occur in random bytes
                for form in (value.encode(), value.lower().encode(), value.encode("utf-16-le")):
                    assert form not in stored
                    assert form not in lowered


def test_another_profile_is_refused(typed: Any, tmp_path: Path) -> None:
    code = typed_without_dir("demo", str(tmp_path / "x"), "--profile", "zoo")
    assert code == ExitCode.MALFORMED_INPUT
    assert not (tmp_path / "x").exists()
