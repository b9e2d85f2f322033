"""What happened before `docs/officer-story.md` begins, and somebody who follows its commands.

* The compliance service is the real one, over TLS; a site's de-identification, vault, journal,
  keyring, training and erasure are real. The coordinator is its real key and the real client.
* The page's commands run in its order with its placeholders filled in. What the page shows of an
  output must be in the output, in that order (`first_missing`).
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from audit.cosignature import WitnessKey
from client.fleet_tasks import IncomingTask
from client.learning.base_model import base_model_digest
from client.learning.tasks.text_classification import TextClassifier
from client.learning.travelling import Activity, chosen, names_in_task
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
from tests.following import Step, run_command, steps_of

PAGE = Path(__file__).parents[3] / "docs" / "officer-story.md"

SUBJECT = "P-00417"
"""How the page calls the subject; the real one is whom the site's secret put into training."""

SUBJECTS = 24
ROUNDS = 2


def read_steps() -> list[Step]:
    """The page's commands, in order."""
    return steps_of(PAGE)


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

    def ask(kind: Activity, index: int) -> IncomingTask:
        travelling = chosen(state, names_in_task(plan, kind, index, state))
        return make_task(kind, plan_id, index, travelling)

    fleet.tasks = [
        ask("train", 0),
        lambda: report(0),
        ask("train", 1),
        lambda: report(1),
        ask("evaluate", 1),
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
