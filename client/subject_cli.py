"""`client subject`: what this site can tell of one data subject."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from audit.options import Json
from audit.terminal import print_json
from audit.words import count_of
from client.options import FolderOption
from client.presentation import say, short
from client.site import Site

if TYPE_CHECKING:
    from client.subject_story import Event, Forgetting, Story


def subject(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="SUBJECT",
            help="The subject's id, as it stood in the file's subject column.",
            show_default=False,
        ),
    ],
    folder: FolderOption = None,
    json: Json = False,
) -> None:
    """Tell what this site holds of a data subject, and which plans could use it.

    The answer to a request for access, from the vault and from this site's journal, decrypted with
    the subject's own key: records that came in, plans that might sample them for training or count
    them in an evaluation, and who approved each plan and when. Sampling is at random and nobody
    notes who was drawn, so a plan *could use* the records; no one can say whether it did.

    After `client erase` nothing of that can be read any more, here or in any copy of the journal;
    the command then says when the subject was forgotten, and where the receipt is. The id is never
    printed: the answer names the keyed pseudonym. Needs no network.

    Exit codes: 0 found, also when the subject was forgotten; 4 no such subject.

    Examples: `client subject P-00417` · `client subject P-00417 --json | jq .trained`
    """
    from client.subject_story import tell_story
    from client.vault.store import Vault

    with Site.open(folder) as site, Vault.open(site.paths, site.keyring) as vault:
        story = tell_story(site, vault, subject)
    if json:
        print_json(story.to_json())
    else:
        _print(story)


def _print(story: Story) -> None:
    say(f"subject [bold]{story.holdings.pseudonym[:16]}…[/] (keyed pseudonym) at {story.site}")
    if story.state == "forgotten":
        say("[yellow]forgotten[/]: this site holds no record of the subject")
    for dataset, records in story.holdings.datasets:
        say(f"holds {count_of(records, 'record')} in {_version(dataset.name, dataset.version)}")
    if story.state == "no-records":
        say("holds no record: the datasets that had some were removed or replaced")
    for event in story.events:
        for line in _lines(event):
            say(line)
    if story.forgetting is not None:
        _print_forgetting(story.forgetting)
    if story.unreadable_entries:
        say(
            f"{count_of(story.unreadable_entries, 'journal entry')} about the subject can never"
            " be read again: their key is destroyed"
        )


def _print_forgetting(forgetting: Forgetting) -> None:
    say(
        f"{forgetting.erased_at}  erased: {count_of(forgetting.records_removed, 'record')}, and"
        " the data key"
    )
    for plan_id in forgetting.plans:
        say(f"  plan {short(plan_id)} may have used them")
    for path in forgetting.receipts:
        say(f"  receipt {escape(str(path))}")
    if not forgetting.receipts:
        say("  [yellow]no receipt yet:[/] run `client erase` again to finish")


def _lines(event: Event) -> list[str]:
    from client.subject_trail import INGESTED, READMITTED, REVEALED, Use

    details = event.details
    what, more = escape(event.action), []
    if event.action == INGESTED:
        came = _version(details["dataset"], details["version"])
        what = f"{count_of(details['records'], 'record')} came into {came}"
        more = [f"for {_joined(details['purposes'])}, on {details['legal_basis'] or 'no basis'}"]
    elif event.action == READMITTED:
        what, more = "readmitted", [f"because: {escape(str(details['reason']))}"]
    elif event.action == REVEALED:
        of = _version(details["dataset"], details["version"])
        records = count_of(details["records"], "record")
        what = f"originals were put back into {records} of {of} and shown"
        more = [f"because: {escape(str(details['reason']))}"]
    elif event.action in tuple(Use):
        use = "train on" if event.action == Use.TRAINED else "be evaluated with"
        what = f"from now on, plan {escape(details['plan_name'])} could {use} them"
        more = _about_plan(details)
    head = f"{event.time}  {what} [dim](entry {event.position})[/]"
    return [head, *(f"  {line}" for line in more)]


def _about_plan(details: Mapping[str, Any]) -> list[str]:
    approval = details["approval"]
    held = [_version(one["name"], one["version"]) for one in details["datasets"]]
    return [
        f"plan {short(details['plan'])}: {_joined(held)}, for {details['purpose']}, on "
        f"{details['legal_basis']}",
        f"approved by {escape(approval['decided_by'])} at {approval['decided_at']}: "
        f"entry {approval['position']} of {escape(approval['log'])}",
    ]


def _version(name: str, version: int) -> str:
    return f"{name} (version {version})"


def _joined(names: Iterable[str]) -> str:
    return ", ".join(names) or "no purpose"
