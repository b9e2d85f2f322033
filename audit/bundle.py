"""A log, or some of its entries, in one file that anybody can check with nothing else at hand.

A bundle is a ZIP archive, `fiduciary.bundle/1`. Its parts are those of the log, byte for byte:

| member | holds |
|---|---|
| `manifest.json` | format, kind, origin, key, number of entries; canonical JSON |
| `checkpoint` | the newest signed checkpoint, a C2SP note |
| `cosignatures.jsonl` | what witnesses signed: `{"note":…,"size":…,"witness":…}` |
| `keys/log.vkey`, `keys/witnesses.vkey` | verifier keys, as the exporter knew them |
| `payloads.jsonl` | payloads that the exporter opened, if asked to: `{"payload":…,"position":…}` |
| `README.txt` | how to check it |
| `entries.jsonl` | whole logs: every leaf, one a line (canonical JSON has no line breaks) |
| `checkpoints.jsonl` | whole logs: the checkpoints that were kept: `{"note":…,"size":…}` |
| `proofs/<position>.tlog-proof` | selections: one entry with its proof, C2SP tlog-proof |

* Nothing in it is believed: `audit verify` recomputes the tree of a whole log, and checks each
  proof of a selection. Keys in the bundle are hints; pin the log's key with `--key`.
* An opened payload is the exporter's word, unless it quotes a signed statement whose digest is the
  entry's `object`: then the tree vouches for it, and verification checks that.
* The same log gives the same bytes.
* Reading is bounded: by lines of `MAX_LINE_BYTES`, and by the counts that the manifest states.

Decision record: docs/adr/0016-bundles.md.
"""

from __future__ import annotations

import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

from audit.canonical import canonical_bytes, odd_fields, parse_canonical_object
from audit.checkpoint import read_checkpoint
from audit.errors import MalformedInput, NotFound
from audit.merkle import Frontier, hash_leaf
from audit.source import LogDamaged, LogSource
from audit.storage import META_FORMAT, META_KEY, META_ORIGIN, LogReader, StoredCosignature
from audit.words import count_of

BUNDLE_FORMAT: Final = "fiduciary.bundle/1"

WHOLE: Final = "whole"
SELECTION: Final = "selection"

MANIFEST: Final = "manifest.json"
CHECKPOINT: Final = "checkpoint"
ENTRIES: Final = "entries.jsonl"
CHECKPOINTS: Final = "checkpoints.jsonl"
COSIGNATURES: Final = "cosignatures.jsonl"
LOG_KEY: Final = "keys/log.vkey"
WITNESS_KEYS: Final = "keys/witnesses.vkey"
PAYLOADS: Final = "payloads.jsonl"
README: Final = "README.txt"

MAX_LINE_BYTES: Final = 16 * 1024 * 1024
"""A leaf of the largest payload: 8 MiB in base64, and its clear fields."""

PROGRESS_INTERVAL: Final = 1000
"""Entries between two words of progress while a bundle is written or checked."""

MAX_SMALL_BYTES: Final = 1_000_000
"""Manifest, keys and checkpoint have a few hundred bytes; a note has at most this."""

_MANIFEST_FIELDS: Final = frozenset(
    {"format", "kind", "origin", "key", "log_format", "entries", "size", "payloads"}
)
_UNREADABLE: Final = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)
"""What Python's reader raises for a damaged, encrypted or unknown archive."""


_Read = TypeVar("_Read")


class MalformedBundle(MalformedInput):
    """A file that is no bundle."""

    code = "malformed-bundle"


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself.

    Attributes:
        kind: `whole` or `selection`.
        origin: Name of the log.
        key: Verifier key that the log states.
        log_format: Format of the log.
        entries: Number of entries in the bundle.
        size: Number of entries of the log, as the checkpoint signs it.
        payloads: Number of opened payloads.
    """

    kind: str
    origin: str
    key: str
    log_format: str
    entries: int
    size: int
    payloads: int

    def encoded(self) -> bytes:
        """The file's content."""
        return canonical_bytes({"format": BUNDLE_FORMAT, **self.__dict__})

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Read a manifest.

        Raises:
            MalformedBundle: For a missing or unknown field, or one that is not what it should be.
        """
        try:
            fields = parse_canonical_object(data)
        except MalformedInput as error:
            raise MalformedBundle(f"malformed bundle: {MANIFEST}: {error}") from error
        if fields.keys() != _MANIFEST_FIELDS:
            odd = odd_fields(fields.keys(), _MANIFEST_FIELDS)
            raise MalformedBundle(f"malformed bundle: fields: {odd}")
        if fields.pop("format") != BUNDLE_FORMAT:
            raise MalformedBundle(f"malformed bundle: format is not {BUNDLE_FORMAT}")
        for name, value in fields.items():
            expected = int if name in ("entries", "size", "payloads") else str
            if type(value) is not expected or (expected is int and value < 0):  # type: ignore[operator]
                raise MalformedBundle(f"malformed bundle: {name} is not what it should be")
        manifest = cls(**fields)  # type: ignore[arg-type]
        if manifest.kind not in (WHOLE, SELECTION):
            raise MalformedBundle(f"malformed bundle: kind is neither {WHOLE} nor {SELECTION}")
        return manifest


class Bundle:
    """An opened bundle. Nothing in it is verified by its being open."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        """Use `open_bundle`."""
        self._archive = archive
        self._members = {item.filename: item for item in archive.infolist()}
        if len(self._members) != len(archive.infolist()):
            raise MalformedBundle("malformed bundle: a member appears twice")
        self.manifest = Manifest.parse(self.read(MANIFEST))

    def read(self, name: str, limit: int = MAX_SMALL_BYTES) -> bytes:
        """A whole member.

        Raises:
            MalformedBundle: When it is missing or larger than `limit` bytes.
            LogDamaged: When it cannot be read.
        """
        with self._open(name) as file:
            data: bytes = _guarded(name, lambda: file.read(limit + 1))
        if len(data) > limit:
            raise MalformedBundle(f"malformed bundle: {name} is larger than {limit} bytes")
        return data

    def text(self, name: str, limit: int = MAX_SMALL_BYTES) -> str:
        """A whole member as text."""
        try:
            return self.read(name, limit).decode("utf-8")
        except UnicodeDecodeError as error:
            raise MalformedBundle(f"malformed bundle: {name} is not UTF-8") from error

    def lines(self, name: str, most: int) -> Iterator[bytes]:
        """The lines of a member, without their line breaks.

        Args:
            name: The member.
            most: More lines than this are refused.

        Raises:
            MalformedBundle: When a line is too long, there are too many, or the last has no end.
            LogDamaged: When it cannot be read.
        """
        with self._open(name) as file:
            reader = io.BufferedReader(file, 1 << 20)
            number = 0
            while line := _guarded(name, lambda: reader.readline(MAX_LINE_BYTES + 1)):
                number += 1
                if number > most:
                    raise MalformedBundle(
                        f"malformed bundle: {name} has more than {count_of(most, 'line')}, as"
                        " stated"
                    )
                if not line.endswith(b"\n"):
                    raise MalformedBundle(
                        f"malformed bundle: line {number} of {name} does not end, or has more than"
                        f" {MAX_LINE_BYTES} bytes"
                    )
                yield line[:-1]

    def names(self) -> list[str]:
        """Names of the members."""
        return list(self._members)

    def cosignatures(self) -> list[StoredCosignature]:
        """What witnesses have signed."""
        found = []
        for line in self.lines(COSIGNATURES, MAX_SMALL_BYTES):
            fields = _fields(line, COSIGNATURES, {"witness": str, "size": int, "note": str})
            found.append(StoredCosignature(fields["witness"], fields["size"], fields["note"]))
        return sorted(found, key=lambda item: (item.size, item.witness))

    def payloads(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Position and content of the payloads that the exporter opened."""
        for line in self.lines(PAYLOADS, self.manifest.payloads) if self.manifest.payloads else ():
            fields = _fields(line, PAYLOADS, {"position": int, "payload": dict})
            yield fields["position"], fields["payload"]

    @contextmanager
    def _open(self, name: str) -> Iterator[Any]:
        if name not in self._members:
            raise MalformedBundle(f"malformed bundle: it has no {name}")
        with _guarded(name, lambda: self._archive.open(name)) as file:
            yield file


def _guarded(name: str, read: Callable[[], _Read]) -> _Read:
    try:
        return read()
    except _UNREADABLE as error:
        raise LogDamaged(f"{name} of the bundle is damaged: {error}") from error


def _fields(line: bytes, name: str, kinds: Mapping[str, type]) -> dict[str, Any]:
    fields = parse_canonical_object(line)
    if fields.keys() != kinds.keys():
        raise MalformedBundle(f"malformed bundle: {name}: expected the fields {sorted(kinds)}")
    for field, kind in kinds.items():
        if type(fields[field]) is not kind:
            raise MalformedBundle(f"malformed bundle: {name}: {field} is not what it should be")
    return fields


@contextmanager
def open_bundle(path: Path) -> Iterator[Bundle]:
    """Open a bundle for reading.

    Raises:
        NotFound: When there is no such file.
        MalformedBundle: When it is no bundle.
    """
    if not path.is_file():
        raise NotFound(f"no bundle at {path}", fix="check the path")
    try:
        archive = zipfile.ZipFile(path)
    except _UNREADABLE as error:
        raise MalformedBundle(f"malformed bundle: not a ZIP archive: {error}") from error
    with archive:
        yield Bundle(archive)


@contextmanager
def open_bundle_source(path: Path) -> Iterator[LogSource]:
    """A whole log in a bundle, as a log.

    Raises:
        NotFound: When there is no such file.
        MalformedBundle: When it is no bundle, or one of chosen entries only.
    """
    with open_bundle(path) as bundle:
        if bundle.manifest.kind != WHOLE:
            raise MalformedBundle(
                f"{path} holds {count_of(bundle.manifest.entries, 'chosen entry')}, not the whole"
                " log",
                fix="check it with `audit verify`; everything else needs the whole log",
            )
        yield BundleSource(bundle)


class BundleSource:
    """A whole log in a bundle, as the verifier reads it."""

    stores_hashes = False

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def meta(self) -> Mapping[str, str]:
        """The facts that the log states about itself."""
        manifest = self._bundle.manifest
        return {
            META_FORMAT: manifest.log_format,
            META_ORIGIN: manifest.origin,
            META_KEY: manifest.key,
        }

    def expected_entries(self) -> int:
        """The stated number of entries."""
        return self._bundle.manifest.entries

    def leaves(self, after: int = -1) -> Iterator[tuple[int, Any]]:
        """Position and bytes of the entries that follow `after`."""
        lines = self._bundle.lines(ENTRIES, self._bundle.manifest.entries)
        return islice(enumerate(lines), after + 1, None)

    def hashes(self) -> Iterator[tuple[Any, Any]]:
        """A bundle has none: they are recomputed."""
        return iter(())

    def count_hashes(self) -> int:
        """None are kept."""
        return 0

    def checkpoints(self) -> Iterator[tuple[int, str]]:
        """The checkpoints that the log kept, and the newest."""
        found = []
        for line in self._bundle.lines(CHECKPOINTS, self._bundle.manifest.entries + 1):
            fields = _fields(line, CHECKPOINTS, {"size": int, "note": str})
            found.append((fields["size"], fields["note"]))
        note = self._bundle.text(CHECKPOINT)
        newest = (read_checkpoint(note).size, note)
        return iter(sorted([*(item for item in found if item[0] != newest[0]), newest]))

    def cosignatures(self) -> Sequence[StoredCosignature]:
        """What witnesses have signed."""
        return self._bundle.cosignatures()

    def reader(self) -> LogReader:
        """Single entries and proofs: a bundle keeps no hashes, so all of them are computed."""
        return _BundleReader(self, self._bundle.text(CHECKPOINT))


class _BundleReader:
    """`LogReader` over a whole bundle: every hash is computed once, 64 bytes an entry in memory."""

    def __init__(self, source: BundleSource, note: str) -> None:
        self._source = source
        self._note = note
        self._hashes: dict[tuple[int, int], bytes] = {}
        frontier = Frontier()
        for _, leaf in source.leaves():
            frontier, nodes = frontier.append(hash_leaf(leaf))
            self._hashes.update(((level, index), value) for level, index, value in nodes)
        self._size = frontier.size

    def size(self) -> int:
        """Number of entries."""
        return self._size

    def read_leaf(self, position: int) -> bytes | None:
        """The entry at `position`."""
        if position >= self._size:
            return None
        return next((bytes(leaf) for _, leaf in self._source.leaves(position - 1)), None)

    def read_leaves(self, positions: Sequence[int]) -> list[bytes | None]:
        """The entries at some positions."""
        return [self.read_leaf(position) for position in positions]

    def read_hashes(self, nodes: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """The hashes of nodes."""
        return [self._hashes.get(node) for node in nodes]

    def read_proof(
        self, position: int, nodes: Sequence[tuple[int, int]]
    ) -> tuple[bytes | None, list[bytes | None]]:
        """An entry, and the hashes of nodes."""
        return self.read_leaf(position), self.read_hashes(nodes)

    def head(self) -> tuple[str | None, int]:
        """The newest checkpoint, and the number of entries."""
        return self._note, self._size

    def cosignatures(self) -> list[StoredCosignature]:
        """What witnesses have signed."""
        return list(self._source.cosignatures())

    def read_meta(self, name: str) -> str | None:
        """A fact about the log."""
        return self._source.meta().get(name)
