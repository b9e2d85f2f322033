"""The `audit` command as a person or a script uses it: output, files, exit codes."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from audit import cli
from audit.errors import ExitCode
from audit.keys import SigningKey, VerifyKey
from audit.log import subject_key_name
from audit.proof import Proof, verify_proof
from audit.receipt import Receipt
from audit.statement import sign_statement
from tests.audit.logs import ORIGIN, Site, entries, entry, tamper


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Audit = Callable[..., Outcome]


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Audit:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("FIDUCIARY_LOG_KEY", raising=False)

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["audit", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return Outcome(int(caught.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def log(site: Site) -> Path:
    site.fill(9)
    site.journal.record(entry(99, action="plan.approved", actor="officer:anna"))
    return site.copy()


def test_verify(audit: Audit, log: Path, site: Site) -> None:
    done = audit("verify", log, "--key", site.key)
    assert done.code == ExitCode.OK
    assert "verified" in done.out
    assert "10 entries" in done.out
    assert site.key in done.out
    assert "--key" not in done.out


def test_verify_without_a_key_says_what_that_proves(audit: Audit, log: Path) -> None:
    done = audit("verify", log)
    assert done.code == ExitCode.OK
    assert "The key is the one that the log itself states" in done.out


def test_verify_json(audit: Audit, log: Path, site: Site) -> None:
    done = audit("verify", log, "--key", site.key, "--json")
    assert done.json == {
        "verified": True,
        "origin": ORIGIN,
        "key": site.key,
        "key_pinned": True,
        "entries": 10,
        "root": site.journal.checkpoint().split("\n")[2],
        "signed_entries": 10,
        "checkpoints": 1,
        "known_entries": None,
        "first_bad_entry": None,
        "problems": [],
        "witnesses": [],
        "witnessed_entries": None,
        "unchecked_cosignatures": 0,
        "selection": False,
        "payloads_proven": 0,
        "payloads_stated": 0,
    }
    assert done.err == ""


def test_verify_a_tampered_log(audit: Audit, log: Path, site: Site) -> None:
    bad = tamper(log, "UPDATE log_entries SET leaf = zeroblob(9) WHERE position = 4")
    done = audit("verify", bad, "--key", site.key)
    assert done.code == ExitCode.VERIFICATION_FAILED
    assert "NOT VERIFIED" in done.out
    assert "entry 4" in done.out
    done = audit("verify", bad, "--json")
    assert done.code == ExitCode.VERIFICATION_FAILED
    assert done.json["verified"] is False
    assert done.json["first_bad_entry"] == 4


def test_verify_against_the_wrong_key(audit: Audit, log: Path) -> None:
    other = SigningKey.generate(ORIGIN).public.encoded()
    assert audit("verify", log, "--key", other).code == ExitCode.VERIFICATION_FAILED


def test_a_kept_checkpoint(audit: Audit, site: Site) -> None:
    site.fill(3)
    short = site.copy("short.sqlite")
    site.fill(4)
    kept = site.folder / "kept.txt"
    shown = audit("show", site.path, "--checkpoint")
    assert shown.out == site.journal.checkpoint()
    kept.write_text(shown.out)
    done = audit("verify", site.path, "--key", site.key, "--checkpoint", kept)
    assert done.code == ExitCode.OK
    assert "7 entries, contained" in done.out
    done = audit("verify", short, "--key", site.key, "--checkpoint", kept)
    assert done.code == ExitCode.VERIFICATION_FAILED
    assert "cut off" in done.out
    done = audit("verify", short, "--checkpoint", site.folder / "none.txt")
    assert done.code == ExitCode.NOT_FOUND


def test_the_key_may_be_in_a_file_or_the_environment(
    audit: Audit, log: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_file = site.folder / "log.vkey"
    key_file.write_text(site.key + "\n")
    assert audit("verify", log, "--key", key_file, "--json").json["key_pinned"] is True
    monkeypatch.setenv("FIDUCIARY_LOG_KEY", site.key)
    assert audit("verify", log, "--json").json["key_pinned"] is True


def test_prove_and_verify_proof(audit: Audit, log: Path, site: Site) -> None:
    file = site.folder / "entry.tlog-proof"
    done = audit("prove", 4, "--log", log, "-o", file)
    assert done.code == ExitCode.OK
    assert done.out == ""
    verify_proof(Proof.parse(file.read_text()), VerifyKey.parse(site.key))
    done = audit("verify-proof", file, "--key", site.key)
    assert done.code == ExitCode.OK
    assert "verified entry 4" in done.out
    assert "round.trained" in done.out
    done = audit("verify-proof", file, "--key", site.key, "--json")
    assert done.json["entry"]["position"] == 4
    assert done.json["signed_entries"] == 10
    other = SigningKey.generate(ORIGIN).public.encoded()
    assert audit("verify-proof", file, "--key", other).code == ExitCode.VERIFICATION_FAILED


def test_prove_to_the_screen(audit: Audit, log: Path, site: Site) -> None:
    printed = audit("prove", 4, "--log", log).out
    assert verify_proof(Proof.parse(printed), VerifyKey.parse(site.key)).size == 10
    assert audit("prove", 4, "--log", log, "--json").json["proof"] == printed


def test_prove_by_what_it_is_about(audit: Audit, log: Path, site: Site) -> None:
    object_id = f"plan:sha256:{99:064x}"
    for name in (object_id, object_id.removeprefix("plan:")):
        assert audit("prove", name, "--log", log, "--json").json["position"] == 9
    assert audit("prove", "plan:none", "--log", log).code == ExitCode.NOT_FOUND
    site.journal.record(entry(99))
    done = audit("prove", object_id, "--log", site.path)
    assert done.code == ExitCode.CONFLICT
    assert "9, 10" in done.err


def test_prove_what_is_not_there(audit: Audit, log: Path) -> None:
    assert audit("prove", 10, "--log", log).code == ExitCode.NOT_FOUND
    assert audit("prove", "9" * 15, "--log", log).code == ExitCode.NOT_FOUND


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE log_nodes SET hash = zeroblob(32)",
        "DELETE FROM log_nodes",
        "UPDATE log_entries SET leaf = zeroblob(9)",
        "UPDATE log_entries SET leaf = 'text'",
        "UPDATE log_checkpoints SET note = 'x'",
        "UPDATE log_meta SET value = 'x'",
    ],
)
def test_a_damaged_log_issues_no_proof(audit: Audit, log: Path, statement: str) -> None:
    done = audit("prove", 4, "--log", tamper(log, statement))
    assert done.code in {ExitCode.VERIFICATION_FAILED, ExitCode.MALFORMED_INPUT}
    assert done.out == ""


def test_a_leaf_of_its_own(audit: Audit, log: Path, site: Site) -> None:
    proof = Proof.parse(audit("prove", 4, "--log", log).out)
    file, leaf = site.folder / "bare.tlog-proof", site.folder / "leaf.json"
    file.write_text(Proof(proof.index, proof.path, proof.checkpoint).encoded())
    leaf.write_bytes(proof.extra or b"")
    assert audit("verify-proof", file, "--key", site.key).code == ExitCode.MALFORMED_INPUT
    done = audit("verify-proof", file, "--key", site.key, "--leaf", leaf)
    assert done.code == ExitCode.OK


def test_show(audit: Audit, log: Path) -> None:
    done = audit("show", log)
    lines = done.out.splitlines()
    assert len(lines) == 11
    assert lines[0].split() == ["position", "time", "actor", "action", "object", "subject"]
    assert lines[1].split()[0] == "0"
    assert "officer:anna" in lines[10]
    assert audit("show", log, "--after", 9).out.strip() == "no entries"


@pytest.mark.parametrize(
    ("options", "positions"),
    [
        (["--actor", "officer:anna"], [9]),
        (["--action", "plan.approved"], [9]),
        (["--action", "plan."], [9]),
        (["--action", "plan"], []),
        (["--subject", "00000001"], [3]),
        (["--object", f"plan:sha256:{2:064x}"], [2]),
        (["--object", f"sha256:{2:064x}"], [2]),
        (["--after", "7"], [8, 9]),
        (["--limit", "2"], [0, 1]),
    ],
)
def test_show_what_is_asked_for(
    audit: Audit, log: Path, options: list[str], positions: list[int]
) -> None:
    shown = audit("show", log, "--json", *options).json["entries"]
    assert [item["position"] for item in shown] == positions


def test_show_with_the_keyring(audit: Audit, log: Path, site: Site) -> None:
    site.keyring.destroy(subject_key_name("00000001"))
    keyring = site.folder / "keyring"
    shown = audit("show", log, "--keyring", keyring, "--json").json["entries"]
    assert shown[2]["payload"] == {"number": 2}
    assert shown[3]["payload"] == "forgotten"
    assert "'number': 2" in audit("show", log, "--keyring", keyring).out
    assert "payload" not in audit("show", log, "--json").json["entries"][0]
    missing = audit("show", log, "--keyring", site.folder / "none")
    assert missing.code == ExitCode.NOT_FOUND


def test_verify_receipt(audit: Audit, site: Site) -> None:
    signer = SigningKey.generate("site:north")
    statement = sign_statement({"format": "fiduciary.erasure/1", "site": "north"}, signer)
    appended = site.journal.record(entry(object=statement.log_object))
    receipt = Receipt(statement, appended.leaf, site.journal.prove(0))
    file = site.folder / "receipt.json"
    file.write_text(json.dumps(receipt.to_json()))
    site_key = signer.public.encoded()
    done = audit("verify-receipt", file, "--key", site.key, "--site-key", site_key)
    assert done.code == ExitCode.OK
    assert "signed by site:north" in done.out
    done = audit("verify-receipt", file, "--key", site.key)
    assert done.code == ExitCode.OK
    assert "not checked" in done.out
    done = audit("verify-receipt", file, "--key", site.key, "--site-key", site_key, "--json")
    assert done.json["verified"] is True
    assert done.json["statement_signature_checked"] is True
    assert done.json["statement"]["site"] == "north"
    done = audit("verify-receipt", file, "--key", site_key)
    assert done.code == ExitCode.VERIFICATION_FAILED
    file.write_text("{}")
    done = audit("verify-receipt", file, "--key", site.key)
    assert done.code == ExitCode.MALFORMED_INPUT


def test_errors_say_what_to_do_next(audit: Audit, log: Path, tmp_path: Path) -> None:
    done = audit("verify", tmp_path / "none.sqlite")
    assert done.code == ExitCode.NOT_FOUND
    assert done.err.startswith("error: ")
    (tmp_path / "junk").write_text("junk")
    assert audit("verify", tmp_path / "junk").code == ExitCode.MALFORMED_INPUT
    assert audit("show", tmp_path / "junk").code == ExitCode.MALFORMED_INPUT
    done = audit("verify", log, "--key", "junk")
    assert done.code == ExitCode.MALFORMED_INPUT
    assert "fix: " in done.err
    assert audit("verify").code == ExitCode.USAGE
    assert audit("nonsense").code == ExitCode.USAGE
    assert audit("verify-proof", log).code == ExitCode.USAGE
    assert audit("verify-proof", log, "--key", "junk").code == ExitCode.MALFORMED_INPUT


def test_values_cannot_style_the_terminal(audit: Audit, site: Site) -> None:
    site.journal.record(entry(actor="[bold]site[/] :smile:"))
    assert "[bold]site[/] :smile:" in audit("show", site.path).out


def test_a_hostile_log_cannot_steer_the_terminal(audit: Audit, site: Site) -> None:
    """Its metadata and cosignatures are shown before anybody can have verified them."""
    path = site.copy()
    connection = sqlite3.connect(path)
    for control in ("\x1b[2J", "\x9b2J", "\x07"):
        connection.execute("UPDATE log_meta SET value = ? WHERE name = 'origin'", (control,))
        connection.execute(
            "INSERT INTO log_cosignatures VALUES (?, 9, ?)", (f"w{control}", control)
        )
        connection.commit()
        done = audit("verify", path)
        assert done.code == 6
        assert control not in done.out + done.err
    connection.close()


def test_help_reads_like_a_manual(audit: Audit) -> None:
    text = audit("--help").out
    for word in (
        "verify",
        "prove",
        "verify-proof",
        "show",
        "verify-receipt",
        "Exit codes",
        "--key",
    ):
        assert word in text
    for command in ("verify", "prove", "verify-proof", "show", "verify-receipt"):
        assert "Example" in audit(command, "--help").out


def test_the_examples_in_the_help_are_commands(audit: Audit) -> None:
    """Every option that an example uses exists."""
    text = re.sub(r"\s+", " ", audit("--help").out)
    for command, example in re.findall(r"• audit ([a-z-]+) ([^•]*)", text.split("Exit codes")[0]):
        options = set(re.findall(r"--[a-z-]+", example))
        known = set(re.findall(r"--[a-z-]+", audit(command, "--help").out))
        assert options <= known, (command, options - known)


def test_version(audit: Audit) -> None:
    assert re.fullmatch(r"fiduciary \d+\.\d+\.\d+\n", audit("--version").out)


def test_the_installed_command(log: Path, site: Site) -> None:
    """A process of its own, while the journal is in use."""
    site.journal.record_many(entries(5))
    command = [sys.executable, "-c", "from audit.cli import main; main()"]
    done = subprocess.run(
        [*command, "verify", str(site.path), "--key", site.key, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitCode.OK, done.stderr
    assert json.loads(done.stdout)["entries"] == 15
    bad = tamper(log, "DELETE FROM log_entries WHERE position = 2")
    failed = subprocess.run([*command, "verify", str(bad)], capture_output=True, check=False)
    assert failed.returncode == ExitCode.VERIFICATION_FAILED
