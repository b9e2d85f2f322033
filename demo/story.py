"""The demo's chapters, told with the product's own commands.

Two hospitals and a bank route messages by topic with one shared model. Each chapter runs real
processes over TLS on loopback; each figure of the results is read from what a command printed.
"""

from __future__ import annotations

import base64
import csv
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from audit.words import count_of
from demo.federation import Federation, acting_as
from demo.processes import CommandFailed, Processes

HERE = Path(__file__).parent

SITES = {"st-elm": "hospital", "lakeside": "hospital", "merchant-bank": "bank"}
SUBJECTS_PER_SITE = 400
RUN_SECONDS = 600
"""How long the demo waits for what takes a minute before it calls it lost."""

FINDINGS_THAT_MUST_HOLD = (
    "log_verified",
    "tamper_detected",
    "erasure_receipt_verified",
    "release_loaded",
)


@dataclass
class Results:
    """What the demo found. Every value is computed by the commands it ran."""

    accuracy: float = 0.0
    macro_f1: float = 0.0
    accuracy_interval: tuple[float, float] = (0.0, 1.0)
    macro_roc_auc: float | None = None
    expected_calibration_error: float | None = None
    labels: list[dict[str, Any]] = field(default_factory=list)
    majority_share: float = 0.0
    epsilon_by_site: dict[str, float] = field(default_factory=dict)
    delta: float = 0.0
    identifiers_planted: int = 0
    identifiers_left: int = 0
    log_entries: int = 0
    log_verified: bool = False
    tamper_detected: bool = False
    tamper_message: str = ""
    erasure_receipt_verified: bool = False
    erased_records: int = 0
    release_loaded: bool = False
    release_files: list[str] = field(default_factory=list)
    predictions: list[dict[str, str]] = field(default_factory=list)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    stop_seconds: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    seconds_by_chapter: dict[str, float] = field(default_factory=dict)


class Story:
    """One run of the demo in `folder`, which is made anew.

    Args:
        folder: Absolute path; everything that the demo writes lies under it.
        console: Where progress is shown.
        subjects_per_site: Synthetic people a site; the plan wants at least 100.
    """

    def __init__(
        self, folder: Path, console: Console, subjects_per_site: int = SUBJECTS_PER_SITE
    ) -> None:
        self._folder = folder
        self._console = console
        self._subjects = subjects_per_site
        self._results = Results()
        self._said: list[str] = []

    def run(self) -> Results:
        """Tell every chapter and return what was found.

        Raises:
            CommandFailed: When a command did not do what the story needs.
        """
        started = time.monotonic()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        with Processes(self._folder) as processes:
            self._processes = processes
            self._federation = Federation(self._folder, processes)
            self._services()
            self._sites_join()
            self._data()
            self._preflight()
            plan = self._plan_approved()
            self._rounds(plan)
            self._release(plan)
            self._erasure()
            self._evidence()
            self._goodbye()
        self._results.seconds = round(time.monotonic() - started, 1)
        return self._results

    # --- chapters ----------------------------------------------------------------------------

    def _services(self) -> None:
        with self._chapter("The compliance service and the coordinator start"):
            self._federation.start("message-routing")

    def _sites_join(self) -> None:
        with self._chapter("Three sites generate their keys and join"):
            for site in SITES:
                self._federation.join(site)
            self._say(", ".join(SITES) + " hold certificates for keys that never left them")

    def _data(self) -> None:
        with self._chapter("Each site de-identifies its notes and stores them encrypted"):
            for number, (site, profile) in enumerate(SITES.items()):
                self._processes.run(
                    "client", "data", "demo", f"notes/{site}",
                    "--profile", profile, "--site", site,
                    "--subjects", str(self._subjects), "--seed", str(number),
                )  # fmt: skip
                self._federation.allow(site, purposes=["message-routing"])
            for site in SITES:
                self._processes.start(
                    f"data-{site}", "client", "data", "add", f"notes/{site}/notes.csv",
                    "--dir", site, "--dataset", "messages",
                    "--subject", "subject_id", "--text", "text", "--label", "label",
                    "--purpose", "message-routing", "--legal-basis", "legitimate-interests",
                )  # fmt: skip
            for site in SITES:
                if self._processes.wait(f"data-{site}", RUN_SECONDS) != 0:
                    raise CommandFailed(self._processes.tail(f"data-{site}"))
            for site in SITES:
                found = self._processes.json(
                    "client", "data", "check-leaks", "--dir", site,
                    "--planted", f"notes/{site}/planted.json",
                )  # fmt: skip
                self._results.identifiers_planted += found["planted"]
                self._results.identifiers_left += found["left"]
            self._say(
                f"{count_of(self._results.identifiers_planted, 'identifier')} planted, "
                f"{self._results.identifiers_left} left in what is stored"
            )

    def _preflight(self) -> None:
        with self._chapter("Each site checks itself before it trains"):
            for site in SITES:
                self._processes.run("client", "check", "--dir", site)

    def _plan_approved(self) -> str:
        with self._chapter("The coordinator submits a plan, an officer approves it"):
            labels = sorted(self._label_counts())
            template = Environment(undefined=StrictUndefined, autoescape=False).from_string(  # noqa: S701  TOML
                (HERE / "plan.toml").read_text(encoding="utf-8")
            )
            (self._folder / "plan.toml").write_text(
                template.render(
                    labels=json.dumps(labels),
                    sites=json.dumps(list(SITES)),
                    nominal_subjects=self._subjects,
                ),
                encoding="utf-8",
            )
            plan_id = self._federation.submit("plan.toml")
            refused = self._processes.exit_code(
                "compliance", "approve", "plan", plan_id, *acting_as("coordinator")
            )
            self._say(f"the coordinator cannot approve its own plan (exit code {refused})")
            self._federation.approve("plan", plan_id)
            return plan_id

    def _rounds(self, plan_id: str) -> None:
        with self._chapter("The sites train under differential privacy"):
            for site in SITES:
                self._processes.start(site, "client", "start", "--dir", site)
            plan = self._watch_rounds(plan_id)
            if plan["stage"] != "completed":
                raise CommandFailed(f"the run failed: {plan['reason']}")
            for site in SITES:
                spent = self._processes.json("client", "budget", "--dir", site)
                self._results.epsilon_by_site[site] = spent["epsilon_spent"]
                self._results.delta = spent["delta"]
            counts = self._label_counts()
            self._results.majority_share = round(max(counts.values()) / counts.total(), 4)
            self._say(f"ε spent by site, from their own ledgers: {self._results.epsilon_by_site}")

    def _watch_rounds(self, plan_id: str) -> dict[str, Any]:
        deadline = time.monotonic() + RUN_SECONDS
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            bar = progress.add_task("waiting for the sites", total=None)
            while time.monotonic() < deadline:
                self._processes.check_alive()
                plan = self._federation.plan_status(plan_id)
                done, total = plan["rounds_done"] or 0, plan["rounds"]
                progress.update(
                    bar, completed=done, total=total, description=f"round {done} of {total}"
                )
                if plan["stage"] in ("completed", "failed"):
                    return plan
                time.sleep(1)
        raise CommandFailed(f"no model after {RUN_SECONDS} s:\n{self._processes.tail('server')}")

    def _release(self, plan_id: str) -> None:
        with self._chapter("A release is approved, granted, fetched and loaded elsewhere"):
            federation, consumer = self._federation, "triage-desk"
            release_id = federation.await_release(plan_id)
            federation.approve("release", release_id)
            key = federation.add_consumer(consumer)
            fetch = federation.fetch_command(release_id, consumer, "model")
            before = self._processes.exit_code(*fetch)
            self._say(f"without a grant the release cannot be fetched (exit code {before})")
            federation.grant(release_id, consumer, key, "message-routing")
            self._processes.run(*fetch)
            self._results.release_files = sorted(p.name for p in (self._folder / "model").iterdir())
            self._results.rounds = self._signed_rounds()
            measured = federation.plan_status(plan_id)
            self._results.accuracy = float(measured["accuracy"])
            self._results.macro_f1 = float(measured["macro_f1"])
            figures = measured["evaluation"]["everybody"]
            self._results.accuracy_interval = tuple(figures["accuracy_interval"])
            self._results.macro_roc_auc = figures["macro_roc_auc"]
            self._results.expected_calibration_error = figures["expected_calibration_error"]
            self._results.labels = measured["evaluation"]["labels"]
            self._load_elsewhere()

    def _load_elsewhere(self) -> None:
        """Load the release with plain transformers and peft, in a process that cannot see us."""
        done = subprocess.run(
            [sys.executable, "-I", str(HERE / "consumer.py"), str(self._folder / "model")],
            capture_output=True,
            text=True,
            cwd=self._folder,
            check=False,
        )
        if done.returncode != 0:
            raise CommandFailed(f"the release does not load with plain peft:\n{done.stderr}")
        loaded = json.loads(done.stdout.splitlines()[-1])
        self._results.predictions = loaded["predictions"]
        self._results.release_loaded = not loaded["fiduciary_imported"]

    def _erasure(self) -> None:
        with self._chapter("A person asks st-elm to be forgotten"):
            with (self._folder / "notes/st-elm/notes.csv").open(
                encoding="utf-8", newline=""
            ) as file:
                records = Counter(row["subject_id"] for row in csv.DictReader(file))
            subject, _ = records.most_common(1)[0]
            erased = self._processes.json("client", "erase", subject, "--dir", "st-elm", "--yes")
            removed = int(erased["erased"]["records_removed"])
            self._results.erased_records = removed
            site_key = self._processes.json("client", "status", "--dir", "st-elm")["identity_key"]
            code = self._processes.exit_code(
                "audit", "verify-receipt", erased["receipt"], "--key", self._log_key(),
                "--site-key", site_key,
            )  # fmt: skip
            self._results.erasure_receipt_verified = code == 0 and removed > 0
            again = self._processes.exit_code(
                "audit", "verify-receipt", erased["receipt"], "--key", self._log_key(),
                "--site-key", self._log_key(),
            )  # fmt: skip
            self._say(
                f"{count_of(removed, 'record')} removed; under a wrong key the receipt fails"
                f" ({again})"
            )

    def _evidence(self) -> None:
        with self._chapter("An outsider verifies the log, then a tampered copy"):
            log = "compliance/compliance.sqlite"
            report = self._processes.json("audit", "verify", log, "--key", self._log_key())
            self._results.log_verified = bool(report["verified"])
            self._results.log_entries = int(report["entries"])
            copy = self._tampered_copy(self._folder / log)
            code = self._processes.exit_code("audit", "verify", str(copy), "--key", self._log_key())
            found = self._processes.json(
                "audit", "verify", str(copy), "--key", self._log_key(), expect=code
            )
            self._results.tamper_detected = code != 0
            first = found["problems"][0]
            self._results.tamper_message = f"entry {first['position']}: {first['what']}"

    def _tampered_copy(self, log: Path) -> Path:
        """Copy the log as a thief of the database would, and flip one bit of one old entry."""
        copy = self._folder / "tampered.sqlite"
        with sqlite3.connect(log) as source, sqlite3.connect(copy) as target:
            source.backup(target)
            position = self._results.log_entries // 2
            (leaf,) = target.execute(
                "SELECT leaf FROM log_entries WHERE position = ?", (position,)
            ).fetchone()
            changed = leaf[:-20] + bytes([leaf[-20] ^ 1]) + leaf[-19:]
            target.execute(
                "UPDATE log_entries SET leaf = ? WHERE position = ?", (changed, position)
            )
        source.close()
        target.close()
        return copy

    def _goodbye(self) -> None:
        with self._chapter("Ctrl-C ends every process"):
            for name in (*SITES, "server", "compliance"):
                self._results.stop_seconds[name] = round(self._processes.stop(name), 1)

    # --- pieces ------------------------------------------------------------------------------

    @contextmanager
    def _chapter(self, title: str) -> Iterator[None]:
        started = time.monotonic()
        with self._console.status(f"[bold]{title}[/] …"):
            yield
        seconds = time.monotonic() - started
        self._results.seconds_by_chapter[title] = round(seconds, 1)
        self._console.print(f"[green]✓[/] [bold]{title}[/] [dim]{seconds:.1f} s[/]")
        for line in self._said:
            self._console.print(f"  {line}", style="dim")
        self._said.clear()

    def _say(self, line: str) -> None:
        """Add a line under the chapter's title, once the chapter has ended."""
        self._said.append(line)

    def _log_key(self) -> str:
        trust = json.loads((self._folder / "compliance/trust.json").read_text("utf-8"))
        return str(trust["log_key"])

    def _label_counts(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        for site in SITES:
            shown = self._processes.json("client", "data", "show", "messages", "--dir", site)
            counts.update(shown["label_counts"])
        return counts

    def _signed_rounds(self) -> list[dict[str, Any]]:
        """The rounds as their signed reports in the release's provenance tell them."""
        provenance = json.loads((self._folder / "model/provenance.json").read_text("utf-8"))
        reports = [
            json.loads(base64.b64decode(signed["payload"]))
            for signed in provenance["predicate"]["rounds"]
        ]
        return [
            {
                "round": report["round"],
                "phase": report["phase"],
                "accuracy": float(report["metrics"]["accuracy"]) if report["metrics"] else None,
                "epsilon": max(map(float, report["epsilon_by_site"].values())),
            }
            for report in reports
        ]
