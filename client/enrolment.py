"""Joining a federation: from a kit to an admitted site.

The steps, each of which can be repeated after a crash by running `client join KIT` again:

1. The kit is verified; nothing is written when it is altered, expired or has another fingerprint.
2. The site's folder is made whole (`Site.create`), with keys that never leave it.
3. The enrolment statement (identity key, request for a node certificate) is signed and stored, so
   that a repetition sends the very same bytes.
4. The one-time token is spent. The service's answer is this site's own bearer token. When the
   service refuses, the folder is removed again; when its answer is lost, the folder stays and the
   same command goes on from here (the service repeats its answer for some minutes).
5. The coordinator admits the site. Its certificate is stored after it proved to be for this site's
   own key and name, by the federation's CA.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from audit.durable import write_durably
from audit.errors import Conflict, FiduciaryError, NotFound, Refused, Unreachable
from audit.log import Entry
from audit.statement import SignedStatement, sign_statement
from client.certificates import certificate_request, check_certificate
from client.kit import ReadKit, read_kit
from client.policy import write_default_policy
from client.site import Site
from client.site_paths import SitePaths
from compliance.resources import Enrolled, SiteView
from compliance.statements import SiteEnrolment, format_time
from compliance.trust import Trust

POLL_SECONDS = 1.0
"""How often a waiting site asks whether it was admitted."""

Stage = Literal["pending", "admitted"]


class EnrolmentService(Protocol):
    """The part of the compliance service that a joining site speaks to."""

    def enrol(self, *, token: str, kit_sha256: str, statement: SignedStatement) -> Enrolled:
        """Spend a one-time token."""

    def site(self, name: str) -> SiteView:
        """How the service knows a site."""


Connect = Callable[[Trust, str | None], AbstractContextManager[EnrolmentService]]
"""Opens a conversation with the service of a trust file, with a bearer token or without."""


@dataclass(frozen=True)
class Waiting:
    """How long to wait for the coordinator's admission.

    Attributes:
        seconds: 0 asks once.
        sleep: Waits that many seconds.
        clock: The present time.
    """

    seconds: float
    sleep: Callable[[float], None]
    clock: Callable[[], datetime]


@dataclass(frozen=True)
class Joined:
    """How far a site has come."""

    folder: Path
    name: str
    federation: str
    fingerprint: str
    stage: Stage


def join(
    kit_file: Path,
    folder: Path,
    *,
    connect: Connect,
    waiting: Waiting,
    expected_fingerprint: str | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> Joined:
    """Join a federation, or go on with a join that was interrupted.

    Args:
        kit_file: The coordinator's kit.
        folder: The site's folder, made here.
        connect: Opens the compliance service.
        waiting: For how long to wait for admission.
        expected_fingerprint: What the operator was told by telephone.
        announce: Told each step in one sentence.

    Raises:
        MalformedInput: When the kit is not one.
        VerificationFailed: When it was altered, has another fingerprint, or the certificate is not
            this site's.
        Refused: When it has expired, or the site was revoked.
        Conflict: When the kit was used already, or the folder holds another site.
        Unreachable: When the service did not answer; the same command goes on.
    """
    enrolled = SitePaths(folder.absolute()).token.exists()
    try:
        data = kit_file.read_bytes()
    except OSError as error:
        raise NotFound(
            f"cannot read the kit {kit_file}: {error.strerror}",
            fix="pass the path of the file that the coordinator's `server invite` wrote",
        ) from error
    read = read_kit(
        data,
        now=waiting.clock(),
        expected_fingerprint=expected_fingerprint,
        # A kit that was spent in time has done its work.
        accept_expired=enrolled,
    )
    announce(f"kit of federation {read.kit.federation} for site {read.kit.site}")
    site, made_here = _open_or_create(folder, read)
    with site:
        if not enrolled:
            _enrol(site, read, connect, made_here=made_here, now=waiting.clock())
            announce("enrolled; the kit's one-time token is spent")
        admitted = await_admission(site, connect=connect, waiting=waiting, announce=announce)
        return Joined(
            folder=site.paths.root,
            name=site.name,
            federation=site.federation,
            fingerprint=read.fingerprint,
            stage="admitted" if admitted else "pending",
        )


def await_admission(
    site: Site,
    *,
    connect: Connect,
    waiting: Waiting,
    announce: Callable[[str], None] = lambda _: None,
) -> bool:
    """Fetch the site's certificate, waiting for the coordinator's admission.

    Returns:
        False when the site is still pending after the wait.

    Raises:
        VerificationFailed: When the certificate is not this site's own.
        Refused: When the site was revoked.
    """
    if site.paths.certificate.exists():
        return True
    deadline = waiting.clock().timestamp() + waiting.seconds
    announced = False
    with connect(site.trust, site.token) as service:
        while True:
            view = service.site(site.name)
            if view.state == "revoked":
                raise Refused(
                    "the coordinator or an officer revoked this site",
                    fix="ask them why; joining again needs a new kit and a new name",
                )
            if view.state == "approved" and view.certificate is not None:
                _store_certificate(site, view.certificate)
                announce("admitted; the certificate is stored")
                return True
            if not announced:
                announce(f"pending: the coordinator runs `server admit {site.name}`")
                announced = True
            left = deadline - waiting.clock().timestamp()
            if left <= 0:
                return False
            waiting.sleep(min(POLL_SECONDS, left))


def _open_or_create(folder: Path, read: ReadKit) -> tuple[Site, bool]:
    paths = SitePaths(folder.absolute())
    if not paths.config.exists():
        return Site.create(folder, name=read.kit.site, federation=read.kit.federation), True
    site = Site.open(folder)
    if (site.name, site.federation) != (read.kit.site, read.kit.federation):
        raise Conflict(
            f"{folder} holds site {site.name} of federation {site.federation}; "
            f"the kit is for {read.kit.site} of {read.kit.federation}",
            fix="choose another folder with --dir",
        )
    if paths.token.exists() and _stored_kit(paths) != read.sha256:
        raise Conflict(
            f"site {site.name} has joined already, with another kit",
            fix="nothing to do; `client check` tells whether it can take part",
        )
    return site, False


def _enrol(site: Site, read: ReadKit, connect: Connect, *, made_here: bool, now: datetime) -> None:
    try:
        statement = _prepare(site, read, now)
        with connect(read.kit.trust, None) as service:
            answer = service.enrol(
                token=read.kit.token, kit_sha256=read.sha256, statement=statement
            )
    except Unreachable as error:
        # Perhaps the token was spent: the keys that it was spent for must not be lost.
        raise Unreachable(
            f"{error}; the join is not finished", fix=f"run the same command again. {error.fix}"
        ) from error
    except BaseException as error:
        if made_here and isinstance(error, FiduciaryError):
            site.close()
            shutil.rmtree(site.paths.root)
        raise
    write_durably(site.paths.token, answer.site_token.encode())
    site.journal.record(
        Entry(
            actor=site.principal,
            action="site-enrolled",
            object=statement.log_object,
            subject=None,
            payload={"federation": site.federation, "kit": read.sha256},
        )
    )


def _prepare(site: Site, read: ReadKit, now: datetime) -> SignedStatement:
    """Write what the kit brings, and the enrolment statement once for each kit."""
    paths = site.paths
    write_default_policy(paths.policy)
    if paths.enrolment.exists() and _stored_kit(paths) == read.sha256:
        return SignedStatement.from_json(json.loads(paths.enrolment.read_bytes()))
    enrolment = SiteEnrolment(
        federation=site.federation,
        site=site.name,
        identity_key=site.identity.public.encoded(),
        certificate_request=certificate_request(site.name, paths.node_key.read_bytes()),
        requested_at=format_time(now),
    )
    statement = sign_statement(enrolment.body(), site.identity)
    write_durably(paths.ca_certificate, read.kit.ca_certificate.encode(), mode=0o644)
    write_durably(paths.enrolment, json.dumps(statement.to_json()).encode())
    write_durably(paths.kit, json.dumps(read.statement.to_json()).encode())
    return statement


def _stored_kit(paths: SitePaths) -> str | None:
    if not paths.kit.exists():
        return None
    return SignedStatement.from_json(json.loads(paths.kit.read_bytes())).digest


def _store_certificate(site: Site, certificate: str) -> None:
    paths = site.paths
    check_certificate(
        certificate,
        site=site.name,
        node_key=paths.node_key.read_bytes(),
        ca=paths.ca_certificate.read_text(encoding="ascii"),
    )
    write_durably(paths.certificate, certificate.encode("ascii"), mode=0o644)
    site.journal.record(
        Entry(
            actor=site.principal,
            action="site-admitted",
            object=f"site:{site.name}",
            subject=None,
            payload={"federation": site.federation},
        )
    )
