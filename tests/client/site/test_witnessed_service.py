"""Attacks on the log of the real compliance service, over TLS, as the sites notice them.

Each attack is what an operator with the database can do, or one with the log's signing key as well,
and leaves a log in which everything fits: `audit verify` without a witness is content with it.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from audit.checkpoint import Checkpoint, read_checkpoint, sign_checkpoint
from audit.cosignature import WitnessKey, verify_cosignature
from audit.errors import ExitCode, MalformedInput
from audit.leaf import Leaf
from audit.merkle import Frontier, Node, hash_leaf
from audit.report import Report
from audit.sql_log import SqlLogStorage
from audit.statement import SignedStatement
from audit.verifier import verify_log
from client.alarms import LogAlarm, alarms
from client.cli import main
from client.enrolment import Waiting, join
from client.network import connect_service, open_service
from client.site import SITE_ENVIRONMENT, Site
from client.witnessing import Witnessing, describe_witness
from compliance.api import ComplianceClient
from tests.client.site.counterparts import SITE, TOKEN, Coordinator, make_kit, write_kit
from tests.client.site.test_real_service import admit
from tests.compliance.running import Clock, RunningService, running


class Stage:
    """One site and one service that can be stopped, changed behind its back, and started again."""

    def __init__(self, folder: Path, coordinator: Coordinator) -> None:
        self.folder = folder
        self.coordinator = coordinator
        self.start()

    def start(self) -> None:
        self._running = running(self.folder / "service", Clock(datetime.now(UTC)))
        self.service: RunningService = self._running.__enter__()

    def stop(self) -> None:
        self._running.__exit__(None, None, None)

    @property
    def database(self) -> Path:
        return self.folder / "service" / "compliance.sqlite"

    def welcome(self, at_once: Waiting) -> Site:
        """Invite, join and admit the site."""
        api = self.service.as_("coordinator")
        api.register_coordinator(self.coordinator.identity.public)
        envelope = make_kit(self.coordinator, self.service.trust)
        signed = SignedStatement.from_json(envelope)
        api.invite(
            SITE,
            token_sha256=hashlib.sha256(TOKEN.encode()).hexdigest(),
            kit_sha256=signed.digest,
            expires_at=signed.body["expires_at"],
        )
        kit = write_kit(self.folder / "real.kit", envelope)
        for _ in range(2):
            join(kit, self.folder / "site", connect=connect_service, waiting=at_once)
            if self.service.as_("coordinator").site(SITE).state == "pending":
                admit(self.service, self.coordinator)
        return Site.open(self.folder / "site")

    def grow(self, name: str) -> None:
        """One entry, by way of the service itself."""
        self.service.as_("officer").add_principal(name, ["auditor"])

    def copy(self, name: str = "copy.sqlite") -> Path:
        """The database as it is now."""
        target = self.folder / name
        connection = sqlite3.connect(self.database)
        connection.execute("VACUUM INTO ?", (str(target),))
        connection.close()
        return target

    def restart_with(self, site: Site, change: Callable[[], None]) -> None:
        """Change files while the service is down; the site's kit then names the new port."""
        self.stop()
        change()
        self.start()
        self._move(site)

    def put_back(self, copy: Path) -> None:
        for suffix in ("-wal", "-shm"):
            self.database.with_name(self.database.name + suffix).unlink(missing_ok=True)
        shutil.copy(copy, self.database)

    def rewrite(self, position: int) -> None:
        """Rebuild the log with the log's own key, as if another actor had acted at `position`."""
        signer = self.service.registry.signer
        connection = sqlite3.connect(self.database)
        leaves = [row[0] for row in connection.execute("SELECT leaf FROM log_entries")]
        leaf = Leaf.parse(leaves[position])
        leaves[position] = replace(leaf, actor="somebody-else").encoded()
        frontier, nodes = Frontier(), list[Node]()
        for data in leaves:
            frontier, completed = frontier.append(hash_leaf(data))
            nodes += completed
        head = Checkpoint(self.service.trust.origin, frontier.size, frontier.root())
        with connection:
            connection.execute("DELETE FROM log_nodes")
            SqlLogStorage(connection).write_hashes(nodes)
            connection.execute(
                "UPDATE log_entries SET leaf = ? WHERE position = ?", (leaves[position], position)
            )
            connection.execute("DELETE FROM log_checkpoints")
            connection.execute("DELETE FROM log_cosignatures")
            connection.execute(
                "INSERT INTO log_checkpoints VALUES (?, ?)",
                (frontier.size, sign_checkpoint(head, signer)),
            )
        connection.close()

    def verify(self, site: Site | None) -> Report:
        """`audit verify` with the log's key, and with what a site holds when one is given."""
        key = self.service.trust.log_key
        if site is None:
            return verify_log(self.database, key)
        return verify_log(
            self.database,
            key,
            known=site.paths.log_checkpoint.read_text(),
            witnesses=[WitnessKey.of(site.identity.public)],
            required_witnesses=1,
        )

    def _move(self, site: Site) -> None:
        write_kit(site.paths.kit, make_kit(self.coordinator, self.service.trust))
        site.__dict__.pop("kit", None)


@pytest.fixture
def stage(tmp_path: Path, coordinator: Coordinator) -> Iterator[Stage]:
    made = Stage(tmp_path, coordinator)
    yield made
    made.stop()


@pytest.fixture
def site(stage: Stage, at_once: Waiting) -> Iterator[Site]:
    with stage.welcome(at_once) as opened:
        yield opened


def client(site: Site) -> ComplianceClient:
    return open_service(site)


def look(site: Site) -> int:
    """One round against the real service; how far the site vouches then."""
    with client(site) as service:
        found = Witnessing(site, service).round()
    assert (found.problem, found.delivered) == (None, True)
    assert found.held is not None
    return found.held.checkpoint.size


def test_an_honest_log_is_cosigned_as_it_grows(stage: Stage, site: Site) -> None:
    first = look(site)
    for number in range(3):
        stage.grow(f"a{number}")
        assert look(site) == first + number + 1
    auditor = stage.service.as_("auditor")
    (view,) = auditor.witnesses()
    key = WitnessKey.of(site.identity.public)
    assert (view.witness, view.vkey, view.size) == (site.origin, key.encoded(), first + 3)
    assert verify_cosignature(auditor.checkpoint(), key)[0].size == first + 3
    verdict = stage.verify(site)
    assert (verdict.problems, verdict.witnessed_entries) == ((), first + 3)
    assert stage.verify(None).problems == ()
    # A restart of the service is no event.
    stage.restart_with(site, lambda: None)
    assert look(site) == first + 3
    assert not site.paths.alarms.exists()


def _shrink(stage: Stage, site: Site, copy: Path) -> None:
    stage.restart_with(site, lambda: stage.put_back(copy))


def _fork(stage: Stage, site: Site, copy: Path) -> None:
    """The older copy, and as many other entries as were taken out."""
    _shrink(stage, site, copy)
    for name in ("other-1", "other-2"):
        stage.grow(name)


def _rewrite_longer(stage: Stage, site: Site, copy: Path) -> None:
    _fork(stage, site, copy)
    stage.grow("other-3")


def _steal_the_key(stage: Stage, site: Site, _copy: Path) -> None:
    """The same entries but one, with all hashes and the head's signature made new."""
    stage.restart_with(site, lambda: stage.rewrite(1))


def _steal_the_key_and_go_on(stage: Stage, site: Site, copy: Path) -> None:
    _steal_the_key(stage, site, copy)
    stage.grow("later")


ATTACKS = pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (_shrink, "shrunk"),
        (_fork, "forked"),
        (_rewrite_longer, "rewritten"),
        (_steal_the_key, "forked"),
        (_steal_the_key_and_go_on, "rewritten"),
    ],
)


@ATTACKS
def test_an_attacked_log_is_refused_and_the_site_ends_with_6(
    stage: Stage,
    site: Site,
    attack: Callable[[Stage, Site, Path], None],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = stage.copy()
    stage.grow("honest-1")
    stage.grow("honest-2")
    size = look(site)
    attack(stage, site, copy)

    with client(site) as service, pytest.raises(LogAlarm, match=rf"\({reason}\)"):
        Witnessing(site, service).round()
    site.close()
    monkeypatch.setenv(SITE_ENVIRONMENT, str(site.paths.root))
    monkeypatch.setenv("COLUMNS", "300")
    # A restart alarms again; so does a round by hand.
    for command in ("start", "witness"):
        monkeypatch.setattr(sys, "argv", ["client", command])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == int(ExitCode.VERIFICATION_FAILED)
        shown = capsys.readouterr().err
        assert f"misbehaved ({reason})" in shown
        assert "train nothing; show" in shown

    (kept,) = alarms(site)
    assert kept.alarm is not None
    assert (kept.alarm.reason, kept.alarm.log) == (reason, stage.service.trust.origin)
    assert read_checkpoint(kept.alarm.held or "").size == size
    leaf, payload = site.journal.read(site.journal.size() - 1)
    assert leaf.action == "log-alarm"
    assert (payload["held"], payload["shown"]) == (kept.alarm.held, kept.alarm.shown)
    assert describe_witness(site)["size"] == size
    # Who asks no witness sees nothing; who asks one does, and so does who has its file.
    assert stage.verify(None).problems == ()
    assert stage.verify(site).problems
    # Nobody can have this site's word for the other history.
    for view in stage.service.as_("auditor").witnesses():
        assert verify_cosignature(view.note, WitnessKey.of(site.identity.public))[0].size <= size
        assert view.note != kept.alarm.shown


def test_the_service_itself_keeps_no_word_for_a_history_that_is_not_there(
    stage: Stage, site: Site
) -> None:
    """A site of the honest past cannot be made to look like a witness of the rewritten log."""
    look(site)
    note = site.paths.log_checkpoint.read_text()
    stage.restart_with(site, lambda: stage.rewrite(1))
    with client(site) as service, pytest.raises(MalformedInput, match="another root"):
        service.cosign(note)


def test_a_log_that_was_put_right_is_witnessed_again(stage: Stage, site: Site) -> None:
    """An operator restored an old backup, was told so by the sites, and restored the newest."""
    old = stage.copy("old.sqlite")
    stage.grow("honest-1")
    size = look(site)
    newest = stage.copy("newest.sqlite")
    stage.restart_with(site, lambda: stage.put_back(old))
    with client(site) as service, pytest.raises(LogAlarm, match="shrunk"):
        Witnessing(site, service).round()
    stage.restart_with(site, lambda: stage.put_back(newest))
    stage.grow("honest-2")
    assert look(site) == size + 1
    assert len(alarms(site)) == 1
