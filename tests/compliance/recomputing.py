"""Every figure of every report, computed again from the raw leaves of the log and nothing else.

The product reads tables, indexes and views; this reads leaves from the first to the last. Where
both say the same, neither path lost or made up anything.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from tests.compliance.reporting import Entry, History

Cells = list[tuple[str, ...]]

DECISIONS = ("plan.approved", "plan.rejected", "release.approved", "release.rejected")


class Told:
    """What the leaves say, once through."""

    def __init__(self, history: History, size: int) -> None:
        self.entries = [entry for entry in history.entries() if entry.position < size]
        self.by_action: dict[str, list[Entry]] = defaultdict(list)
        for entry in self.entries:
            self.by_action[entry.action].append(entry)
        self.plans = {entry.object.removeprefix("plan:"): entry for entry in self["plan.submitted"]}
        self.decided = {
            entry.body["object"]: entry for action in DECISIONS for entry in self[action]
        }
        self.ended = {entry.body["plan_id"]: entry for entry in self["run.ended"]}
        self.releases = {
            entry.object.removeprefix("release:"): entry for entry in self["release.announced"]
        }
        self.breaches = {
            entry.object.removeprefix("breach:"): entry for entry in self["breach.recorded"]
        }

    def __getitem__(self, *actions: str) -> list[Entry]:
        return [entry for action in actions for entry in self.by_action[action]]

    def plan_state(self, plan_id: str) -> str:
        if plan_id in self.ended:
            return str(self.ended[plan_id].body["verdict"])
        decision = self.decided.get(f"plan:{plan_id}")
        return "submitted" if decision is None else str(decision.body["verdict"])

    def release_state(self, release_id: str) -> str:
        name = f"release:{release_id}"
        if any(entry.object == name for entry in self["release.recalled"]):
            return "recalled"
        decision = self.decided.get(name)
        if decision is not None:
            return str(decision.body["verdict"])
        uploaded = any(entry.object == name for entry in self["release.uploaded"])
        return "candidate" if uploaded else "announced"

    @property
    def approved(self) -> dict[str, dict[str, Any]]:
        """Bodies of plans that were let through, oldest first."""
        return {
            plan_id: entry.body
            for plan_id, entry in self.plans.items()
            if self.plan_state(plan_id) not in ("submitted", "rejected")
        }

    def site_states(self) -> dict[str, str]:
        states = {}
        for action, state in (
            ("site.enrolled", "pending"), ("site.admitted", "approved"), ("site.revoked", "revoked")
        ):  # fmt: skip
            for entry in self[action]:
                site = entry.object.removeprefix("site:")
                if action != "site.revoked":
                    site = str(entry.body["site"])
                states[site] = state
        return dict(sorted(states.items()))

    def hours(self, breach: str, to: str, until: str | None = None) -> Decimal | None:
        """Tenths of hours from awareness, rounded up."""
        told = [
            entry for entry in self["breach.notified"]
            if entry.object == f"breach:{breach}" and entry.payload["to"] == to
        ]  # fmt: skip
        end = told[0].payload["at"] if told else until
        if end is None:
            return None
        began = datetime.fromisoformat(self.aware(breach))
        seconds = int((datetime.fromisoformat(end) - began).total_seconds())
        return Decimal(-(-seconds * 10 // 3600)) / 10

    def aware(self, breach: str) -> str:
        at = str(self.breaches[breach].payload["aware_at"])
        for entry in self["breach.updated"]:
            if entry.object == f"breach:{breach}" and "aware_at" in entry.payload:
                at = str(entry.payload["aware_at"])
        return at

    def risk(self, breach: str) -> str:
        risk = str(self.breaches[breach].payload["risk"])
        for entry in self["breach.updated"]:
            if entry.object == f"breach:{breach}" and "risk" in entry.payload:
                risk = str(entry.payload["risk"])
        return risk

    def open_breaches(self) -> list[str]:
        closed = {entry.object.removeprefix("breach:") for entry in self["breach.closed"]}
        return [name for name in self.breaches if name not in closed]


def figures(history: History, report: str, size: int) -> dict[str, str]:
    """Each figure that the system states, by `section/figure`."""
    return dict(_FIGURES[report](Told(history, size), history))


def tables(history: History, report: str, size: int) -> dict[str, Cells]:
    """What columns of tables must say, by `section/table`; each row as far as the log says it."""
    return dict(_TABLES.get(report, _no_tables)(Told(history, size), history))


Figures = Iterator[tuple[str, str]]
Tables = Iterator[tuple[str, Cells]]


def _no_tables(_told: Told, _history: History) -> Tables:
    yield from ()


def _measures(told: Told) -> Figures:
    plans = told.approved.values()
    yield "measures/differential-privacy", f"{len(plans)}"
    masked = sum(bool(plan.get("secure_aggregation")) for plan in plans)
    yield "measures/secure-aggregation", f"{masked} of {len(plans)}"
    by_another = 0
    for name, decision in told.decided.items():
        kind, _, identity = name.partition(":")
        submitted = told.plans[identity] if kind == "plan" else told.releases[identity]
        authors = {submitted.actor, submitted.body.get("author")}
        by_another += decision.body["decided_by"] not in authors
    yield "measures/two-people", f"{by_another} of {len(told.decided)}"
    yield "measures/encrypted-releases", f"{len(told['release.uploaded'])}"
    yield "measures/refused-calls", f"{len(told['request.refused'])}"


def _overview(told: Told, history: History) -> Figures:
    yield "log/entries", f"{len(told.entries)}"
    yield "log/witnesses", "1"
    for name, states in (
        ("plans", [told.plan_state(plan_id) for plan_id in told.plans]),
        ("releases", [told.release_state(release_id) for release_id in told.releases]),
        ("sites", list(told.site_states().values())),
    ):
        counted = ", ".join(f"{count} {state}" for state, count in sorted(Counter(states).items()))
        yield f"training/{name}", f"{len(states)} ({counted})"
    asked = requests(told, history)
    yield "requests/requests", f"{len(asked)}"
    yield "requests/open", f"{sum(item.result == 'open' for item in asked)}"
    waiting = [row for row in _cases(told) if row[4] == "none yet"]
    yield "requests/undecided", f"{len(waiting)}"
    yield "requests/late", f"{sum(item.late for item in asked)}"
    yield "breaches/breaches", f"{len(told.breaches)}, {len(told.open_breaches())}"


def _overview_tables(told: Told, history: History) -> Tables:
    yield (
        "log/actions",
        [
            (action, f"{len(found)}", found[0].time, found[-1].time)
            for action, found in sorted(told.by_action.items())
            if found
        ],
    )
    yield "reports/reports", [
        (
            made.time, made.actor, made.payload["report"], made.payload["format"],
            made.object.removeprefix("report:"),
        )
        for made in told["report.made"]
    ]  # fmt: skip


def _controller(told: Told, history: History) -> Figures:
    yield (
        "purposes/purposes",
        ", ".join(sorted({f"{p['purpose']}" for p in told.approved.values()})),
    )
    yield (
        "recipients/recipients",
        f"{len({entry.payload['principal'] for entry in told['release.granted']})}",
    )
    yield "time-limits/jurisdictions", "none is named, so nothing is ever shredded"
    yield "time-limits/retention-rules", "2026-11-26"
    yield from _measures(told)


LEGAL = {
    "consent": "a", "contract": "b", "legal-obligation": "c", "vital-interests": "d",
    "public-task": "e", "legitimate-interests": "f",
}  # fmt: skip
"""Letters of Art. 6(1) GDPR, read again from the regulation."""


def basis(plan: dict[str, Any]) -> str:
    name = f"{plan['legal_basis']}"
    return f"{name}: GDPR Art. 6(1)({LEGAL[name]})"


def _controller_tables(told: Told, history: History) -> Tables:
    yield "purposes/activities", [
        (
            f"{plan['name']}", f"{plan['purpose']}", basis(plan),
            f"{plan['task']} on {plan['base_model']['name']}",
            f"{plan['federation']}", told.plan_state(plan_id),
        )
        for plan_id, plan in told.approved.items()
    ]  # fmt: skip
    yield "categories/bounds", [
        (
            f"{plan['name']}", ", ".join(plan["sites"]),
            f"{plan['minimum_subjects']}",
            f"{plan['privacy']['max_records_per_subject']}",
        )
        for plan in told.approved.values()
    ]  # fmt: skip
    grants: Cells = []
    for release_id, announced in told.releases.items():
        name = f"release:{release_id}"
        for grant in told["release.granted"]:
            if grant.object != name:
                continue
            who = grant.payload["principal"]
            back = (
                any(
                    entry.object == name and entry.payload["principal"] == who
                    for entry in told["grant.revoked"]
                )
                or told.release_state(release_id) == "recalled"
            )
            taken = sum(
                entry.object == name and entry.actor == who for entry in told["release.downloaded"]
            )
            until = grant.payload["expires_at"] + (", taken back" if back else "")
            grants.append(
                (
                    who, announced.body["name"], grant.payload["purpose"], grant.time, until,
                    "yes" if taken else "no", f"{taken}",
                )
            )  # fmt: skip
    yield "recipients/grants", grants
    yield (
        "time-limits/plans",
        [(f"{plan['name']}", f"{plan['retention_days']}") for plan in told.approved.values()],
    )


def _processor(told: Told, history: History) -> Figures:
    yield from _measures(told)


def _processor_tables(told: Told, history: History) -> Tables:
    rows: Cells = []
    for site in told.site_states():
        for plan_id, plan in told.approved.items():
            rounds = [r.body for r in told["round.reported"] if r.body["plan_id"] == plan_id]
            part = sum(site in body["participants"] for body in rounds)
            if site in plan["sites"]:
                rows.append(
                    (
                        site, f"{plan['name']}", f"{plan['purpose']}", basis(plan),
                        f"{part} of {len(rounds)}", told.plan_state(plan_id),
                    )
                )  # fmt: skip
    yield "categories/by-controller", rows


def _status(told: Told, breach: str, now: str) -> str:
    if told.breaches[breach].payload["role"] == "processor":
        return "processor"
    notified = told.hours(breach, "authority")
    if notified is not None:
        return "in-time" if notified <= 72 else "late"
    if told.risk(breach) == "unlikely":
        return "not-required"
    elapsed = told.hours(breach, "authority", now)
    return "overdue" if elapsed is not None and elapsed > 72 else "running"


def _breaches(told: Told, history: History) -> Figures:
    now = history.service.clock().isoformat()
    yield "register/breaches", f"{len(told.breaches)}"
    yield "register/open", f"{len(told.open_breaches())}"
    yield "authority/deadline", "72"
    counted = Counter(_status(told, breach, now) for breach in told.breaches)
    for status in ("overdue", "late", "in-time"):
        yield f"authority/{status}", f"{counted[status]}"


def _breach_tables(told: Told, history: History) -> Tables:
    def when(breach: str, to: str, otherwise: str) -> str:
        for entry in told["breach.notified"]:
            if entry.object == f"breach:{breach}" and entry.payload["to"] == to:
                return f"{entry.payload['at']}"
        return otherwise

    order = sorted(told.breaches, key=lambda name: (told.breaches[name].time, name))
    role = {name: told.breaches[name].payload["role"] for name in order}
    yield "register/breaches", [(name, told.aware(name), role[name]) for name in order]
    yield (
        "authority/clock",
        [(name, told.risk(name)) for name in order if role[name] == "controller"],
    )
    yield "controller/controller", [
        (
            name, told.aware(name), when(name, "controller", "not told"),
            f"{told.hours(name, 'controller'):.1f}",
        )
        for name in order if role[name] == "processor"
    ]  # fmt: skip
    yield "contents/contents", [(name,) for name in order]
    yield (
        "subjects/subjects",
        [(name, when(name, "subjects", "not told")) for name in order if told.risk(name) == "high"],
    )


# --- requests of data subjects --------------------------------------------------------------------

KINDS = {
    "erasure": ("requests to delete", "11 CCR 7102(a)(1)(A)"),
    "rectification": ("requests to correct", "11 CCR 7102(a)(1)(B)"),
    "access": ("requests to know", "11 CCR 7102(a)(1)(C)"),
    "objection": ("requests to opt out of sale or sharing", "11 CCR 7102(a)(1)(D)"),
}
"""Letters of 11 CCR 7102(a)(1), read again from the regulation; in its order."""

RESULTS = ("in whole", "in part", "denied", "nothing found", "expired", "open")

SURELY_LATE = {"ccpa": timedelta(days=46), "gdpr": timedelta(days=34)}
"""Beyond every deadline of that law; no request of the history lies between the two."""


@dataclass
class Asked:
    """One request, from its entries."""

    identity: str
    right: str
    jurisdiction: str
    received: datetime
    now: datetime
    confirmed: datetime | None = None
    ended: datetime | None = None
    denied_by_officer: str = ""
    outcomes: list[str] = field(default_factory=list)

    @property
    def result(self) -> str:
        if self.denied_by_officer:
            return "denied"
        if self.ended is None:
            return "open"
        if "done" in self.outcomes:
            return "in part" if "refused" in self.outcomes else "in whole"
        return "denied" if "refused" in self.outcomes else "nothing found"

    @property
    def late(self) -> bool:
        return (self.ended or self.now) - self.received > SURELY_LATE[self.jurisdiction]

    @property
    def days(self) -> Decimal | None:
        if self.ended is None:
            return None
        seconds = int((self.ended - self.received).total_seconds())
        return Decimal(-(-seconds * 10 // 86_400)) / 10


def requests(told: Told, history: History) -> list[Asked]:
    found: dict[str, Asked] = {}
    for entry in told.entries:
        prefix, _, step = entry.action.partition(".")
        if prefix != "subject-request":
            continue
        identity = entry.object.removeprefix("subject-request:")
        if "statement" in entry.payload:
            identity = entry.body["request"]
        when = datetime.fromisoformat(entry.time)
        if step == "filed":
            said = entry.payload
            received = datetime.fromisoformat(said["received_at"])
            found[identity] = Asked(
                identity, said["right"], said["jurisdiction"], received, history.service.clock()
            )
        elif step == "answered":
            found[identity].outcomes.append(entry.body["outcome"])
        elif step == "confirmed":
            found[identity].confirmed = when
        elif step in ("completed", "refused"):
            found[identity].ended = when
            if step == "refused":
                found[identity].denied_by_officer = entry.body["ground"]
    return list(found.values())


def californian(told: Told, history: History) -> list[Asked]:
    return [item for item in requests(told, history) if item.jurisdiction == "ccpa"]


def _ccpa(told: Told, history: History) -> Figures:
    asked = californian(told, history)
    yield "metrics/requests", f"{len(asked)}"
    yield "deadlines/late", f"{sum(item.late for item in asked)}"
    yield "deadlines/extended", "0"
    unconfirmed = sum(
        (item.confirmed or item.ended or item.now) - item.received > timedelta(days=17)
        for item in asked
        if item.right != "objection"
    )
    yield "deadlines/unconfirmed", f"{unconfirmed}"
    yield "denials/denied", f"{sum(item.result == 'denied' for item in asked)}"


def _ccpa_tables(told: Told, history: History) -> Tables:
    asked = californian(told, history)
    rows: Cells = []
    for right, (label, article) in KINDS.items():
        found = [item for item in asked if item.right == right]
        assert {item.received.year for item in found} <= {2026}
        results = [f"{sum(item.result == result for item in found)}" for result in RESULTS]
        days = sorted(item.days for item in found if item.days is not None)
        half = len(days) // 2
        middle = (days[half] + days[~half]) / 2 if days else None
        rows.append(
            (
                "2026", label, article, f"{len(found)}", *results,
                "none answered" if middle is None else f"{middle}",
            )
        )  # fmt: skip
    yield "metrics/metrics", rows
    grounds = Counter(
        item.denied_by_officer or "a site refused" for item in asked if item.result == "denied"
    )
    yield "denials/grounds", [(name, f"{count}") for name, count in sorted(grounds.items())]


# --- the other reports ----------------------------------------------------------------------------


def _taken(told: Told) -> list[tuple[Entry, Entry]]:
    """Announcement and download, of each download."""
    return [
        (told.releases[entry.object.removeprefix("release:")], entry)
        for entry in told["release.downloaded"]
    ]


def _hipaa(told: Told, history: History) -> Figures:
    now = history.service.clock()
    yield "disclosures/since", f"{now.year - 6}-{now:%m-%d}"
    taken = _taken(told)
    yield "disclosures/downloads", f"{len(taken)}"
    yield "disclosures/recipients", f"{len({entry.actor for _, entry in taken})}"
    purposes = sorted({entry.payload["purpose"] for _, entry in taken})
    yield "exceptions/purposes", ", ".join(purposes)
    yield "answering/reports", _made(told, "hipaa-164-528")


def _hipaa_tables(told: Told, history: History) -> Tables:
    yield "disclosures/disclosures", [
        (
            entry.time, entry.actor, f"model {announced.body['name']}", entry.payload["purpose"],
            max(announced.body["epsilon_by_site"].values(), key=Decimal),
        )
        for announced, entry in _taken(told)
    ]  # fmt: skip


def _made(told: Told, report: str) -> str:
    return f"{sum(entry.payload['report'] == report for entry in told['report.made'])}"


def _spent(told: Told) -> Cells:
    rows: Cells = []
    for plan_id, entry in told.plans.items():
        privacy, best = entry.body["privacy"], dict[str, Decimal]()
        for report in told["site.reported"]:
            if report.body["plan_id"] == plan_id:
                spent = Decimal(report.body["epsilon_spent"])
                best[report.body["site"]] = max(best.get(report.body["site"], spent), spent)
        rows += [
            (
                entry.body["name"], site, f"{spent}", privacy["epsilon"], privacy["delta"],
                privacy["unit"],
            )
            for site, spent in sorted(best.items())
        ]  # fmt: skip
    return rows


def _attacked(told: Told) -> Cells:
    return [
        (
            told.plans[entry.body["plan_id"]].body["name"], entry.body["site"],
            entry.body["audited_epsilon"],
            told.plans[entry.body["plan_id"]].body["privacy"]["epsilon"],
        )
        for entry in told["site.reported"] if entry.body.get("audited_epsilon")
    ]  # fmt: skip


def _last_reports(told: Told) -> list[tuple[str, Entry]]:
    """Name of the plan, and each site's last report for it."""
    last = {
        (told.plans[entry.body["plan_id"]].body["name"], entry.body["site"]): entry
        for entry in told["site.reported"]
    }
    return [(name, last[name, site]) for name, site in sorted(last)]


def _decided(told: Told, kind: str) -> Cells:
    rows: Cells = []
    for name, entry in (told.plans if kind == "plan" else told.releases).items():
        decision = told.decided.get(f"{kind}:{name}")
        if decision is not None:
            said = decision.body
            rows.append(
                (
                    entry.body["name"], said["verdict"], said["decided_by"], said["decided_at"],
                    said["reason"],
                )
            )  # fmt: skip
    return rows


def _cases(told: Told) -> Cells:
    """Each case: the debt of its last entry, and the decision after it."""
    rows = {}
    for entry in told.entries:
        if entry.action in ("erasure.opened", "erasure.joined"):
            debt = entry.payload["debt"]
            rows[entry.payload["case"]] = (
                told.releases[entry.object.removeprefix("release:")].body["name"],
                f"{debt['subjects']}", debt["epsilon"], debt["epsilon_together"], "none yet",
                "open",
            )  # fmt: skip
        if entry.action == "erasure.decided":
            choice = entry.body["choice"]
            state = "retraining" if choice == "retrain" else "closed"
            rows[entry.body["case"]] = (*rows[entry.body["case"]][:4], choice, state)
    return list(rows.values())


def _impact(told: Told, history: History) -> Figures:
    yield "risks/breaches", f"{len(told.breaches)}"
    yield "risks/recalls", f"{len(told['release.recalled'])}"
    yield from _measures(told)


def _impact_tables(told: Told, history: History) -> Tables:
    plans = [(plan_id, entry.body) for plan_id, entry in told.plans.items()]
    yield "description/operations", [
        (
            plan["name"], plan["purpose"], basis(plan),
            f"{plan['task']} on {plan['base_model']['name']}", ", ".join(plan["sites"]),
            f"{sum(r.body['plan_id'] == plan_id for r in told['round.reported'])} of "
            f"{sum(phase['rounds'] for phase in plan['phases'])}",
            told.plan_state(plan_id),
        )
        for plan_id, plan in plans
    ]  # fmt: skip
    yield "necessity/limits", [
        (
            plan["name"], f"{plan['privacy']['max_records_per_subject']}",
            f"{plan['minimum_subjects']}", f"{plan['retention_days']}", plan["held_out_share"],
        )
        for _, plan in plans
    ]  # fmt: skip
    yield "risks/epsilon", _spent(told)
    yield "risks/audited", _attacked(told)
    yield (
        "risks/de-identification",
        [
            (
                name,
                e.body["site"],
                _recall(e.body),
                e.body["deidentification_digest"],
                e.body["dataset_digest"],
            )
            for name, e in _last_reports(told)
        ],
    )
    yield "measures/erasures", _cases(told)
    yield "advice/decisions", _decided(told, "plan")


def _bases(told: Told, history: History) -> Figures:
    plans = [entry.body for entry in told.plans.values()]
    for name, count in Counter(plan["legal_basis"] for plan in plans).items():
        yield f"bases/{name}", f"{count}"
    on_consent = sum(plan["legal_basis"] == "consent" for plan in told.approved.values())
    yield "consent/on-consent", f"{on_consent}"
    yield "special/plans", f"{len(plans)}"
    yield "purpose/other-purposes", f"{sum(row[-1] == 'NO' for row in _purposes(told))}"
    asked = [item for item in requests(told, history) if item.right in ("objection", "restriction")]
    yield "objections/objections", f"{len(asked)}"


def _purposes(told: Told) -> Cells:
    rows: Cells = []
    for entry in told["release.granted"]:
        release = told.releases[entry.object.removeprefix("release:")].body
        purpose, granted = told.plans[release["plan_id"]].body["purpose"], entry.payload["purpose"]
        rows.append(
            (
                release["name"], entry.payload["principal"], purpose, granted,
                "yes" if purpose == granted else "NO",
            )
        )  # fmt: skip
    return rows


def _bases_tables(told: Told, history: History) -> Tables:
    yield "bases/plans", [
        (
            e.body["name"], e.body["purpose"], *basis(e.body).split(": "), told.plan_state(plan_id),
        )
        for plan_id, e in told.plans.items()
    ]  # fmt: skip
    yield "purpose/grants", _purposes(told)
    yield (
        "objections/refusals",
        [
            tuple(
                entry.body[name]
                for name in ("refused_by", "object", "code", "reason", "refused_at")
            )
            for entry in told["refusal.reported"]
        ],
    )


def _annex(told: Told, history: History) -> Figures:
    yield "risk-management/refusals", f"{len(told['refusal.reported'])}"
    yield "conformity/documentation", _made(told, "ai-act-annex-iv")
    for key, value in _measures(told):
        yield key.replace("measures/", "cybersecurity/"), value


def _annex_tables(told: Told, history: History) -> Tables:
    yield "general/versions", [
        (
            e.body["name"], told.release_state(release_id),
            told.plans[e.body["plan_id"]].body["name"],
            told.plans[e.body["plan_id"]].body["purpose"], e.body["base_model"]["name"],
            ", ".join(sorted(e.body["files"])), e.time,
        )
        for release_id, e in told.releases.items()
    ]  # fmt: skip
    rows: Cells = []
    for plan_id, entry in told.plans.items():
        plan = entry.body
        software = {
            r.body["software"] for r in told["site.reported"] if r.body["plan_id"] == plan_id
        }
        phases = [
            f"{p['rounds']} {p['kind']} of {p['steps_per_round']} steps, q {p['sampling_rate']}, "
            f"noise {p['noise_multiplier']}, clip {p['max_grad_norm']}"
            for p in plan["phases"]
        ]
        rows.append(
            (
                plan["name"], plan["task"],
                f"{plan['base_model']['name']} {plan['base_model']['digest']}",
                f"{plan['adapter']['kind']} rank {plan['adapter']['rank']}", "; ".join(phases),
                ", ".join(plan["sites"]), ", ".join(sorted(software)) or "none has reported",
            )
        )  # fmt: skip
    yield "development/plans", rows
    yield (
        "development/data",
        [
            (
                name,
                e.body["site"],
                e.body["dataset_digest"],
                e.body["deidentification_digest"],
                _recall(e.body),
            )
            for name, e in _last_reports(told)
        ],
    )
    yield (
        "oversight/decisions",
        [(kind, *row) for kind in ("plan", "release") for row in _decided(told, kind)],
    )
    yield (
        "testing/metrics",
        [
            (
                e.body["name"],
                "accuracy {accuracy}, macro F1 {macro_f1}".format(**e.body["metrics"]),
                f"{e.body['metrics']['examples']}",
            )
            for e in told.releases.values()
        ],
    )
    yield "testing/audited", _attacked(told)
    rows = []
    for release in told.releases.values():
        body, measured = release.body, release.body.get("evaluation")
        if measured:
            low, high = measured["accuracy_low"], measured["accuracy_high"]
            name, metrics = body["name"], body["metrics"]
            rows.append(
                (name, "everybody", metrics["accuracy"], low, high, f"{metrics['examples']}")
            )
            rows += [
                (name, g["group"], g["accuracy"], g["low"], g["high"], f"{g['examples']}")
                for g in measured["groups"]
            ]
    yield "functioning/groups", rows
    yield "functioning/epsilon", _spent(told)
    yield "changes/runs", [
        (
            told.plans[plan_id].body["name"], told.plan_state(plan_id),
            f"{sum(r.body['plan_id'] == plan_id for r in told['round.reported'])}", e.time,
            e.body["reason"],
        )
        for plan_id, e in told.ended.items()
    ]  # fmt: skip


EVENTS = {
    "risk": ("plan.", "run.ended", "refusal.reported", "release.recalled", "breach.",
             "request.refused"),
    "post-market": ("release.", "grant.revoked", "key.fetched", "notice."),
    "operation": ("round.reported", "site.reported", "site.enrolled", "site.admitted",
                  "site.revoked"),
}  # fmt: skip
"""Which entries serve which end of Art. 12(2); written here once more."""


def _counted(told: Told, section: str) -> list[tuple[str, list[Entry]]]:
    return [
        (action, found)
        for action, found in sorted(told.by_action.items())
        if found and any(
            action == name or (name.endswith(".") and action.startswith(name))
            for name in EVENTS[section]
        )
    ]  # fmt: skip


def _events(told: Told, history: History) -> Figures:
    yield "logging/entries", f"{len(told.entries)}"
    yield "logging/witnesses", "1"
    for section in EVENTS:
        yield f"{section}/count", f"{sum(len(found) for _, found in _counted(told, section))}"
    yield "retention/jurisdictions", "none is named, so nothing is ever shredded"
    yield "retention/retention-rules", "2026-11-26"
    yield "retention/shredded", "0"


def _event_tables(told: Told, history: History) -> Tables:
    for section in EVENTS:
        yield (
            f"{section}/events",
            [
                (action, f"{len(found)}", found[0].time, found[-1].time)
                for action, found in _counted(told, section)
            ],
        )
    yield "retention/rules", [("ai-act-documentation",), ("ai-act-logs",)]


_FIGURES: dict[str, Callable[[Told, History], Figures]] = {
    "overview": _overview,
    "gdpr-30-controller": _controller,
    "gdpr-30-processor": _processor,
    "gdpr-33": _breaches,
    "gdpr-35": _impact,
    "legal-bases": _bases,
    "ai-act-annex-iv": _annex,
    "ai-act-12": _events,
    "ccpa-7102": _ccpa,
    "hipaa-164-528": _hipaa,
}
_TABLES: dict[str, Callable[[Told, History], Tables]] = {
    "overview": _overview_tables,
    "gdpr-30-controller": _controller_tables,
    "gdpr-30-processor": _processor_tables,
    "gdpr-33": _breach_tables,
    "gdpr-35": _impact_tables,
    "legal-bases": _bases_tables,
    "ai-act-annex-iv": _annex_tables,
    "ai-act-12": _event_tables,
    "ccpa-7102": _ccpa_tables,
    "hipaa-164-528": _hipaa_tables,
}


def _recall(report: dict[str, Any]) -> str:
    """What a report says of its site's de-identification."""
    told = [
        f"at least {one['recall_at_least']}, texts with a leak at most {one['leak_share_at_most']} "
        f"({one['method']} of {one['measured_at'][:10]})"
        for one in report.get("deidentification", [])
    ]
    return "; ".join(told) or "not measured"
