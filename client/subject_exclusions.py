"""Subjects who objected or asked for restriction: kept, not used, and told of in the journal.

* A subject is excluded first, so that no round begins with them; the entry comes next, and a crash
  between the two leaves an exclusion that `journal_exclusions` gives its entry.
* An exclusion ends the other way round: the entry comes first, so that no record is used before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from audit.errors import NotFound
from audit.log import Entry
from audit.words import count_of
from client.kept_answers import KeptAnswers
from client.site import Site
from client.vault.excluding import exclude, lift, mark_journalled
from client.vault.store import Vault

EXCLUDED: Final = "subject-excluded"
INCLUDED: Final = "subject-included"


def exclude_subjects(
    site: Site, vault: Vault, subject_ids: Sequence[str], request_id: str, now: str
) -> None:
    """Exclude subjects, also ones of whom there is no record yet.

    Args:
        site: Whose journal says so.
        vault: The site's data.
        subject_ids: As they stand in the source; empty ones are passed over.
        request_id: The request that it answers.
        now: RFC 3339 time.
    """
    with vault.transaction() as connection:
        for subject_id in subject_ids:
            if subject_id.strip():
                exclude(connection, vault.pseudonym(subject_id), request_id, now)
    # What was trained with a subject and waits to be asked for again does not leave.
    KeptAnswers(site.paths.answers, site.keyring, site.name).drop_all()
    journal_exclusions(site, vault)


def lift_exclusions(site: Site, vault: Vault, request_id: str, reason: str) -> int:
    """End the exclusion that a request brought.

    Args:
        site: Whose journal says so.
        vault: The site's data.
        request_id: The request, or the first digits of its id.
        reason: For the record.

    Returns:
        How many subjects' records may be used again.

    Raises:
        NotFound: When no exclusion came from it.
    """
    named = [one for one in vault.exclusions() if one.request.startswith(request_id)]
    requests = {one.request for one in named}
    if len(requests) != 1 or not request_id:
        raise NotFound(
            f"{count_of(len(requests), 'request')} with an exclusion have an id that begins so",
            fix="give the id of the objection or restriction",
        )
    request = requests.pop()
    for one in named:  # the entry first: records must not be used before it says so
        payload = {"request": request, "reason": reason}
        site.journal.record(_entry(site, INCLUDED, one.subject, payload))
    with vault.transaction() as connection:
        return len(lift(connection, request))


def journal_exclusions(site: Site, vault: Vault) -> None:
    """Give each exclusion its journal entry, also one that a crash left without."""
    for one in vault.exclusions():
        if one.journalled:
            continue
        payload = {"request": one.request, "excluded_at": one.excluded_at}
        site.journal.record(_entry(site, EXCLUDED, one.subject, payload))
        with vault.transaction() as connection:
            mark_journalled(connection, one.subject)


def _entry(site: Site, action: str, subject: str, payload: dict[str, str]) -> Entry:
    return Entry(
        actor=site.principal,
        action=action,
        object=f"subject:{subject}",
        subject=subject,
        payload=payload,
        outlives_subject=True,  # evidence that an objection was heeded; it names a pseudonym
    )
