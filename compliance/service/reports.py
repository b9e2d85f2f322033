"""Makes a report: reads the facts, has it assembled and rendered, and records that it was made.

* Facts, proofs and the size of the log are of one snapshot.
* The entry's object is the digest of the file, in the clear: whoever has the file and a proof of
  that entry can see, without this service, that just this file was made.
* No entry, no report: it is recorded before an octet is sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy.orm import Session

from audit.canonical import digest
from audit.errors import MalformedInput, NotFound
from audit.proof import Proof
from compliance import rules
from compliance.report_api import MADE
from compliance.report_views import (
    EvidenceEntry,
    MadeReport,
    ReportDocument,
    ReportFormat,
    report_object,
)
from compliance.reports import assemble
from compliance.reports.drafting import blanks_of, positions_of
from compliance.reports.narrowing import may_report, narrowed
from compliance.reports.organisation import Organisation, read_organisation
from compliance.reports.rendering import render
from compliance.rules.registers import LawBook, ReportLaw, default_law
from compliance.service.errors import ServiceUnavailable, enforce
from compliance.service.log_search import EntryReader, read_head
from compliance.service.registry import Registry
from compliance.service.report_facts import read_facts, read_retention
from compliance.statements import format_time

MAX_PROOFS: Final = 2000
"""About 3 kB each: a report stays a file that a browser opens."""


def make_report(
    office: Registry, name: str, wanted: ReportFormat, caller: rules.Bearer
) -> MadeReport:
    """Make a report and record it.

    Raises:
        NotFound: When there is no report of that name.
        Denied: When it concerns all sites, and the caller's role is limited to some.
        ServiceUnavailable: When `organisation.toml` cannot be used, or nothing can be recorded.
    """
    law = default_law()
    report = law.report_of(name)
    if report is None:
        raise NotFound("there is no such report", fix="list them: `compliance report`")
    scope = caller.scope("officer", "auditor")
    enforce(may_report(name, scope))
    document = _document(office, law, report, _organisation(office, law), caller)
    content = render(document, wanted)
    file_digest = digest(content)
    with office.writing(caller) as transaction:
        position = transaction.record(
            MADE,
            report_object(file_digest),
            {
                "report": name,
                "format": wanted,
                "law_version": law.version,
                "log_size": document.log_size,
                "organisation": document.organisation,
                "size_bytes": len(content),
                **({} if scope.sites is None else {"sites": sorted(scope.sites)}),
            },
        )
    return MadeReport(name=name, content=content, digest=file_digest, position=position)


def _document(
    office: Registry,
    law: LawBook,
    report: ReportLaw,
    organisation: Organisation,
    caller: rules.Bearer,
) -> ReportDocument:
    scope = caller.scope("officer", "auditor")
    # In the title: whoever reads the file, by whatever reader, must know that it is a part.
    part = "" if scope.sites is None else f" (of {', '.join(sorted(scope.sites))} alone)"
    retention = read_retention(office)
    with office.reading() as session:
        facts = narrowed(read_facts(office, session, retention), scope)
        sections = assemble(report, facts, law, organisation)
        evidence = tuple(_evidence(office, session, positions_of(sections)))
    return ReportDocument(
        name=report.name,
        title=report.title + part,
        law=report.law,
        as_of=law.version,
        retention=report.retention,
        made_at=format_time(facts.now),
        made_by=caller.name,
        origin=facts.origin,
        log_size=facts.log_size,
        organisation=organisation.digest,
        sections=sections,
        evidence=evidence,
        blanks=blanks_of(sections),
    )


def _evidence(
    office: Registry, session: Session, positions: tuple[int, ...]
) -> Iterator[EvidenceEntry]:
    head = read_head(session, office.storage(session))
    reader = EntryReader(office, head.checkpoint)
    for count, view in enumerate(reader.read(session, positions)):
        proof = Proof(view.position, view.path, head.note, view.leaf).encoded()
        yield EvidenceEntry(
            position=view.position,
            time=view.time,
            actor=view.actor,
            action=view.action,
            object=view.object,
            leaf_hash=view.leaf_hash,
            proof=proof if count < MAX_PROOFS else None,
        )


def _organisation(office: Registry, law: LawBook) -> Organisation:
    try:
        return read_organisation(office.folder, law)
    except (MalformedInput, OSError) as error:
        fix = getattr(error, "fix", "") or "check its permissions"
        raise ServiceUnavailable(f"{error}", fix=f"in the compliance folder: {fix}") from error
