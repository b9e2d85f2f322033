"""One exchange with the sites: ask, wait, judge each answer, and know when enough is enough.

The rules, with the plan's quorum and deadline (Flower's own status is not consulted):

* A site is asked when it is online; one that comes online before the end is still asked.
* A site whose connection or process ended before it answered is asked again when it is back, and so
  is one that could not ask the compliance service. It trains a round once, whoever asks how often,
  and gives the answer that it kept (`client.kept_answers`).
* Every site of the plan ends up settled: accepted, or absent with a reason.
* The exchange ends when all are settled; at the deadline; when a quorum was accepted and only
  sites that are offline are missing (one that took part in the last round gets a moment to come
  back); or when a quorum has become impossible.
* A late answer finds no taker. The site takes part in the next round.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from server.errors import MalformedReply
from server.superlink import Answer, Lost, TaskKind

MAX_ASKED = 20
"""How often a site is asked in one exchange: one that dies of each task is not fed for ever."""

ASK_AGAIN_SECONDS = 2.0
"""How long a site that lacked the compliance service is left alone."""

PASSING = frozenset({"compliance-unreachable"})
"""Refusals that cost nothing and pass by themselves."""

ARRIVAL_WAIT_SECONDS = 0.25
"""How long at most until the deadline, a stop or a site that came online is noticed."""

OFFLINE_GRACE_SECONDS = 3.0
"""A site whose connection was cut for a moment is not counted out at once."""

MAX_REASON_CHARACTERS = 300
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")

T = TypeVar("T")


class Wire(Protocol):
    """The part of `server.superlink.SuperLink` that an exchange needs."""

    def online(self) -> set[str]:
        """Sites that can be asked."""

    def send(
        self,
        run_id: int,
        kind: TaskKind,
        tasks: Mapping[str, dict[str, str | int]],
        arrays: bytes,
        *,
        reply_bytes: int,
    ) -> dict[str, str]:
        """Ask sites; gives site to message id."""

    def collect(self, run_id: int, waiting: dict[str, str]) -> dict[str, Answer | Lost]:
        """What has arrived."""

    def discard(self, message_ids: Collection[str]) -> None:
        """Stop waiting."""

    def wait_for_arrival(self, seconds: float) -> None:
        """Sleep until something arrives."""


@dataclass(frozen=True)
class Task:
    """What the sites are asked.

    Attributes:
        run_id: From `SuperLink.open_run`.
        kind: What is asked.
        plan_id: The plan.
        round: The round.
        arrays: The packed global state; empty where none is needed.
        sites: All sites that are asked.
        quorum: How many answers are needed.
        deadline_seconds: How long they may take.
        returning: Sites that took part in the last round.
        documents: JSON of a secure sum, by site.
        reply_bytes: About what an honest answer takes; that of `arrays` where it is None.
    """

    run_id: int
    kind: TaskKind
    plan_id: str
    round: int
    arrays: bytes = field(repr=False)
    sites: tuple[str, ...]
    quorum: int
    deadline_seconds: float
    returning: frozenset[str] = frozenset()
    documents: Mapping[str, str] = field(default_factory=dict, repr=False)
    reply_bytes: int | None = None

    def content_for(self, site: str) -> dict[str, str | int]:
        """What one site is told beside the arrays."""
        content: dict[str, str | int] = {"plan_id": self.plan_id, "round": self.round}
        if site in self.documents:
            content["document"] = self.documents[site]
        return content


@dataclass(frozen=True)
class Exchange(Generic[T]):
    """How it went: every site of the task is in exactly one of the two."""

    accepted: dict[str, T]
    absent: dict[str, str]
    seconds: float


class Stopped(Exception):
    """The coordinator was asked to stop while it waited."""


def exchange(
    wire: Wire,
    task: Task,
    judge: Callable[[str, Answer], T],
    *,
    clock: Callable[[], float],
    stop: threading.Event,
    watch: Callable[[Collection[str], Mapping[str, str], Collection[str]], None],
) -> Exchange[T]:
    """Ask the sites and wait for their answers.

    Args:
        wire: The SuperLink.
        task: What to ask, of whom, for how long.
        judge: Gives what an answer is worth, or raises `MalformedReply`.
        clock: Monotonic seconds.
        stop: Set when the coordinator is asked to stop.
        watch: Told who has answered, who is absent and why, and who is still out.

    Raises:
        Stopped: When `stop` was set.
    """
    started = clock()
    accepted: dict[str, T] = {}
    absent: dict[str, str] = {}
    waiting: dict[str, str] = {}
    asked: dict[str, int] = {}
    again: dict[str, tuple[float, str]] = {}  # from when on, and what came of it before
    while True:
        if stop.is_set():
            wire.discard(waiting.values())
            raise Stopped
        elapsed = clock() - started
        new = {
            site
            for site in set(task.sites) & wire.online()
            if site not in asked or (site in again and elapsed >= again[site][0])
        }
        if new and elapsed < task.deadline_seconds:
            size = len(task.arrays) if task.reply_bytes is None else task.reply_bytes
            tasks = {site: task.content_for(site) for site in new}
            sent = wire.send(task.run_id, task.kind, tasks, task.arrays, reply_bytes=size)
            waiting.update(sent)
            for site in sent:
                asked[site] = asked.get(site, 0) + 1
                again.pop(site, None)
        for site, answer in wire.collect(task.run_id, waiting).items():
            del waiting[site]
            verdict = _verdict(site, answer, judge)
            if isinstance(verdict, _Absent) and _passes(answer) and asked[site] < MAX_ASKED:
                pause = 0.0 if isinstance(answer, Lost) else ASK_AGAIN_SECONDS
                again[site] = (elapsed + pause, verdict.reason)
            elif isinstance(verdict, _Absent):
                absent[site] = verdict.reason
            else:
                accepted[site] = verdict
        watch(accepted, absent, waiting)
        expected = set(waiting) | (set(again) & wire.online())
        if _ended(task, accepted, absent, expected, elapsed):
            break
        remaining = task.deadline_seconds - elapsed
        wire.wait_for_arrival(max(0.01, min(ARRIVAL_WAIT_SECONDS, remaining)))
    wire.discard(waiting.values())
    for site in task.sites:
        if site in waiting:
            absent[site] = f"no answer within the deadline of {task.deadline_seconds:g} seconds"
            if elapsed < task.deadline_seconds:
                absent[site] = "not waited for: a quorum had become impossible"
        elif site not in accepted and site not in absent:
            absent[site] = again[site][1] if site in again else "offline"
    return Exchange(accepted, absent, clock() - started)


@dataclass(frozen=True)
class _Absent:
    reason: str


def _passes(answer: Answer | Lost) -> bool:
    """Whether asking again may bring an answer."""
    if isinstance(answer, Lost):
        return answer.again
    return answer.refused and answer.report.get("code") in PASSING


def _verdict(site: str, answer: Answer | Lost, judge: Callable[[str, Answer], T]) -> T | _Absent:
    match answer:
        case Lost(reason):
            return _Absent(reason)
        case Answer(refused=True):
            said = (str(answer.report.get(name, "")) for name in ("code", "reason"))
            return _Absent(plain("refused: " + ": ".join(said)))
        case Answer():
            try:
                return judge(site, answer)
            except MalformedReply as error:
                return _Absent(plain(f"answer not accepted: {error}"))


def _ended(
    task: Task,
    accepted: Collection[str],
    absent: Collection[str],
    waiting: Collection[str],
    elapsed: float,
) -> bool:
    undecided = set(task.sites) - set(accepted) - set(absent)
    if not undecided or elapsed >= task.deadline_seconds:
        return True
    if len(accepted) + len(undecided) < task.quorum:
        return True
    if len(accepted) < task.quorum or waiting:
        return False
    return elapsed >= OFFLINE_GRACE_SECONDS or not undecided & task.returning


def plain(text: str) -> str:
    """One bounded line of somebody else's words, fit for a report and a terminal."""
    line = _CONTROL.sub(" ", text).strip()
    return line[:MAX_REASON_CHARACTERS] or "no reason given"
