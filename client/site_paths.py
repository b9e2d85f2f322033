"""Where everything is in a site's folder.

```
site/
├── config.toml          name and federation; written once
├── policy.toml          what the operator allows; theirs to edit (`client.policy`)
├── deidentify.toml      what replaces identifiers (`client.deidentification.policy`); optional
├── compute.toml         engine, device, memory; theirs too, and optional (`client.compute`)
├── kit.json             the coordinator's signed invitation; its token is spent     (0600)
├── enrolment.json       what the site sent to enrol                              (0600)
├── token                this site's bearer token for the compliance service      (0600)
├── keys/identity.pem    Ed25519; signs reports and the journal                   (0600)
├── keys/node.pem        P-384; TLS and Flower node key                           (0600)
├── keys/certificate.pem the node certificate that the federation's CA issued
├── keys/ca.pem          the federation's CA
├── keyring/             wraps the data keys of vault and journal                 (0700)
├── sealing-keys.json    which keys subjects' identifiers are sealed to; absent before a rotation
├── retention.toml       which laws end retention of the journal; the operator's to write
├── vault.sqlite         de-identified rows, encrypted (`client.vault`)
├── ledger.sqlite        the privacy budget (`client.ledger`)
├── journal.sqlite       this site's own audit log (`audit.log`)
├── models/              base models that are neither embedded nor in the hub's cache
├── measurements/        how well de-identification did here, sealed (`client.recall.kept`) (0700)
├── outbox/              signed statements that the compliance service has not taken yet
├── answers/             the last answer to each running plan, sealed (`client.kept_answers`)
├── receipts/            signed erasure receipts
├── requests.toml        which subjects' requests are answered by themselves; optional
├── requests/            this site's answers to subjects' requests                (0700)
├── packages/            copies of subjects' data to hand over; delete them then   (0700)
├── log-checkpoint       the compliance log's head that this site cosigned last (and its .lock)
├── peers.json           the other sites' keys, as this site first saw them (`client.peers`)
├── sums/                which sums of which rounds were unmasked (`client.reveals`)
├── alarms/              evidence of a compliance log that misbehaved (`client.alarms`)
├── worker.lock          held by `client start`
└── worker.json          what `client start` is doing
```
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SitePaths:
    """Where everything in a site's folder is."""

    root: Path

    @property
    def config(self) -> Path:
        """Name and federation."""
        return self.root / "config.toml"

    @property
    def policy(self) -> Path:
        """What the operator allows."""
        return self.root / "policy.toml"

    @property
    def compute(self) -> Path:
        """How the site computes; absent where the defaults do."""
        return self.root / "compute.toml"

    @property
    def deidentify(self) -> Path:
        """What replaces identifiers; absent where stand-ins do."""
        return self.root / "deidentify.toml"

    @property
    def kit(self) -> Path:
        """The coordinator's invitation; absent at a site without a federation."""
        return self.root / "kit.json"

    @property
    def enrolment(self) -> Path:
        """The signed enrolment statement, kept so that it can be sent again."""
        return self.root / "enrolment.json"

    @property
    def token(self) -> Path:
        """Bearer token for the compliance service; absent until the site enrolled."""
        return self.root / "token"

    @property
    def keys(self) -> Path:
        """Folder of the keys."""
        return self.root / "keys"

    @property
    def identity(self) -> Path:
        """Ed25519 private key, PKCS #8 PEM."""
        return self.keys / "identity.pem"

    @property
    def node_key(self) -> Path:
        """P-384 private key, PKCS #8 PEM."""
        return self.keys / "node.pem"

    @property
    def certificate(self) -> Path:
        """Certificate of the node key; absent until the coordinator admits the site."""
        return self.keys / "certificate.pem"

    @property
    def ca_certificate(self) -> Path:
        """The federation's CA certificate, from the kit."""
        return self.keys / "ca.pem"

    @property
    def keyring(self) -> Path:
        """Folder of the file keyring."""
        return self.root / "keyring"

    @property
    def sealing_keys(self) -> Path:
        """Which keys identifiers are sealed to; absent until one was replaced."""
        return self.root / "sealing-keys.json"

    @property
    def vault(self) -> Path:
        """Encrypted rows."""
        return self.root / "vault.sqlite"

    @property
    def ledger(self) -> Path:
        """Privacy budget."""
        return self.root / "ledger.sqlite"

    @property
    def journal(self) -> Path:
        """The site's own audit log."""
        return self.root / "journal.sqlite"

    @property
    def receipts(self) -> Path:
        """Folder of signed erasure receipts."""
        return self.root / "receipts"

    @property
    def models(self) -> Path:
        """Folder of base models that the operator put there; a `/` in a name is `--`."""
        return self.root / "models"

    @property
    def measurements(self) -> Path:
        """Folder of what was measured of de-identification; absent until the first."""
        return self.root / "measurements"

    @property
    def outbox(self) -> Path:
        """Folder of statements that wait to be sent."""
        return self.root / "outbox"

    @property
    def answers(self) -> Path:
        """Folder of the last answer to each running plan, sealed."""
        return self.root / "answers"

    @property
    def log_checkpoint(self) -> Path:
        """The head of the compliance log that this site cosigned last, a signed note."""
        return self.root / "log-checkpoint"

    @property
    def peers(self) -> Path:
        """The other sites' identity keys; absent until a plan sums securely."""
        return self.root / "peers.json"

    @property
    def reveals(self) -> Path:
        """Folder of what was unmasked; absent until the first."""
        return self.root / "sums"

    @property
    def alarms(self) -> Path:
        """Folder of alarms about the compliance log; absent until the first."""
        return self.root / "alarms"

    @property
    def request_settings(self) -> Path:
        """Which subjects' requests are answered without the operator; absent where defaults do."""
        return self.root / "requests.toml"

    @property
    def requests(self) -> Path:
        """Folder of this site's answers to subjects' requests."""
        return self.root / "requests"

    @property
    def packages(self) -> Path:
        """Folder of copies of subjects' data that the operator hands over."""
        return self.root / "packages"

    @property
    def worker_lock(self) -> Path:
        """Held by `client start`, so that two workers never share a ledger and a node key."""
        return self.root / "worker.lock"

    @property
    def worker_state(self) -> Path:
        """What `client start` is doing, for `client status`."""
        return self.root / "worker.json"
