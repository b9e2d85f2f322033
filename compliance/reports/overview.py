"""What is on record at all: the page to begin with."""

from __future__ import annotations

from collections import Counter

from compliance.reports.drafting import ReportDraft, link, link_of
from compliance.reports.facts import Facts
from compliance.reports.requests import is_late
from compliance.rules.registers import LawBook


def overview(draft: ReportDraft, facts: Facts, _law: LawBook) -> None:
    """Counts of everything, each with its entries."""
    log = draft.section("log")
    log.figure("entries", "Entries of the log", facts.log_size)
    vouching = [site for site in facts.sites if site.size is not None]
    log.figure(
        "witnesses",
        "Sites that vouch for it",
        len(vouching),
        link(position for site in vouching for position in site.positions),
    )
    log.table(
        "actions",
        "What the log records, by action",
        ("action", "entries", "first", "last"),
        (
            ((action.action, action.count, action.first, action.last), link_of(action))
            for action in facts.actions_of(*sorted(facts.actions))
        ),
        "The log is empty.",
    )
    training = draft.section("training")
    for identity, label, found in (
        ("plans", "Plans", [(plan.state, plan.positions) for plan in facts.plans]),
        ("releases", "Releases", [(item.state, item.positions) for item in facts.releases]),
        ("sites", "Sites", [(site.state, site.positions) for site in facts.sites]),
    ):
        states = Counter(state for state, _ in found)
        told = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        training.figure(
            identity,
            label,
            f"{len(found)} ({told})" if found else "0",
            link(position for _, positions in found for position in positions),
        )
    requests = draft.section("requests")
    late = [item for item in facts.requests if is_late(item, facts.now)]
    for identity, label, asked in (
        ("requests", "Requests", facts.requests),
        ("open", "Of these open", [item for item in facts.requests if item.result == "open"]),
        ("late", "Of these answered late, or late and open", late),
    ):
        requests.figure(
            identity,
            label,
            len(asked),
            link(position for item in asked for position in item.positions[:1]),
        )
    undecided = [case for case in facts.cases if case.view.choice is None]
    requests.figure(
        "undecided",
        "Releases that erased people took part in, and that wait for a decision",
        len(undecided),
        link(position for case in undecided for position in case.positions),
    )
    draft.section("breaches").figure(
        "breaches",
        "Breaches on record, and of these open",
        f"{len(facts.breaches)}, {sum(view.state == 'open' for view in facts.breaches)}",
        link(position for view in facts.breaches for position in view.positions),
    )
    draft.section("reports").table(
        "reports",
        "Reports, newest last",
        ("made", "by", "report", "format", "digest of the file"),
        (
            (
                (
                    made.time,
                    made.actor,
                    made.said("report"),
                    made.said("format"),
                    made.object.removeprefix("report:"),
                ),
                link((made.position,)),
            )
            for made in facts.reports
        ),
        "No report was made before this one.",
    )
