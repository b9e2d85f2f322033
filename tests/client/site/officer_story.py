"""What happened before `docs/officer-story.md` begins, and somebody who follows its commands.

* The compliance service is the real one, over TLS; a site's de-identification, vault, journal,
  keyring, training and erasure are real. The coordinator is its real key and the real client.
* The page's commands run in its order with its placeholders filled in. What the page shows of an
  output must be in the output, in that order (`first_missing`).
"""

from __future__ import annotations

import csv
import importlib
import os
import re
import shlex
import shutil
import sqlite3
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest

from audit.cosignature import WitnessKey
from client.learning.base_model import base_model_digest
from client.learning.tasks.text_classification import TextClassifier
from client.network import open_service
from client.site import Site
from client.stopping import StopSignal
from client.subject_story import tell_story
from client.subject_trail import Use
from client.vault import Vault
from client.worker import Ending, Worker
from tests.client.site.counterparts import SITE, in_hours
from tests.client.site.documents import LABELS, PURPOSE, make_plan, make_policy, policy_toml
from tests.client.site.fleet import FakeFleet, make_task
from tests.client.site.test_witnessed_service import Stage
from tests.client.site.world import Notes, report_of
from tests.compliance import federation
from tests.compliance.running import Clock, running

PAGE = Path(__file__).parents[3] / "docs" / "officer-story.md"

SUBJECT = "P-00417"
"""How the page calls the subject; the real one is whom the site's secret put into training."""

SUBJECTS = 24
ROUNDS = 2

_CONSOLE = re.compile(r"```console\n(.*?)```", re.DOTALL)
_VARYING = re.compile(
    r"(?P<any>…)|(?P<time>\d{4}-\d\d-\d\dT[\d:.]+Z)|(?P<hex>\b[0-9a-f]{8,}\b)"
    r"|(?P<number>\d+)|(?P<space>\s+)"
)
_PATTERNS = {
    "any": ".*",
    "time": r"\d{4}-\d\d-\d\dT[\d:.]+Z",
    "hex": "[0-9a-f]{8,}",
    "number": r"\d+",
    "space": r"\s+",
}


class Step(NamedTuple):
    """A command of the page, and the lines that the page shows below it."""

    command: str
    shown: tuple[str, ...]


def read_steps() -> list[Step]:
    """The page's commands, in order."""
    found: list[Step] = []
    for block in _CONSOLE.findall(PAGE.read_text(encoding="utf-8")):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *shown = part.rstrip("\n").split("\n")
            found.append(Step(command, tuple(line for line in shown if line.strip())))
    return found


def first_missing(shown: tuple[str, ...], output: str) -> str | None:
    """The first line of a page that a command did not print, in that order.

    Times, digests and numbers are others in each run; `…` stands for anything.
    """
    lines = iter(output.splitlines())
    for expected in shown:
        pattern = _pattern(expected)
        if not any(pattern.fullmatch(line.rstrip()) for line in lines):
            return expected
    return None


def _pattern(line: str) -> re.Pattern[str]:
    parts, end = [], 0
    for token in _VARYING.finditer(line):
        parts += [re.escape(line[end : token.start()]), _PATTERNS[token.lastgroup or "any"]]
        end = token.end()
    return re.compile("".join([*parts, re.escape(line[end:])]))


class Answer(NamedTuple):
    """What a command did."""

    code: int
    output: str


def run_command(line: str, capsys: pytest.CaptureFixture[str]) -> Answer:
    """Run a line of the page in this process, in the current folder."""
    name, *arguments = shlex.split(line)
    if name == "export":
        for setting, _, value in (pair.partition("=") for pair in arguments):
            os.environ[setting] = value
        return Answer(0, "")
    if name == "sqlite3":
        copy_database(Path(arguments[0]), Path(arguments[1].removeprefix(".backup ")))
        return Answer(0, "")
    module = importlib.import_module(f"{name}.cli")
    capsys.readouterr()
    with (
        mock.patch.object(sys, "argv", [name, *arguments]),
        pytest.raises(SystemExit) as ended,
    ):
        module.main()
    captured = capsys.readouterr()
    return Answer(int(str(ended.value.code or 0)), captured.out + captured.err)


def copy_database(source: Path, target: Path) -> None:
    """What `sqlite3 SOURCE ".backup TARGET"` does: a consistent copy of a database in use."""
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


class LiveClock(Clock):
    """The service's clock as it is in life."""

    def __call__(self) -> datetime:
        return datetime.now(UTC)


class LiveStage(Stage):
    """A `Stage` whose service knows what time it is."""

    def start(self) -> None:
        self._running = running(self.folder / "service", LiveClock())
        self.service = self._running.__enter__()


@dataclass(frozen=True)
class Past:
    """A released model that could be trained on the subject.

    Attributes:
        plan_id: The plan.
        release_id: What came of it.
        subject: The subject's id at the site.
        pseudonym: The site's keyed pseudonym of it.
    """

    plan_id: str
    release_id: str
    subject: str
    pseudonym: str

    def fill_in(self, line: str) -> str:
        """A line of the page with its placeholders replaced."""
        placeholders: Mapping[str, str] = {
            "PLAN_ID": self.plan_id,
            "RELEASE_ID": self.release_id,
            "PSEUDONYM": self.pseudonym,
            "RECEIPT": f"site/receipts/{self.pseudonym[:16]}.json",
            SUBJECT: self.subject,
        }
        for placeholder, value in placeholders.items():
            line = line.replace(placeholder, value)
        return line


def make_past(stage: Stage, site: Site, model: Path, capsys: pytest.CaptureFixture[str]) -> Past:
    """Load data, approve, train, release, grant, download; and lay out the files of the page.

    The current folder must be the stage's.
    """
    _lay_out(stage, site)
    digest = base_model_digest(model)
    site.paths.models.mkdir()
    shutil.copytree(model, site.paths.models / "tiny")
    site.paths.policy.write_text(policy_toml(make_policy(base_models=[digest])))
    added = run_command(
        "client data add notes.csv --dir site --dataset notes --subject patient --text note"
        f" --label topic --purpose {PURPOSE} --legal-basis public-task",
        capsys,
    )
    assert added.code == 0, added.output
    plan_id, epsilon = _train(stage, site, digest, model)
    release_id = _release(stage, plan_id, epsilon)
    with Vault.open(site.paths, site.keyring) as vault:
        stories = {who: tell_story(site, vault, who) for who in map(_patient, range(SUBJECTS))}
    subject = next(who for who, story in stories.items() if story.of(Use.TRAINED))
    return Past(plan_id, release_id, subject, stories[subject].holdings.pseudonym)


def _lay_out(stage: Stage, site: Site) -> None:
    (stage.folder / "compliance").symlink_to(stage.folder / "service")
    stage.service.trust.save(Path("trust.json"))
    token = Path("officer.token")
    token.touch(0o600)
    token.write_text(stage.service.token("officer"))
    Path("log.vkey").write_text(stage.service.trust.log_key.encoded())
    Path("north.vkey").write_text(site.identity.public.encoded())
    Path("witnesses.vkey").write_text(WitnessKey.of(site.identity.public).encoded())
    with Path("notes.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["patient", "note", "topic"])
        for index in range(SUBJECTS):
            topic = LABELS[index % len(LABELS)]
            rows.writerow([_patient(index), f"{topic} note", topic])
            rows.writerow([_patient(index), f"another {topic} note", topic])


def _patient(index: int) -> str:
    return f"P-00{400 + index}"


def _train(stage: Stage, site: Site, digest: str, model: Path) -> tuple[str, str]:
    """Submit, approve, train and report a plan; its id and the site's ε."""
    plan = make_plan(
        base_model={"name": "tiny", "digest": digest}, sites=[SITE], phase={"rounds": ROUNDS}
    )
    coordinator = _coordinator(stage)
    plan_id = coordinator.api.submit_plan(coordinator.sign(plan.body())).plan_id
    stage.service.as_("officer").approve_plan(plan_id, reason="reviewed with the DPO")
    fleet = FakeFleet()
    state = TextClassifier.build(plan, model).get_state()

    def report(index: int) -> None:
        signed = coordinator.round_report(
            plan_id,
            index,
            epsilon_by_site={SITE: str(report_of(fleet.replies[-1]).epsilon_spent)},
        )
        coordinator.api.report_round(plan_id, signed)

    def end() -> None:
        coordinator.api.report_outcome(plan_id, coordinator.outcome(plan_id, rounds_done=ROUNDS))

    fleet.tasks = [
        make_task("train", plan_id, 0, state),
        lambda: report(0),
        make_task("train", plan_id, 1, state),
        lambda: report(1),
        make_task("evaluate", plan_id, 1, state),
        end,
    ]
    with open_service(site) as service:
        ending = Worker(
            site,
            connect=fleet.connect,
            service=service,
            stop=StopSignal(),
            reporter=Notes(),
            once=True,
        ).run()
    assert ending is Ending.COMPLETED, [reply.reason for reply in fleet.replies]
    return plan_id, str(report_of(fleet.replies[-1]).epsilon_spent)


def _release(stage: Stage, plan_id: str, epsilon: str) -> str:
    """Announce, upload, approve, grant and download a release."""
    coordinator, officer = _coordinator(stage), stage.service.as_("officer")
    plan = coordinator.api.plan(plan_id).plan
    release = coordinator.release(
        plan_id,
        base_model=plan.base_model.model_dump(mode="json"),
        epsilon_by_site={SITE: epsilon},
    )
    announced = coordinator.api.submit_release(release.manifest, sealed_key=release.sealed_key)
    coordinator.api.upload_release(announced.release_id, release.file(stage.folder))
    officer.approve_release(announced.release_id)
    consumer = federation.Consumer(stage.service)
    officer.grant(
        announced.release_id,
        consumer.name,
        public_key=consumer.public_key,
        purpose=PURPOSE,
        expires_at=in_hours(24 * 90),
    )
    consumer.api.release_key(announced.release_id)
    consumer.api.download_release(announced.release_id, stage.folder / "downloaded")
    return announced.release_id


def _coordinator(stage: Stage) -> federation.Coordinator:
    """The stage's coordinator, as one who reports and releases."""
    coordinator = federation.Coordinator(stage.service)
    coordinator.key = stage.coordinator.identity
    return coordinator
