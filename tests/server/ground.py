"""A federation on its feet: real compliance service, real ports, admitted sites, no coordinator."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from audit.process_events import EventField
from audit.statement import sign_statement
from client.learning.plan_model import State
from compliance.api import ComplianceClient
from compliance.statements import TrainingPlan
from server.events import EventLog
from server.federation import CONTROL_HOST, Federation
from server.gate import ControlGate, PartnerGate
from server.listeners import Listeners, ServerTls, bind
from server.progress import LineReporter, RunView
from server.registrar import Registrar
from server.runs import RunFolder
from server.superlink import SuperLink
from server.training import Training
from tests.server.conftest import Service, join, make_federation, plan_of
from tests.server.scripted import INITIAL as INITIAL
from tests.server.scripted import Script, ScriptedSite, SiteFiles

SITES = ("st-elm", "lakeside")


class Notes(LineReporter):
    """Keeps what was said."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))
        self.lines: list[str] = []
        self.views: list[RunView] = []
        self.events: list[tuple[str, dict[str, EventField]]] = []

    def note(self, message: str) -> None:
        self.lines.append(message)

    def show(self, view: RunView | None) -> None:
        if view is not None:
            self.views.append(view)

    def event(self, name: str, **fields: EventField) -> None:
        self.events.append((name, fields))


@dataclass
class Ground:
    service: Service
    federation: Federation
    link: SuperLink
    registrar: Registrar
    compliance: ComplianceClient
    sites: dict[str, SiteFiles]
    notes: Notes = field(default_factory=Notes)
    stop: threading.Event = field(default_factory=threading.Event)
    names: Counter[str] = field(default_factory=Counter)

    def approved(self, **changes: Any) -> tuple[str, TrainingPlan]:
        """A submitted and approved plan, numbered where its name was given before."""
        plan = plan_of(**changes)
        self.names[plan.name] += 1
        if self.names[plan.name] > 1:
            plan = plan.model_copy(update={"name": f"{plan.name}-{self.names[plan.name]}"})
        statement = sign_statement(plan.body(), self.federation.identity)
        plan_id = self.compliance.submit_plan(statement).plan_id
        with self.service.client("officer") as officer:
            officer.approve_plan(plan_id)
        return plan_id, plan

    def training(
        self,
        plan_id: str,
        plan: TrainingPlan,
        *,
        stop: threading.Event | None = None,
        compliance: ComplianceClient | None = None,
    ) -> Training:
        return Training(
            plan_id,
            plan,
            self.folder(plan_id),
            INITIAL,
            signer=self.federation.identity,
            wire=self.link,
            sites=self.registrar,
            compliance=compliance or self.compliance,
            reporter=self.notes,
            stop=stop or self.stop,
        )

    def folder(self, plan_id: str) -> RunFolder:
        return RunFolder.of(self.federation.runs, plan_id)

    def site(
        self,
        name: str,
        plan: TrainingPlan,
        script: Script | None = None,
        initial: State = INITIAL,
    ) -> ScriptedSite:
        return ScriptedSite(self.sites[name], plan, script or Script(), initial=initial)


@contextmanager
def ground(service: Service, folder: Path, names: Sequence[str] = SITES) -> Iterator[Ground]:
    federation = make_federation(service, folder / "federation")
    link = SuperLink(federation.control_token)
    settings, events = federation.settings, EventLog(federation.events)
    notes, stop = Notes(), threading.Event()
    with (
        Listeners(
            ControlGate(link.application, federation.control_token, dict, events),
            PartnerGate(link.fleet, link, link.mailboxes, link.turns, events),
            control_socket=bind(CONTROL_HOST, settings.control_port, "control"),
            partner_socket=bind(settings.bind, settings.fleet_port, "fleet"),
            tls=ServerTls(
                federation.root / "tls/certificate.pem",
                federation.root / "tls/key.pem",
                federation.root / "ca/certificate.pem",
            ),
            release=link.close,
        ),
        federation.compliance() as compliance,
    ):
        registrar = Registrar(federation, link, notes, stop)
        sites = {name: join(federation, name, folder / "sites") for name in names}
        registrar.look(compliance)
        yield Ground(service, federation, link, registrar, compliance, sites, notes, stop)
