"""The site's encrypted store of de-identified records."""

from client.vault.contents import (
    Dataset,
    DatasetCheck,
    Datasheet,
    ErasureResult,
    HeldSubject,
    KeyStore,
    Provenance,
    Record,
    SubjectHoldings,
    VaultPaths,
)
from client.vault.staging import Staging
from client.vault.store import Vault

__all__ = [
    "Dataset",
    "DatasetCheck",
    "Datasheet",
    "ErasureResult",
    "HeldSubject",
    "KeyStore",
    "Provenance",
    "Record",
    "Staging",
    "SubjectHoldings",
    "Vault",
    "VaultPaths",
]
