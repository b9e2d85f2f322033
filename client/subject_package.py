"""A copy of a subject's data, for the subject (GDPR Art. 15 and 20; CCPA 1798.110 and 1798.130).

It says what is held and for which purposes, on which basis, which plans could use it, which models
came out of them, who may use those, how long what is kept; and holds the subject's own records as
this site has them, which is de-identified. It is one JSON document.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from client.site import Site
from client.subject_story import Story, tell_story
from client.subject_trail import Use
from client.vault.contents import uses_of
from client.vault.store import Vault
from compliance.subject_requests_views import SitePart, TrainedRelease

FORMAT: Final = "fiduciary.subject-package/1"


def make_package(
    site: Site,
    vault: Vault,
    known: Sequence[str],
    part: SitePart,
    releases: Sequence[TrainedRelease],
    retention_days: Mapping[str, int],
    made_at: str,
) -> bytes:
    """Make the copy.

    Args:
        site: Who makes it.
        vault: The site's data.
        known: Ids by which the site knows the subject.
        part: The request.
        releases: Releases of plans that name this site, and their recipients.
        retention_days: How long each plan keeps what came of it.
        made_at: RFC 3339 time.
    """
    stories = [tell_story(site, vault, subject_id) for subject_id in known]
    plans = {
        str(event.details["plan"]) for story in stories for use in Use for event in story.of(use)
    }
    concerned = [release for release in releases if release.plan_id in plans]
    document: dict[str, Any] = {
        "format": FORMAT,
        "request": part.request_id,
        "right": part.right,
        "site": site.name,
        "federation": site.federation,
        "made_at": made_at,
        "subjects": [_subject(vault, story) for story in stories],
        "releases": [
            {
                **release.model_dump(mode="json"),
                "retention_days": retention_days.get(release.plan_id),
            }
            for release in concerned
        ],
        "retention": {
            "records": "until the site removes the dataset, or the subject is erased",
            "models": "as many days after its release as `retention_days` says",
        },
    }
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def _subject(vault: Vault, story: Story) -> dict[str, Any]:
    told = story.to_json()
    told.pop("pseudonym", None)  # it says nothing to the subject, and links what others hold
    told["records"] = [
        {
            "dataset": dataset.name,
            "content": record.text,
            "label": record.label,
            **uses_of(record, dataset.datasheet),
        }
        for dataset, _ in story.holdings.datasets
        for record in vault.examples(dataset.name)
        if record.subject == story.holdings.pseudonym
    ]
    return told
