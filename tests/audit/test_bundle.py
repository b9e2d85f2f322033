"""Bundles: what an officer hands to a regulator verifies with nothing else at hand."""

from __future__ import annotations

import shutil
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.bundle import (
    CHECKPOINT,
    ENTRIES,
    MANIFEST,
    MAX_LINE_BYTES,
    PAYLOADS,
    MalformedBundle,
    Manifest,
    open_bundle,
)
from audit.bundle_verifier import verify_any, verify_bundle
from audit.canonical import canonical_bytes
from audit.cosignature import WitnessKey, cosign, with_lines
from audit.errors import Conflict, FiduciaryError, MalformedInput, NotFound
from audit.exporting import export_bundle
from audit.journal import Journal
from audit.keys import SigningKey
from audit.log import subject_key_name
from audit.proof import Proof, verify_proof
from audit.report import Report
from audit.search import EntryFilter, parse_positions
from audit.source import open_source
from audit.statement import sign_statement
from audit.storage import prove_entry
from tests.audit.logs import ORIGIN, Site, entries, entry

WITNESSES = tuple(
    SigningKey.from_seed(f"fed/site/{name}", bytes([n]) * 32) for n, name in enumerate("abc")
)
WITNESS_KEYS = tuple(WitnessKey.of(key.public) for key in WITNESSES)
STATEMENT = sign_statement({"format": "fiduciary.note/1", "text": "agreed"}, WITNESSES[0])


damage = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def cosign_head(journal: Journal, *witnesses: SigningKey, time: int = 1_770_000_000) -> str:
    """What witnesses file when they saw the present head."""
    note = journal.checkpoint()
    size = journal.size()
    with journal._store.writing() as storage:
        for witness in witnesses:
            signed = with_lines(note, [cosign(note, witness, time)])
            storage.write_cosignature(witness.name, size, signed)
    return note


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = Site(tmp_path_factory.mktemp("bundled"))
    made.fill(13)
    cosign_head(made.journal, *WITNESSES[:2])
    made.journal.record(
        entry(object=STATEMENT.log_object, payload={"statement": STATEMENT.to_json()})
    )
    made.fill(8)
    cosign_head(made.journal, WITNESSES[2])
    return made


def export(site: Site, target: Path, **options: object) -> Path:
    with open_source(site.path) as source:
        export_bundle(source, target, **options)  # type: ignore[arg-type]
    return target


@pytest.fixture(scope="module")
def whole(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    return export(site, folder / "whole.zip", keys=site.keyring, witnesses=WITNESS_KEYS)


@pytest.fixture(scope="module")
def selection(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("selection")
    wanted = EntryFilter(subject="00000000")
    return export(site, folder / "selection.zip", wanted=wanted, keys=site.keyring)


def rewritten(bundle: Path, target: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """A copy of a bundle with changed members; None leaves one out."""
    with zipfile.ZipFile(bundle) as old, zipfile.ZipFile(target, "w") as new:
        for item in old.infolist():
            data = change(item.filename, old.read(item))
            if data is not None:
                new.writestr(item.filename, data)
    return target


def replaced(name: str, old: bytes, new: bytes) -> Callable[[str, bytes], bytes]:
    return lambda member, data: data.replace(old, new, 1) if member == name else data


def outcome(path: Path, site: Site) -> Report | FiduciaryError:
    try:
        return verify_bundle(path, site.signer.public)
    except FiduciaryError as error:
        return error


# --- sound bundles --------------------------------------------------------------------------------


def test_a_whole_log(site: Site, whole: Path) -> None:
    report = verify_bundle(whole, site.signer.public)
    assert report.ok, report.problems
    assert not report.selection
    assert report.entries == report.signed_entries == 22
    assert report.root == site.journal.checkpoint().split("\n")[2]
    assert (report.payloads_proven, report.payloads_stated) == (1, 21)


def test_a_selection(site: Site, selection: Path) -> None:
    report = verify_bundle(selection, site.signer.public)
    assert report.ok, report.problems
    assert report.selection
    assert report.entries == 5
    assert report.signed_entries == 22
    with open_bundle(selection) as bundle:
        proofs = [name for name in bundle.names() if name.startswith("proofs/")]
        for name in proofs:
            verify_proof(Proof.parse(bundle.text(name)), site.signer.public, origin=ORIGIN)
    assert len(proofs) == 5


def test_entries_that_somebody_lists_by_position(site: Site, tmp_path: Path) -> None:
    wanted = EntryFilter(positions=parse_positions("3-5, 20,4"))
    path = export(site, tmp_path / "listed.zip", wanted=wanted)
    assert verify_bundle(path, site.signer.public).entries == 4
    with open_bundle(path) as bundle:
        proofs = {name for name in bundle.names() if name.startswith("proofs/")}
    assert proofs == {f"proofs/{position}.tlog-proof" for position in (3, 4, 5, 20)}
    for odd in ("", "3-", "-3", "5-3", "3,,4", "all", "٣", "9" * 16):
        with pytest.raises(MalformedInput, match="malformed positions"):
            parse_positions(odd)


def test_with_the_network_off_and_the_service_gone(
    site: Site, whole: Path, selection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the two files: no log, no keyring, no key file, no socket."""
    monkeypatch.setattr(socket, "socket", None)
    monkeypatch.chdir(tmp_path)
    for path in (whole, selection):
        alone = Path(shutil.copy(path, tmp_path))
        assert verify_any(str(alone), site.signer.public).ok


def test_without_a_key_the_report_says_whose_word_it_took(whole: Path, selection: Path) -> None:
    for path in (whole, selection):
        report = verify_bundle(path)
        assert report.ok
        assert not report.key_pinned


def test_the_same_log_gives_the_same_bytes(site: Site, whole: Path, tmp_path: Path) -> None:
    again = export(site, tmp_path / "again.zip", keys=site.keyring, witnesses=WITNESS_KEYS)
    assert again.read_bytes() == whole.read_bytes()


def test_nothing_secret_is_in_a_bundle_that_opens_no_payload(site: Site, tmp_path: Path) -> None:
    path = export(site, tmp_path / "sealed.zip")
    with zipfile.ZipFile(path) as archive:
        assert PAYLOADS not in archive.namelist()
        assert all(b"agreed" not in archive.read(name) for name in archive.namelist())
    report = verify_bundle(path, site.signer.public)
    assert (report.payloads_proven, report.payloads_stated) == (0, 0)


def test_a_forgotten_payload_is_counted_and_its_entry_still_proven(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.journal.record_many(entries(9))
    site.keyring.destroy(subject_key_name("00000000"))
    with open_source(site.path) as source:
        exported = export_bundle(source, tmp_path / "b.zip", keys=site.keyring)
    assert (exported.entries, exported.payloads, exported.forgotten) == (9, 7, 2)
    assert verify_bundle(tmp_path / "b.zip", site.signer.public).ok
    site.close()


def test_a_bundle_is_a_log_to_read_and_prove_from(site: Site, whole: Path) -> None:
    with open_source(whole) as source:
        reader = source.reader()
        assert reader.size() == 22
        for position in (0, 7, 21):
            verify_proof(prove_entry(reader, position, with_leaf=True), site.signer.public)
        assert reader.read_leaf(22) is None


def test_a_selection_is_no_whole_log(selection: Path) -> None:
    with pytest.raises(MalformedBundle, match="chosen entries"), open_source(selection):
        pass


def test_an_empty_log(tmp_path: Path) -> None:
    site = Site(tmp_path)
    export(site, tmp_path / "empty.zip")
    report = verify_bundle(tmp_path / "empty.zip", site.signer.public)
    assert report.ok, report.problems
    assert report.entries == 0
    site.close()


def test_an_existing_file_is_not_overwritten(site: Site, whole: Path) -> None:
    before = whole.read_bytes()
    with pytest.raises(Conflict):
        export(site, whole)
    assert whole.read_bytes() == before


def test_nothing_half_written_is_left(site: Site, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        export(site, tmp_path / "none.zip", wanted=EntryFilter(actor="nobody"))
    assert list(tmp_path.iterdir()) == []


# --- witnesses ------------------------------------------------------------------------------------


def test_a_selection_takes_the_checkpoint_that_most_witnesses_cosigned(
    site: Site, tmp_path: Path
) -> None:
    """Two cosigned 13 entries, one cosigned all 22."""
    early = export(site, tmp_path / "early.zip", wanted=EntryFilter(object=f"plan:sha256:{7:064x}"))
    report = verify_bundle(early, site.signer.public, witnesses=WITNESS_KEYS, required_witnesses=1)
    assert report.signed_entries == 22  # entry 7 and entry 21 are about the same plan
    first = export(
        site, tmp_path / "first.zip", wanted=EntryFilter(object=f"plan:sha256:{12:064x}")
    )
    report = verify_bundle(first, site.signer.public, witnesses=WITNESS_KEYS, required_witnesses=2)
    assert report.ok, report.problems
    assert report.signed_entries == 13
    assert [witness.entries for witness in report.witnesses] == [13, 13, 0]
    report = verify_bundle(first, site.signer.public, witnesses=WITNESS_KEYS, required_witnesses=3)
    assert not report.ok
    assert "2 of the given witnesses" in str(report.problems[0])


def test_witnesses_of_a_whole_log(site: Site, whole: Path) -> None:
    report = verify_bundle(whole, site.signer.public, witnesses=WITNESS_KEYS, required_witnesses=3)
    assert report.ok, report.problems
    assert report.witnessed_entries == 13
    assert [witness.entries for witness in report.witnesses] == [13, 13, 22]


# --- whatever is done to them ---------------------------------------------------------------------


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_flipped_bit_of_an_entry(
    site: Site, whole: Path, tmp_path: Path, data: st.DataObject
) -> None:
    def change(name: str, content: bytes) -> bytes:
        if name != ENTRIES:
            return content
        changed = bytearray(content)
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at] ^= 1 << data.draw(st.integers(0, 7))
        return bytes(changed)

    result = outcome(rewritten(whole, tmp_path / "flipped.zip", change), site)
    assert isinstance(result, FiduciaryError) or not result.ok


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_flipped_bit_of_the_archive(
    site: Site, whole: Path, selection: Path, tmp_path: Path, data: st.DataObject
) -> None:
    """It is noticed, or it changed nothing that is read; it is never another error."""
    for original in (whole, selection):
        content = bytearray(original.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path = tmp_path / "flipped.zip"
        path.write_bytes(content)
        result = outcome(path, site)
        if isinstance(result, Report) and result.ok:
            sound = verify_bundle(original, site.signer.public)
            assert result.root == sound.root
            assert result.entries == sound.entries


@pytest.mark.parametrize("cut", [0, 1, 30, 200, 1000])
def test_truncated_archives(site: Site, whole: Path, tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cut.zip"
    path.write_bytes(whole.read_bytes()[:-cut] if cut else b"")
    result = outcome(path, site)
    assert isinstance(result, MalformedInput)


def _without_line(number: int) -> Callable[[str, bytes], bytes]:
    def change(name: str, data: bytes) -> bytes:
        if name != ENTRIES:
            return data
        lines = data.splitlines(keepends=True)
        return b"".join(lines[:number] + lines[number + 1 :])

    return change


def test_a_removed_entry(site: Site, whole: Path, tmp_path: Path) -> None:
    for number in (0, 9, 21):
        result = outcome(rewritten(whole, tmp_path / "cut.zip", _without_line(number)), site)
        assert isinstance(result, Report)
        assert not result.ok
        assert result.first_bad_entry == number


def test_swapped_entries(site: Site, whole: Path, tmp_path: Path) -> None:
    def change(name: str, data: bytes) -> bytes:
        lines = data.splitlines(keepends=True)
        if name == ENTRIES:
            lines[3], lines[4] = lines[4], lines[3]
        return b"".join(lines) if name == ENTRIES else data

    result = outcome(rewritten(whole, tmp_path / "swapped.zip", change), site)
    assert isinstance(result, Report)
    assert result.first_bad_entry == 3


def test_a_payload_that_contradicts_its_entry(
    site: Site, whole: Path, selection: Path, tmp_path: Path
) -> None:
    other = sign_statement({"format": "fiduciary.note/1", "text": "refused"}, WITNESSES[0])
    lines = [{"position": 13, "payload": {"statement": other.to_json()}}] * 22
    forged = b"".join(canonical_bytes(line) + b"\n" for line in lines)
    path = rewritten(
        whole, tmp_path / "forged.zip", lambda name, data: forged if name == PAYLOADS else data
    )
    result = outcome(path, site)
    assert isinstance(result, Report)
    assert "another statement" in str(result.problems[0])
    elsewhere = canonical_bytes({"position": 1, "payload": {}}) + b"\n"
    path = rewritten(
        selection,
        tmp_path / "other.zip",
        lambda name, data: elsewhere if name == PAYLOADS else data,
    )
    result = outcome(path, site)
    assert isinstance(result, Report)
    assert "not here" in str(result.problems[0])


def test_a_proof_of_something_else(site: Site, selection: Path, tmp_path: Path) -> None:
    """A sound proof under another name, of another log, or against another checkpoint."""
    names = [name for name in zipfile.ZipFile(selection).namelist() if name.startswith("proofs/")]

    def renamed(name: str, data: bytes) -> bytes | None:
        return zipfile.ZipFile(selection).read(names[1]) if name == names[0] else data

    result = outcome(rewritten(selection, tmp_path / "renamed.zip", renamed), site)
    assert isinstance(result, Report)
    assert "filed as" in str(result.problems[0])
    later = site.journal.prove(0, with_leaf=True).encode()

    def older(name: str, data: bytes) -> bytes | None:
        return later.replace(b"\n22\n", b"\n21\n") if name == names[0] else data

    result = outcome(rewritten(selection, tmp_path / "older.zip", older), site)
    assert isinstance(result, Report)
    assert "another checkpoint" in str(result.problems[0])


def test_a_manifest_that_states_more_than_there_is(
    site: Site, selection: Path, whole: Path, tmp_path: Path
) -> None:
    for bundle in (selection, whole):
        with open_bundle(bundle) as opened:
            stated = opened.manifest
        wrong = Manifest(**{**stated.__dict__, "entries": stated.entries + 1}).encoded()

        def change(name: str, data: bytes, wrong: bytes = wrong) -> bytes:
            return wrong if name == MANIFEST else data

        result = outcome(rewritten(bundle, tmp_path / "more.zip", change), site)
        assert isinstance(result, Report)
        assert not result.ok


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, data: None if name == MANIFEST else data, "it has no manifest.json"),
        (lambda name, data: None if name == CHECKPOINT else data, "it has no checkpoint"),
        (lambda name, data: None if name == ENTRIES else data, "it has no entries.jsonl"),
        (replaced(MANIFEST, b"bundle/1", b"bundle/2"), "format is not"),
        (replaced(MANIFEST, b'"whole"', b'"other"'), "neither whole nor selection"),
        (replaced(MANIFEST, b'"entries":22', b'"entries":-2'), "entries is not"),
        (
            replaced(MANIFEST, b'"entries":22', b'"entrees":22'),
            "fields: missing entries; 1 unknown",
        ),
        (replaced(MANIFEST, b"{", b"{ "), "canonical"),
        (replaced(MANIFEST, b'"entries":22', b'"entries":20'), "more than 20 lines, as stated"),
        (lambda name, data: data[:-1] if name == ENTRIES else data, "does not end"),
        (lambda name, data: b" " * 1_000_001 if name == CHECKPOINT else data, "larger than"),
        (lambda name, data: b"\xff" if name == CHECKPOINT else data, "not UTF-8"),
    ],
)
def test_malformed_bundles(
    site: Site,
    whole: Path,
    tmp_path: Path,
    change: Callable[[str, bytes], bytes | None],
    message: str,
) -> None:
    result = outcome(rewritten(whole, tmp_path / "bad.zip", change), site)
    if isinstance(result, Report):
        assert not result.ok
        assert message in str(result.problems[0])
    else:
        assert isinstance(result, MalformedInput)
        assert message in str(result)


def test_a_line_without_end_is_not_read_into_memory(
    site: Site, whole: Path, tmp_path: Path
) -> None:
    """A few kilobytes that unpack to a line beyond the limit: a ZIP bomb."""
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.infolist():
            if item.filename != ENTRIES:
                new.writestr(item.filename, old.read(item))
        with new.open(ENTRIES, "w", force_zip64=True) as file:
            for _ in range(MAX_LINE_BYTES // 2**20 + 2):
                file.write(b"x" * 2**20)
    assert path.stat().st_size < 100_000
    result = outcome(path, site)
    assert isinstance(result, Report | MalformedInput)
    text = str(result.problems[0]) if isinstance(result, Report) else str(result)
    assert "does not end" in text


def test_twice_the_same_member(site: Site, whole: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(whole, tmp_path / "twice.zip"))
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr(CHECKPOINT, "x")
    result = outcome(path, site)
    assert isinstance(result, MalformedBundle)
    assert "twice" in str(result)
