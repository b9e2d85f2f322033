"""What the service says of itself, to everybody."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter

from compliance.service.access import public
from compliance.service.call import Office
from compliance.service.errors import ServiceUnavailable
from compliance.service.gate import GatedRoute

router: Final = APIRouter(route_class=GatedRoute, tags=["service"])


@router.get("/health")
@public
def health(office: Office) -> dict[str, str]:
    """Whether the service can serve."""
    if not office.database.answers():
        raise ServiceUnavailable("the database does not answer", fix="try again")
    return {"status": "ok"}


@router.get("/v1/trust")
@public
def trust(office: Office) -> dict[str, str]:
    """The public facts, for comparison. Do not learn them here: get `trust.json` from a person."""
    return office.trust.to_json()
