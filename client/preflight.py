"""`client check`: whether this site could take part, and what to do where it could not.

* Nine checks in a fixed order, each with its own exit code; the first that fails decides.
* A check never stops another: one run tells everything that is wrong.
* A warning does not fail: something will be wrong soon, or is unusual.
* The network is behind `Probe`, the clock is passed in; everything else is read from the site.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, Protocol

from audit.errors import ExitCode, FiduciaryError
from audit.words import count_of
from client.base_models import find_base_model
from client.certificates import check_certificate, read_node_key
from client.compute import read_compute
from client.learning.base_model import EMBEDDED_MODEL
from client.ledger import Ledger
from client.policy import ANY_EMBEDDED, Policy, read_policy
from client.renewal import WARN_BEFORE
from client.site import Site
from client.vault.store import Vault
from compliance.resources import SiteView

MAX_CLOCK_SKEW = timedelta(seconds=30)
"""More than this, and times in reports, certificates and the journal contradict each other's."""


Outcome = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Check:
    """One check's verdict.

    Attributes:
        name: `connection`, `clock`, `certificate`, `keys`, `model`, `dataset`, `policy`, `budget`,
            `compute`.
        outcome: Whether it passed.
        detail: What was found.
        fix: What to do next; empty when all is well.
        exit_code: What `client check` exits with when this is the first that failed.
    """

    name: str
    outcome: Outcome
    detail: str
    fix: str
    exit_code: ExitCode

    def to_json(self) -> dict[str, object]:
        """As `--json` prints it."""
        return {
            "name": self.name,
            "outcome": self.outcome,
            "detail": self.detail,
            "fix": self.fix,
            "exit_code": int(self.exit_code),
        }


class Probe(Protocol):
    """What the checks ask of the network."""

    def service_time(self) -> datetime:
        """The compliance service's clock, from its `Date` header."""

    def site_view(self) -> SiteView:
        """How the compliance service knows this site; its token is used."""

    def reach_coordinator(self) -> None:
        """A TLS connection to the coordinator, with this site's certificate."""


class CheckFailed(Exception):
    """A check found something wrong. Both texts are for the operator."""

    def __init__(self, detail: str, fix: str) -> None:
        super().__init__(detail)
        self.fix = fix


class CheckWarning(CheckFailed):
    """A check found something that will be wrong soon, or is unusual."""


@dataclass(frozen=True)
class Preflight:
    """Runs the checks on one site.

    Attributes:
        site: The site, opened.
        probe: The network.
        now: The present time, with a time zone.
        load_model: Loads a base model from its folder and returns its digest.
    """

    site: Site
    probe: Probe
    now: Callable[[], datetime]
    load_model: Callable[[Path], str]

    def run(self) -> tuple[Check, ...]:
        """Every check, in order."""
        table: tuple[tuple[str, ExitCode, Callable[[], str]], ...] = (
            ("connection", ExitCode.CHECK_CONNECTION, self._connection),
            ("clock", ExitCode.CHECK_CLOCK, self._clock),
            ("certificate", ExitCode.CHECK_CERTIFICATE, self._certificate),
            ("keys", ExitCode.CHECK_KEYS, self._keys),
            ("model", ExitCode.CHECK_MODEL, self._model),
            ("dataset", ExitCode.CHECK_DATASET, self._dataset),
            ("policy", ExitCode.CHECK_POLICY, self._policy),
            ("budget", ExitCode.CHECK_BUDGET, self._budget),
            ("compute", ExitCode.CHECK_COMPUTE, self._compute),
        )
        return tuple(_judge(name, code, check) for name, code, check in table)

    def _connection(self) -> str:
        view = self.probe.site_view()
        if view.state == "revoked":
            raise CheckFailed("this site was revoked", "ask the coordinator or the officer why")
        if view.state == "pending":
            raise CheckFailed(
                "this site waits for the coordinator's admission",
                f"ask the coordinator to run `server admit {self.site.name}`",
            )
        self.probe.reach_coordinator()
        kit = self.site.kit
        return f"compliance service at {kit.trust.url}, coordinator at {kit.fleet_address}"

    def _clock(self) -> str:
        before = self.now()
        theirs = self.probe.service_time()
        ours = before + (self.now() - before) / 2
        skew = abs(ours - theirs)
        if skew > MAX_CLOCK_SKEW:
            raise CheckFailed(
                f"this machine's clock and the compliance service's differ by "
                f"{skew.total_seconds():.0f} s; at most {MAX_CLOCK_SKEW.seconds} are allowed",
                "set the clock by NTP, for example with `timedatectl set-ntp true`",
            )
        return f"differs by {skew.total_seconds():.1f} s"

    def _certificate(self) -> str:
        paths = self.site.paths
        if not paths.certificate.exists():
            raise CheckFailed(
                "the site has no certificate yet", "run `client join KIT` again after admission"
            )
        certificate = check_certificate(
            paths.certificate.read_text(encoding="ascii"),
            site=self.site.name,
            node_key=paths.node_key.read_bytes(),
            ca=paths.ca_certificate.read_text(encoding="ascii"),
        )
        until, now = certificate.not_valid_after_utc, self.now()
        renew = "let `client start` run, which asks for the next one; `server start` gives it"
        if now < certificate.not_valid_before_utc:
            raise CheckFailed("the certificate is not valid yet", "set the clock by NTP")
        if now >= until:
            raise CheckFailed(f"the certificate expired on {until:%Y-%m-%d}", renew)
        if until - now < WARN_BEFORE:
            raise CheckWarning(f"the certificate expires on {until:%Y-%m-%d}", renew)
        return f"names {self.site.name}, valid until {until:%Y-%m-%d}"

    def _keys(self) -> str:
        paths = self.site.paths
        for path in (paths.identity, paths.node_key, paths.token, paths.keyring):
            if not path.exists():
                continue
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & 0o077:
                raise CheckFailed(
                    f"others on this machine may read {path.relative_to(paths.root)} ({mode:04o})",
                    f"chmod go= {path}",
                )
        read_node_key(paths.node_key.read_bytes())
        identity = self.site.identity.public
        if identity.name != self.site.origin:
            raise CheckFailed(
                f"keys/identity.pem is the key of {identity.name}, not of {self.site.origin}",
                "restore keys/identity.pem from a backup",
            )
        enrolled = self.probe.site_view().identity_key
        if enrolled != identity.encoded():
            raise CheckFailed(
                "the compliance service knows this site by another identity key",
                "restore keys/identity.pem from a backup, or join again with a new kit",
            )
        self.site.keyring.secret("held-out-split")
        return "readable by this user only, and the ones that the site enrolled with"

    def _model(self) -> str:
        policy = read_policy(self.site.paths.policy)
        if ANY_EMBEDDED not in policy.base_models:
            return self._own_models(policy)
        digest = self.load_model(find_base_model(EMBEDDED_MODEL, self.site.paths.models))
        return f"{EMBEDDED_MODEL} loads, {digest[:19]}…"

    def _own_models(self, policy: Policy) -> str:
        folder = self.site.paths.models
        folders = (
            sorted(path for path in folder.iterdir() if path.is_dir()) if folder.exists() else []
        )
        digests = {self.load_model(path) for path in folders}
        missing = sorted(set(policy.base_models) - digests)
        if missing:
            raise CheckWarning(
                f"{len(missing)} of the base models that the policy allows are not under models/",
                "put their folders there, or into the hub's cache: `hf download NAME`",
            )
        return f"{count_of(len(digests), 'base model')} can be loaded"

    def _dataset(self) -> str:
        with Vault.open(self.site.paths, self.site.keyring) as vault:
            found = vault.datasets()
            if not found:
                raise CheckFailed("the vault holds no dataset", "`client data add FILE …`")
            for dataset in found:
                problems = vault.verify(dataset.name).problems
                if problems:
                    raise CheckFailed(
                        f"dataset {dataset.name}: {problems[0]}",
                        f"`client data verify {dataset.name}`, then restore or add it again",
                    )
                if not dataset.datasheet.purposes:
                    raise CheckWarning(
                        f"dataset {dataset.name} states no purpose, so no plan may use it",
                        f"`client data add … --dataset {dataset.name} --purpose PURPOSE --replace`",
                    )
            counted = ", ".join(
                f"{d.name} ({count_of(d.subjects, 'subject')}, {count_of(d.records, 'record')})"
                for d in found
            )
        return f"de-identified and readable: {counted}"

    def _policy(self) -> str:
        policy = read_policy(self.site.paths.policy)
        if not policy.purposes:
            raise CheckFailed(
                "the policy allows no purpose, so every plan is refused",
                "name the purposes that you agree to in policy.toml",
            )
        with Vault.open(self.site.paths, self.site.keyring) as vault:
            served = {purpose for d in vault.datasets() for purpose in d.datasheet.purposes}
        if not served & set(policy.purposes):
            raise CheckWarning(
                f"no dataset is for {', '.join(policy.purposes)}, the purposes that are allowed",
                "add records with --purpose, or correct purposes in policy.toml",
            )
        return f"allows {', '.join(policy.purposes)}"

    def _budget(self) -> str:
        policy = read_policy(self.site.paths.policy)
        with self.site.ledger() as ledger:
            return _left(ledger, policy)

    def _compute(self) -> str:
        compute = read_compute(self.site.paths.compute)
        compute.settings()
        return compute.in_words()


def exit_code_of(checks: tuple[Check, ...]) -> ExitCode:
    """The code of the first check that failed, or `OK`."""
    failed = (check.exit_code for check in checks if check.outcome == "failed")
    return next(failed, ExitCode.OK)


def _left(ledger: Ledger, policy: Policy) -> str:
    budget = ledger.budget(
        policy.delta, policy.max_epsilon_total, period=policy.limits.period, with_plans=False
    )
    left = policy.max_epsilon_total - budget.committed
    told = (
        f"epsilon {budget.committed} of {policy.max_epsilon_total} spent or reserved "
        f"at delta {policy.delta}"
    )
    if left <= 0:
        raise CheckFailed(
            f"nothing is left: {told}",
            "these subjects are done; raise max_epsilon_total only if you can justify it",
        )
    period = budget.period
    if period is not None and not period.left:
        raise CheckWarning(
            f"nothing is left within {count_of(period.period.days, 'day')}: epsilon"
            f" {period.committed} of {period.period.max_epsilon}",
            "wait until earlier rounds are older than that; `client budget` shows the figures",
        )
    return told


def _judge(name: str, code: ExitCode, check: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", check(), "", code)
    except CheckWarning as warning:
        return Check(name, "warning", str(warning), warning.fix, code)
    except CheckFailed as failure:
        return Check(name, "failed", str(failure), failure.fix, code)
    except FiduciaryError as error:
        return Check(name, "failed", str(error), error.fix, code)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return Check(name, "failed", f"{error.filename}: {reason}", "check the site's folder", code)
