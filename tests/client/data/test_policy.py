"""What replaces each kind, by `deidentify.toml`; and originals, for who holds the key to them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from audit.errors import ExitCode, MalformedInput, NotFound, VerificationFailed
from client.deidentification.detection import Detector
from client.deidentification.pipeline import Deidentified, Deidentifier, Original, SourceRecord
from client.deidentification.policy import (
    RESTRICTED_ZIP_PREFIXES,
    STAND_INS,
    ReplacementPolicy,
    generalised,
    read_replacement_policy,
)
from client.originals import open_originals, reveal, seal_originals
from client.site import Site
from client.subject_cli import _lines
from client.subject_story import tell_story
from client.vault import Vault
from tests.client.data.records import KEY

TEXT = "Maria Lopez, 93 years old, of Reno, was seen on 12 March 2024; SSN 219-09-9999."


def policy(**values: Any) -> ReplacementPolicy:
    return ReplacementPolicy.model_validate({"format": "fiduciary.deidentify/1", **values})


def replaced(detector: Detector, chosen: ReplacementPolicy, text: str = TEXT) -> Deidentified:
    deidentifier = Deidentifier(KEY, detector, chosen, this_year=2026)
    (outcome,) = deidentifier.deidentify([SourceRecord("P-1", text)])
    assert isinstance(outcome, Deidentified), outcome
    return outcome


class TestReplacing:
    def test_each_kind_by_its_own_action(self, detector: Detector) -> None:
        chosen = policy(
            replace={"default": "redact", "PERSON": "stand-in", "AGE": "generalise",
                     "DATE_TIME": "generalise"}
        )  # fmt: skip
        text = replaced(detector, chosen).text
        assert "[US_SSN]" in text
        assert "90+" in text
        assert "2024" in text
        assert "[LOCATION]" in text
        assert "[PERSON]" not in text
        for original in ("Lopez", "93", "March", "Reno", "219"):
            assert original not in text

    def test_the_policy_is_part_of_what_the_pipeline_is(self, detector: Detector) -> None:
        plain = Deidentifier(KEY, detector).digest
        assert Deidentifier(KEY, detector, STAND_INS).digest == plain
        other = policy(replace={"US_SSN": "redact"})
        assert Deidentifier(KEY, detector, other).digest != plain

    def test_zip_codes_of_few_people_keep_no_digit(self) -> None:
        assert len(RESTRICTED_ZIP_PREFIXES) == 17
        for prefix in RESTRICTED_ZIP_PREFIXES:
            assert generalised("ADDRESS", f"1 Elm St, {prefix}77-1234", 2026) == "000**"
        assert generalised("ADDRESS", "10017 Elm St, NY 10025", 2026) == "100**"
        assert generalised("ADDRESS", "10017 Elm St, Reno", 2026) == "[ADDRESS]"
        assert generalised("ADDRESS", "phone 415-555-26711", 2026) == "[ADDRESS]"

    @pytest.mark.parametrize(
        ("kind", "original", "said"),
        [
            ("AGE", "89", "89"), ("AGE", "90", "90+"), ("AGE", "ninety", "90+"),
            ("DATE_TIME", "1937", "1937"), ("DATE_TIME", "3 May 1936", "[DATE_TIME]"),
            ("DATE_TIME", "03/05", "[DATE_TIME]"), ("LOCATION", "Reno", "[LOCATION]"),
        ],
    )  # fmt: skip
    def test_safe_harbour(self, kind: str, original: str, said: str) -> None:
        assert generalised(kind, original, 2026) == said


class TestSettings:
    def test_without_a_file_everything_gets_a_stand_in(self, tmp_path: Path) -> None:
        assert read_replacement_policy(tmp_path / "none.toml") == STAND_INS

    def test_kinds_stand_beside_the_default(self, tmp_path: Path) -> None:
        path = tmp_path / "deidentify.toml"
        path.write_text(
            'format = "fiduciary.deidentify/1"\n[replace]\ndefault = "redact"\nAGE = "generalise"\n'
        )
        found = read_replacement_policy(path)
        assert (found.replace.action("AGE"), found.replace.action("PERSON")) == (
            "generalise", "redact",
        )  # fmt: skip
        assert ReplacementPolicy.model_validate_json(found.model_dump_json()) == found

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "format: missing"),
            ("[", "malformed"),
            ('format = "fiduciary.deidentify/1"\n[replace]\nPERSON = "encrypt"', "replace"),
            ('format = "fiduciary.deidentify/1"\n[replace]\nPERSON = "generalise"', "only ADDRESS"),
            ('format = "fiduciary.deidentify/1"\n[replace]\nperson = "redact"', "replace"),
            ('format = "fiduciary.deidentify/1"\n[reveal]\npublic_key = "AAAA"\nkinds = ["PERSON"]',
             "32 bytes"),
            ('format = "fiduciary.deidentify/1"\nsurprise = 1', "surprise"),
        ],
    )  # fmt: skip
    def test_what_is_wrong_is_named(self, tmp_path: Path, content: str, message: str) -> None:
        path = tmp_path / "deidentify.toml"
        path.write_text(content)
        with pytest.raises(MalformedInput, match=message):
            read_replacement_policy(path)


class TestOriginals:
    def test_only_the_kinds_that_may_be_revealed_are_handed_on(self, detector: Detector) -> None:
        public = X25519PrivateKey.generate().public_key().public_bytes_raw()
        chosen = policy(
            reveal={"public_key": base64.b64encode(public).decode(), "kinds": ["US_SSN"]}
        )
        outcome = replaced(detector, chosen)
        (original,) = outcome.originals
        assert (original.kind, original.text) == ("US_SSN", "219-09-9999")
        assert TEXT[: TEXT.index("219")].endswith("SSN ")
        assert outcome.text[original.start : original.end] not in TEXT
        assert replaced(detector, STAND_INS).originals == ()

    def test_sealed_originals_open_for_one_key_and_one_subject(self) -> None:
        key, other = X25519PrivateKey.generate(), X25519PrivateKey.generate()
        public = key.public_key().public_bytes_raw()
        originals = [Original(0, 5, "PERSON", "Zoë Ó")]
        sealed = seal_originals(originals, public, "p")
        assert sealed != seal_originals(originals, public, "p")
        assert open_originals(sealed, key, "p") == originals
        changed = base64.b64encode(base64.b64decode(sealed)[:-1] + b"x").decode()
        for box, opener, subject in (
            (sealed, other, "p"), (sealed, key, "q"), (changed, key, "p"), ("%", key, "p"),
        ):  # fmt: skip
            with pytest.raises(VerificationFailed):
                open_originals(box, opener, subject)
        assert seal_originals([], public, "p") == ""
        with pytest.raises(MalformedInput):
            seal_originals(originals, bytes(32), "p")

    def test_revealing_needs_the_key_a_reason_and_leaves_an_entry(
        self, typed: Any, site: Site, tmp_path: Path
    ) -> None:
        key = X25519PrivateKey.generate()
        public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
        site.paths.deidentify.write_text(
            'format = "fiduciary.deidentify/1"\n[replace]\nPERSON = "redact"\n'
            f'[reveal]\npublic_key = "{public}"\nkinds = ["PERSON"]\n'
        )
        path = tmp_path / "n.csv"
        path.write_text(
            "who,what,kind\nP-1,Please call Maria Lopez on 07700 900123.,x\nP-2,All is well.,x\n"
        )
        options = ("--subject", "who", "--text", "what", "--label", "kind")
        code, _, err = typed("add", str(path), *options)
        assert code == ExitCode.OK, err
        with Vault.open(site.paths, site.keyring) as vault:
            texts = {record.text for record in vault.examples("default")}
            assert any("[PERSON]" in text for text in texts)

            def put_back(subject: str = "P-1", with_key: Any = key, reason: str = "found") -> Any:
                return reveal(
                    vault, "default", subject, with_key, site.journal, site.principal, reason
                )

            size = site.journal.size()
            with pytest.raises(VerificationFailed):
                put_back(with_key=X25519PrivateKey.generate())
            with pytest.raises(MalformedInput, match="reason"):
                put_back(reason=" ")
            with pytest.raises(NotFound):
                put_back("P-2")
            assert site.journal.size() == size
            (found,) = put_back()
            assert "Maria Lopez" in found.text
            assert "900123" not in found.text, "only the kinds that were named"
            (event,) = tell_story(site, vault, "P-1").of("originals-revealed")
            assert event.details["reason"] == "found"
            head, because = _lines(event)
            assert "put back into 1 record of default (version 1)" in head
            assert because == "  because: found"
            vault.erase("P-1")
            with pytest.raises(NotFound):
                put_back()
        stored = b"".join(p.read_bytes() for p in site.paths.root.rglob("*") if p.is_file())
        assert b"Lopez" not in stored


def test_a_key_is_made_once_and_opens_what_is_sealed_to_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from audit.terminal import run_app
    from client.cli import app

    file = tmp_path / "reveal.pem"
    printed = []
    codes = []
    for _ in range(2):
        monkeypatch.setattr("sys.argv", ["client", "deidentify", "reveal-key", str(file), "--json"])
        with pytest.raises(SystemExit) as ended:
            run_app(app)
        codes.append(ended.value.code)
        printed.append(capsys.readouterr().out)
    assert codes == [ExitCode.OK, ExitCode.CONFLICT]
    key = load_pem_private_key(file.read_bytes(), password=None)
    assert isinstance(key, X25519PrivateKey)
    public = base64.b64decode(json.loads(printed[0])["public_key"])
    assert key.public_key().public_bytes_raw() == public
    assert file.stat().st_mode & 0o777 == 0o600
