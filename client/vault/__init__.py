"""The site's encrypted store of de-identified records."""

from client.vault.contents import (
    SEARCH_OF_CONTENT,
    Content,
    Dataset,
    DatasetCheck,
    Datasheet,
    ErasureResult,
    HeldSubject,
    KeyStore,
    Provenance,
    Record,
    Search,
    SubjectHoldings,
    VaultPaths,
    labels_of,
)
from client.vault.staging import Staging
from client.vault.store import Vault

__all__ = [
    "Content",
    "Dataset",
    "DatasetCheck",
    "Datasheet",
    "ErasureResult",
    "HeldSubject",
    "KeyStore",
    "Provenance",
    "Record",
    "SEARCH_OF_CONTENT",
    "Search",
    "Staging",
    "SubjectHoldings",
    "Vault",
    "VaultPaths",
    "labels_of",
]
