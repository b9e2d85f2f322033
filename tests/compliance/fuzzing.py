"""The whole OpenAPI document, fuzzed by schemathesis against the real application and service.

* Operations, roles, parameters and answers are read from the document and from the routes, so a new
  route is fuzzed as soon as it exists.
* A gate's run has a fixed budget of cases, shared out evenly, and derives them from the document
  alone. `FIDUCIARY_FUZZ=deep` (`make fuzz`) sends every case, random ones and sequences of calls,
  as everybody in turn and as each role by itself.
"""

from __future__ import annotations

import dataclasses
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import schemathesis
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi import APIRouter
from fastapi.routing import APIRoute
from hypothesis import Phase, settings
from prometheus_client import generate_latest
from schemathesis.config import ProjectConfig, SchemathesisConfig
from schemathesis.core.parameters import ParameterLocation
from schemathesis.engine import Status, events, from_schema
from schemathesis.generation import GenerationMode
from starlette.types import ASGIApp, Receive, Scope, Send

from compliance.service.access import access_of
from compliance.service.app import create_app, openapi_document
from compliance.service.metrics import ServiceMetrics
from compliance.service.throttle import PublicThrottle, Rates, Throttle
from compliance.session import IDEMPOTENCY_HEADER
from compliance.statements import format_time
from tests.compliance.federation import Consumer, Coordinator, Site
from tests.compliance.running import RunningService
from tests.compliance.subjects import configure

DEEP: Final = os.environ.get("FIDUCIARY_FUZZ") == "deep"

CASES: Final = 500
"""Of a gate's run, over all operations and callers: some ten seconds of one core."""

_CASES_OF_AN_OPERATION: Final = 30
"""About as many as schemathesis derives from an operation's boundaries."""

_DEEP_EXAMPLES: Final = 60

CANARY: Final = "jane-canary-doe-1970-01-01"
"""Stands for a person's name wherever a request can hold one."""

NOBODY: Final = "nobody"

_TURN_OF_OTHERS: Final = 7
"""Every so many calls of an operation come from anybody."""

_STAND_IN_HEADER: Final = b"Bearer stand-in"
"""What the fuzzer shows; `Cast` puts a caller's token in its place."""

CANARY_HEADERS: Final = {
    "cookie": f"name={CANARY}",
    "referer": f"https://example.com/{CANARY}",
    "user-agent": CANARY,
    "x-forwarded-for": CANARY,
    "x-request-id": CANARY,
}


@dataclass(frozen=True)
class Operation:
    """One operation of the application and who may call it."""

    method: str
    path: str
    roles: tuple[str, ...]
    route: APIRoute

    @property
    def label(self) -> str:
        return f"{self.method} {self.path}"

    def may_call(self, caller: str) -> bool:
        """Whether it is open to a caller."""
        return not self.roles or caller in self.roles


_KEYED_PATH: Final = "/v1/principals"
"""Where idempotency keys are tried. The gate reads them, alike for all operations: tried everywhere
they would take most of the cases from the bodies."""


class FuzzedService:
    """A service whose application is called in this process, with its metrics.

    Its throttles, which have tests of their own, never bite: thousands of calls come from one
    address here.

    Args:
        service: A service, best one in which something happened.
        tokens: A token of each role.
        only: Routes to fuzz instead of the service's own.
    """

    def __init__(
        self,
        service: RunningService,
        tokens: Mapping[str, str],
        only: APIRouter | None = None,
    ) -> None:
        registry = dataclasses.replace(
            service.registry,
            throttle=Throttle(max_failures=10**9),
            public_throttle=PublicThrottle(filings=10**9, lookups=10**9),
            rates=Rates(10**9, 10**9, 10**9, 10**9),
            require_site_certificates=False,  # without TLS there are none
        )
        self.metrics = ServiceMetrics()
        self.service = create_app(self.metrics.watch(registry))
        if only is not None:
            self.service.router.routes.clear()
            self.service.include_router(only)
            self.service.state.routes = only.routes
        self.document: dict[str, Any] = openapi_document(self.service)
        for path, methods in self.document["paths"].items():
            for operation in methods.values() if path != _KEYED_PATH else ():
                operation["parameters"] = [
                    parameter
                    for parameter in operation.get("parameters", ())
                    if parameter["name"] != IDEMPOTENCY_HEADER
                ]
        self.tokens: dict[str, str | None] = {NOBODY: None, **tokens}
        routes: list[APIRoute] = self.service.state.routes
        self.operations: list[Operation] = sorted(
            (
                Operation(method, route.path, access_of(route.endpoint).roles, route)
                for route in routes
                for method in route.methods or ()
            ),
            key=lambda operation: operation.label,
        )

        self.known = self._identifiers(service)

    def _identifiers(self, service: RunningService) -> dict[str, dict[str, str]]:
        """For paths such as `/v1/plans/{plan_id}/…`: the newest that is listed at `/v1/plans`."""
        officer = service.http(self.tokens["officer"])
        known: dict[str, dict[str, str]] = {}
        for operation in self.operations:
            if match := re.match(r"(/[^{]+)/{(\w+)}", operation.path):
                collection, name = match.groups()
                listed = officer.get(collection)
                items = next(iter(listed.json().values())) if listed.is_success else []
                found = [item.get(name) or item.get("name") for item in items]
                if found and found[-1] is not None:
                    known[operation.path] = {name: str(found[-1])}
        return known

    @property
    def application(self) -> ASGIApp:
        """The application as it is served."""
        return self.metrics.metered(self.service)

    def exposed(self) -> str:
        """What anybody who scrapes metrics sees."""
        return generate_latest(self.metrics.registry).decode()


class InProcess:
    """Calls an application in this process, as somebody."""

    def __init__(self, portal: BlockingPortal, client: httpx.AsyncClient) -> None:
        self._portal = portal
        self._client = client
        self.token: str | None = None

    def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        headers = {**CANARY_HEADERS, **options.pop("headers", {})}
        if self.token is not None:
            headers["authorization"] = f"Bearer {self.token}"
        call = partial(self._client.request, method, url, headers=headers, **options)
        return self._portal.call(call)


@contextmanager
def in_process(application: ASGIApp) -> Iterator[InProcess]:
    """The application, called without a network."""
    client = httpx.AsyncClient(
        transport=httpx.ASGITransport(application),
        base_url="http://testserver",
    )
    with start_blocking_portal() as portal:
        yield InProcess(portal, client)
        portal.call(client.aclose)


def fuzzed_service(
    service: RunningService, coordinator: Coordinator, north: Site, folder: Path
) -> FuzzedService:
    """A service in which a release was granted and a request filed, and a token of each role."""
    configure(service)  # the public may ask
    plan_id = coordinator.approved_plan()
    coordinator.run(plan_id, north)
    release = coordinator.release(plan_id)
    coordinator.api.submit_release(release.manifest, sealed_key=release.sealed_key)
    coordinator.api.upload_release(release.release_id, release.file(folder))
    officer, desk = service.as_("officer"), Consumer(service)
    officer.approve_release(release.release_id)
    officer.grant(
        release.release_id,
        desk.name,
        public_key=desk.public_key,
        purpose="triage",
        expires_at=format_time(service.clock() + timedelta(days=2)),
    )
    officer.subject_requests.file("erasure", "gdpr", {"north": b"?"})
    # The last of a list is what operations on one of it are fuzzed with.
    coordinator.welcome("west")
    officer.add_principal("zoe", ["auditor"])
    assert north.token is not None
    tokens = {name: service.token(name) for name in ("coordinator", "officer", "auditor")}
    return FuzzedService(service, {**tokens, "site": north.token, "consumer": desk.token})


class Cast:
    """Gives each request that shows `STAND_IN` as its token a caller's own.

    Callers take turns at each operation. Most calls are made by somebody who may make them, the
    first one always: the gate turns the others away before it looks at anything else.

    Args:
        fuzzed: The service.
        only: Who calls, when it is always the same.
    """

    def __init__(self, fuzzed: FuzzedService, only: str | None = None) -> None:
        self._fuzzed = fuzzed
        self._only = only
        self._application = fuzzed.application
        self._calls: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = []
        for name, value in scope.get("headers", ()):
            if (name, value) != (b"authorization", _STAND_IN_HEADER):
                headers.append((name, value))
                continue
            token = self._fuzzed.tokens[self._only or self._next(scope["method"], scope["path"])]
            if token is not None:
                headers.append((name, f"Bearer {token}".encode()))
        await self._application({**scope, "headers": headers}, receive, send)

    def _next(self, method: str, path: str) -> str:
        for operation in self._fuzzed.operations:
            if operation.method == method and operation.route.path_regex.fullmatch(path):
                break
        else:
            return NOBODY
        turn = self._calls[operation.label]
        self._calls[operation.label] += 1
        callers = operation.roles
        if not callers or turn % _TURN_OF_OTHERS == _TURN_OF_OTHERS - 1:
            callers = tuple(sorted(self._fuzzed.tokens))
        return callers[turn % len(callers)]


@dataclass
class Findings:
    """What a run found.

    Attributes:
        problems: What is wrong, once for each operation and kind.
        statuses: Of the answers, for each operation.
    """

    problems: dict[tuple[str, str], str] = field(default_factory=dict)
    statuses: dict[str, Counter[int]] = field(default_factory=dict)

    @property
    def sent(self) -> str:
        """How much was sent."""
        requests = sum(map(Counter.total, self.statuses.values()))
        return f"{requests} requests to {len(self.statuses)} operations"

    def text(self) -> str:
        return "\n".join(f"{label}: {what}" for (label, _), what in self.problems.items())


Judge = Callable[[schemathesis.Case[Any], schemathesis.Response], Iterable[str]]
"""Says what else is wrong with an answer."""


def fuzz(fuzzed: FuzzedService, judge: Judge, only: str | None = None) -> Findings:
    """Send what the document says, and what it forbids, and judge the answers.

    Args:
        fuzzed: The service.
        judge: Says what else is wrong with an answer.
        only: Who calls, when it is always the same. What this caller may not call is tried as in a
            gate's run: the gate turns all of it away alike.
    """
    findings = Findings()
    with _undirected():
        if not DEEP or only is None:
            _fuzz(fuzzed, judge, only, fuzzed.operations, DEEP, findings)
        else:
            for may_call in (True, False):
                operations = [one for one in fuzzed.operations if one.may_call(only) == may_call]
                _fuzz(fuzzed, judge, only, operations, may_call, findings)
    return findings


def _fuzz(
    fuzzed: FuzzedService,
    judge: Judge,
    only: str | None,
    operations: Sequence[Operation],
    is_deep: bool,
    findings: Findings,
) -> None:
    labels = {operation.label for operation in operations}
    if not labels:
        return
    whole = schemathesis.openapi.from_dict(fuzzed.document, config=_config(is_deep))
    schema = whole.include(lambda context: context.operation.label in labels)
    schema.app = Cast(fuzzed, only)
    sampled = CASES / (len(fuzzed.operations) * _CASES_OF_AN_OPERATION)
    most = 2 * CASES // len(fuzzed.operations)
    sources: dict[str, random.Random] = {}
    taken: Counter[str] = Counter()

    @schema.hook
    def filter_case(_context: schemathesis.HookContext, case: schemathesis.Case[Any]) -> bool:
        label = case.operation.label
        source = sources.setdefault(label, random.Random(label))
        drawn = taken[label] == 0 or source.random() < sampled
        if not is_deep and (not drawn or taken[label] >= most):
            return False
        taken[label] += 1
        return True

    @schema.hook
    def map_case(
        _context: schemathesis.HookContext, case: schemathesis.Case[Any]
    ) -> schemathesis.Case[Any]:
        known = fuzzed.known.get(case.operation.path)
        if known and _is_about(case) != ParameterLocation.PATH:
            case.path_parameters = {**(case.path_parameters or {}), **known}
        return case

    for happened in from_schema(schema).execute():
        if isinstance(happened, events.FatalError):
            raise happened.exception
        if isinstance(happened, events.NonFatalError):
            findings.problems[happened.label, "error"] = f"not tested: {happened.value}"
        elif isinstance(happened, events.ScenarioFinished):
            _collect(happened.recorder, judge, findings)


@contextmanager
def _undirected() -> Iterator[None]:
    """Examples as they come.

    schemathesis lets hypothesis climb towards requests that are accepted, with no setting against
    it. Where none of an operation's can be, that does not end.
    """
    settings_of = ProjectConfig.get_hypothesis_settings

    def without_climbing(config: ProjectConfig, **options: Any) -> settings:
        found = settings_of(config, **options)
        return settings(found, phases=[one for one in found.phases if one != Phase.target])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ProjectConfig, "get_hypothesis_settings", without_climbing)
        yield


def _config(is_deep: bool) -> SchemathesisConfig:
    return SchemathesisConfig.from_dict(
        {
            "seed": 1,
            "base-url": "http://testserver",
            "headers": {**CANARY_HEADERS, "Authorization": _STAND_IN_HEADER.decode()},
            "workers": 1,
            "continue-on-failure": True,
            "request-timeout": 300,  # a whole log is exported, on a busy machine
            "generation": {
                "max-examples": _DEEP_EXAMPLES,
                "deterministic": True,
                "database": "none",
                "no-shrink": True,
            },
            "checks": {
                # A request may be well formed and refused for what it says, as unprocessable.
                "positive_data_acceptance": {
                    "expected-statuses": ["2xx", "401", "403", "404", "409", "422"]
                },
                # `map_case` puts what is known in the place of what was just created; and what is
                # created need not wait for a confirmation.
                "ensure_resource_availability": {"enabled": False},
                # What is too long is turned away before it is read.
                "negative_data_rejection": {
                    "expected-statuses": [
                        *("400", "401", "403", "404", "405", "406", "409"),
                        *("413", "415", "422", "428", "429"),
                    ]
                },
            },
            "phases": {"fuzzing": {"enabled": is_deep}, "stateful": {"enabled": is_deep}},
        }
    )


def _collect(recorder: Any, judge: Judge, findings: Findings) -> None:
    for case_id, interaction in recorder.interactions.items():
        response = interaction.response
        node = recorder.cases.get(case_id)
        if response is None or node is None:
            findings.problems[recorder.label, "silence"] = "no answer came"
            continue
        case = node.value
        label = case.operation.label
        findings.statuses.setdefault(label, Counter())[response.status_code] += 1
        failures = [
            f"{check.name}: {failed.failure.title}: {failed.failure.message}"
            for check in recorder.checks.get(case_id, ())
            if check.status == Status.FAILURE and (failed := check.failure_info) is not None
        ]
        for failure in (*failures, *judge(case, response)):
            key = (label, failure.partition(":")[0])
            findings.problems.setdefault(key, f"{failure}\n{_shown(interaction)}\n")


def _shown(interaction: Any) -> str:
    request, response = interaction.request, interaction.response
    body = (request.body or b"")[:600]
    return f"  {request.method} {request.uri[:600]} {body!r}\n  {response.status_code} " + repr(
        response.content[:600]
    )


def is_positive(case: schemathesis.Case[Any]) -> bool:
    """Whether the document says that the request is well formed."""
    return case.meta is not None and case.meta.generation.mode == GenerationMode.POSITIVE


def _is_about(case: schemathesis.Case[Any]) -> ParameterLocation | None:
    """Which part of the request was made to be tested."""
    data = None if case.meta is None else case.meta.phase.data
    return getattr(data, "parameter_location", None)
