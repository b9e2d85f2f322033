"""The site's folder: its name, its keys, its settings, and the stores that live beside them.

* Private keys are generated here and never leave the folder.
* `Site.create` leaves either a complete folder or none: it builds beside it and renames.
* Nothing is opened before it is needed, so a command fails only on what it uses.
* A site works without a federation for everything that concerns its own data.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from pydantic import ValidationError

from audit.durable import sync_directory, write_durably
from audit.errors import Conflict, MalformedInput, NotFound
from audit.journal import Journal
from audit.keyring import Keyring
from audit.keys import SigningKey
from audit.log import Entry
from audit.statement import SignedStatement
from client.certificates import generate_node_key
from client.kit import Kit
from client.ledger import Ledger
from client.ledger_journal import refuse_rollback
from client.site_paths import SitePaths
from compliance.statements import Document, Name, Time, first_problem, utc_now
from compliance.toml_file import load_toml
from compliance.trust import Trust

SITE_ENVIRONMENT = "FIDUCIARY_SITE"
"""Names the site folder when no `--dir` does."""

DEFAULT_FOLDER = "site"

PRIVATE_FOLDER_MODE = 0o700


def default_folder(environment: Mapping[str, str] | None = None) -> Path:
    """The site folder to use when the operator names none: `$FIDUCIARY_SITE`, else `./site`."""
    settings = os.environ if environment is None else environment
    return Path(settings.get(SITE_ENVIRONMENT) or DEFAULT_FOLDER)


class SiteConfig(Document):
    """`config.toml`: who this site is. Written when the folder is created, never changed."""

    format: Literal["fiduciary.site/1"] = "fiduciary.site/1"
    name: Name
    federation: Name
    created_at: Time

    def to_toml(self) -> str:
        """The file's text. Every value matches a pattern that needs no escaping."""
        return (
            "# This site's identity in its federation. Written by `client join`; do not edit.\n"
            f'format = "{self.format}"\n'
            f'name = "{self.name}"\n'
            f'federation = "{self.federation}"\n'
            f'created_at = "{self.created_at}"\n'
        )


class Site:
    """One site's folder, opened.

    Use it as a context manager, or call `close`. `identity`, `keyring` and `journal` open on first
    use and stay open.
    """

    def __init__(self, paths: SitePaths, config: SiteConfig) -> None:
        self.paths = paths
        self.config = config

    @property
    def name(self) -> str:
        """The site's name in its federation."""
        return self.config.name

    @property
    def federation(self) -> str:
        """The federation's name."""
        return self.config.federation

    @property
    def origin(self) -> str:
        """Origin of the site's journal and name of its key: `<federation>/site/<name>`."""
        return origin_of(self.config)

    @property
    def principal(self) -> str:
        """How the compliance service names this site: `site:<name>`."""
        return f"site:{self.name}"

    @classmethod
    def create(cls, folder: Path, *, name: str, federation: str) -> Site:
        """Make a site's folder with fresh keys, keyring and journal.

        Args:
            folder: Must not exist, or be empty.
            name: 1 to 64 of `a-z 0-9 . _ -`.
            federation: The federation's name; any name at a site that joins none.

        Raises:
            Conflict: When the folder holds something already.
            MalformedInput: When a name is not allowed.
        """
        folder = folder.absolute()
        refuse_occupied(folder)
        try:
            config = SiteConfig(name=name, federation=federation, created_at=utc_now())
        except ValidationError as error:
            raise MalformedInput(
                f"malformed site: {first_problem(error)}",
                fix="use lower-case letters, digits, '.', '_' and '-'",
            ) from error
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.new")
        try:
            _build(SitePaths(staging), config)
            staging.rename(folder)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        sync_directory(folder.parent)
        return cls(SitePaths(folder), config)

    @classmethod
    def open(cls, folder: Path | None = None) -> Site:
        """Open an existing site's folder.

        Args:
            folder: By default `$FIDUCIARY_SITE`, else `./site`.

        Raises:
            NotFound: When there is no site in the folder.
            MalformedInput: When its `config.toml` cannot be read.
        """
        paths = SitePaths((default_folder() if folder is None else folder).absolute())
        return cls(paths, read_config(paths.config))

    @cached_property
    def identity(self) -> SigningKey:
        """The site's Ed25519 key; signs its statements and its journal."""
        return SigningKey.load(self.paths.identity)

    @cached_property
    def keyring(self) -> Keyring:
        """Wraps the data keys of vault and journal."""
        return Keyring.open(self.paths.keyring)

    @cached_property
    def journal(self) -> Journal:
        """The site's own audit log, with origin `<federation>/site/<name>`."""
        return Journal.open(self.paths.journal, self.identity, self.keyring)

    def ledger(self) -> Ledger:
        """Open the privacy ledger; the caller closes it.

        Raises:
            NotFound: When it is missing.
            VerificationFailed: When it is not the ledger that the journal knows.
        """
        ledger = Ledger.open(self.paths.ledger, self.journal, self.principal)
        try:
            refuse_rollback(self.journal, lambda: ledger.last_sequence)
        except BaseException:
            ledger.close()
            raise
        return ledger

    @cached_property
    def kit(self) -> Kit:
        """The kit that the site joined with.

        Raises:
            NotFound: When the site has not joined a federation.
        """
        try:
            stored = json.loads(self.paths.kit.read_bytes())
        except FileNotFoundError as error:
            raise NotFound(
                f"site {self.name} has not joined a federation", fix="run `client join KIT`"
            ) from error
        except ValueError as error:
            raise MalformedInput(
                "malformed kit.json: not JSON", fix="restore it from a backup"
            ) from error
        return Kit.from_body(SignedStatement.from_json(stored).body)

    @property
    def trust(self) -> Trust:
        """Whom this site believes to be the compliance service."""
        return self.kit.trust

    @property
    def token(self) -> str:
        """The site's bearer token.

        Raises:
            NotFound: When the site has not enrolled.
        """
        try:
            return self.paths.token.read_text(encoding="ascii").strip()
        except FileNotFoundError as error:
            raise NotFound(
                f"site {self.name} has not enrolled", fix="run `client join KIT` again"
            ) from error

    def close(self) -> None:
        """Close what was opened. The object opens things again when used again."""
        for name in ("journal", "keyring"):
            opened = self.__dict__.pop(name, None)
            if opened is not None:
                opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def origin_of(config: SiteConfig) -> str:
    """Origin of a site's journal, also the name of its key.

    >>> origin_of(SiteConfig(name="north", federation="demo", created_at="2026-01-31T12:00:00Z"))
    'demo/site/north'
    """
    return f"{config.federation}/site/{config.name}"


def read_config(path: Path) -> SiteConfig:
    """Read a site's `config.toml`.

    Raises:
        NotFound: When the file is absent.
        MalformedInput: When it is not a site's configuration.
    """
    try:
        return load_toml(path, SiteConfig, fix="restore it from a backup")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(
            f"no site in {path.parent}",
            fix=f"run `client join KIT`, or name the folder with --dir or {SITE_ENVIRONMENT}",
        ) from error


def refuse_occupied(folder: Path) -> None:
    """Raise unless a new site may be made in `folder`.

    Raises:
        Conflict: When there is something there.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(
            f"{folder} exists and is not empty",
            fix="choose another folder with --dir; a site's folder is never overwritten",
        )


def _build(paths: SitePaths, config: SiteConfig) -> None:
    paths.root.mkdir(mode=PRIVATE_FOLDER_MODE)
    paths.keys.mkdir(mode=PRIVATE_FOLDER_MODE)
    paths.receipts.mkdir(mode=PRIVATE_FOLDER_MODE)
    origin = origin_of(config)
    identity = SigningKey.generate(origin)
    identity.save(paths.identity)
    write_durably(paths.node_key, generate_node_key(), replace=False)
    Ledger.create(paths.ledger)
    keyring = Keyring.create(paths.keyring)
    journal = Journal.create(paths.journal, origin, identity, keyring)
    try:
        journal.record(
            Entry(
                actor=f"site:{config.name}",
                action="site-created",
                object=f"site:{config.name}",
                subject=None,
                payload={
                    "federation": config.federation,
                    "identity_key": identity.public.encoded(),
                },
            )
        )
    finally:
        journal.close()
    write_durably(paths.config, config.to_toml().encode(), mode=0o644, replace=False)
