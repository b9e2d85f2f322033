"""The site's encrypted store of de-identified records."""

from client.vault.contents import (
    ANY_USE,
    SEARCH_OF_CONTENT,
    Content,
    Dataset,
    DatasetCheck,
    Datasheet,
    Done,
    ErasureResult,
    HeldSubject,
    KeyStore,
    Provenance,
    Record,
    Search,
    SubjectHoldings,
    Terms,
    VaultPaths,
    labels_of,
)
from client.vault.staging import CutOff, Staging
from client.vault.store import Vault

__all__ = [
    "ANY_USE",
    "Content",
    "CutOff",
    "Dataset",
    "DatasetCheck",
    "Datasheet",
    "Done",
    "ErasureResult",
    "HeldSubject",
    "KeyStore",
    "Provenance",
    "Record",
    "SEARCH_OF_CONTENT",
    "Search",
    "Staging",
    "SubjectHoldings",
    "Terms",
    "Vault",
    "VaultPaths",
    "labels_of",
]
