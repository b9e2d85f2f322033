"""Notes out of FHIR R4 bundles, each with its patient.

* A record is a `DocumentReference` with text in an attachment (inline base64, or a `Binary` of the
  same bundle), or an `Observation` with a `valueString` or notes. An Observation without words is
  no note, and none that was entered in error is read.
* The subject is the `Patient` that the resource refers to. References are resolved within the
  bundle only, as R4 section 2.36.4 says: by `fullUrl`, relative to it, by `Type/id`, contained
  ones, and logical ones by identifier. Nothing is fetched. A record whose patient is not in the
  bundle has no subject: without the patient's names they could not be searched for.
* Names, telephone numbers, addresses and identifiers of the patient come as columns, and are
  searched for in all of the patient's records unless other `--known` columns are named.
* A folder is read bundle by bundle: one bundle is in memory, not all.

HL7 FHIR Release 4 (4.0.1): http://hl7.org/fhir/R4/bundle.html#references
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin

from audit.errors import NotFound
from client.sources.source import SEVERAL
from client.tables import MalformedTable, Row, missing_columns, row_of

MAX_BUNDLE_BYTES: Final = 512 * 1024 * 1024
"""One bundle is read into memory. Larger exports come as many bundles."""

Resource = Mapping[str, Any]

COLUMNS: Final = (
    "subject", "mrn", "text", "resource", "type", "category", "date", "name", "birth_date",
    "phone", "email", "address", "identifier",
)  # fmt: skip
"""`subject` is the Patient's id, `mrn` its medical record number; `type` and `category` are words
where the bundle has some, else codes."""

KNOWN: Final = ("name", "birth_date", "phone", "email", "address", "identifier")


class FhirBundle:
    """One bundle, or a folder of bundles.

    Args:
        path: A `.json` file, or a folder of such files.
    """

    folder: Path | None = None
    usual_columns: Mapping[str, tuple[str, ...]] = {
        "subject": ("subject",),
        "text": ("text",),
        "known": KNOWN,
    }

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def name(self) -> str:
        """The file's or folder's name."""
        return self._path.name

    def rows(self, columns: Sequence[str], lists: Collection[str] = ()) -> Iterator[Row]:
        """Every note; see `client.sources.source.Source.rows`."""
        if missing := [name for name in columns if name not in COLUMNS]:
            raise missing_columns(self.name, missing, COLUMNS, "a bundle")
        seen = False
        for path in self._files():
            for place, record in _Bundle(path).notes():
                seen = True
                where = place if path == self._path else f"{path.name}, {place}"
                yield row_of(self.name, where, record, columns, lists)
        if not seen:
            raise MalformedTable(
                f"{self.name} holds neither documents nor observations with words",
                fix="export DocumentReference or Observation resources with their Patient",
            )

    def _files(self) -> list[Path]:
        if self._path.is_file():
            return [self._path]
        files = sorted(self._path.glob("*.json")) if self._path.is_dir() else []
        if not files:
            raise NotFound(f"there is no bundle {self._path}", fix="check the path")
        return files


class _Bundle:
    """One bundle in memory, and what its references lead to."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._resources: list[tuple[str, str, Resource]] = []
        self._by_url: dict[str, Resource] = {}
        self._by_identifier: dict[tuple[str, str], Resource] = {}
        for number, entry in enumerate(self._entries(path), start=1):
            resource = _object(entry.get("resource"))
            if not resource:
                continue  # an answer or a request without a resource
            url = _text(entry.get("fullUrl"))
            kind, own_id = _text(resource.get("resourceType")), _text(resource.get("id"))
            self._resources.append((f"entry {number}", url, resource))
            for address in (url, f"{kind}/{own_id}" if own_id else ""):
                if address and self._by_url.setdefault(address, resource) is not resource:
                    raise self._malformed(f"entry {number}", "two resources have one address")
            if kind == "Patient":
                for key in _identifiers(resource):
                    self._by_identifier.setdefault(key, resource)

    def notes(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Each note: where it is, and its columns."""
        readers: Mapping[str, Callable[[str, str, Resource], str | None]] = {
            "DocumentReference": self._document,
            "Observation": self._observation,
        }
        for place, url, resource in self._resources:
            kind = _text(resource.get("resourceType"))
            if kind not in readers or resource.get("status") == "entered-in-error":
                continue
            if resource.get("docStatus") == "entered-in-error":
                continue
            text = readers[kind](place, url, resource)
            if text is None:
                continue
            patient = self._resolved(url, resource, resource.get("subject"), "Patient")
            moments = ("date", "effectiveDateTime", "issued")
            yield (
                place,
                {
                    "text": text,
                    "resource": kind,
                    "type": _concept(resource.get("type") or resource.get("code")),
                    "category": _concept(next(iter(_list(resource.get("category"))), {})),
                    "date": next(filter(None, (_text(resource.get(key)) for key in moments)), ""),
                    **_patient_columns(patient),
                },
            )

    def _document(self, place: str, url: str, resource: Resource) -> str:
        pieces = []
        for content in _list(resource.get("content")):
            attachment = _object(_object(content).get("attachment"))
            source, data = attachment, attachment.get("data")
            if data is None and attachment.get("url"):
                link = {"reference": attachment["url"]}
                source = self._resolved(url, resource, link, "Binary") or {}
                data = source.get("data")
            declared = _text(source.get("contentType") or attachment.get("contentType"))
            if data is not None and declared.partition(";")[0].strip() in ("text/plain", ""):
                pieces.append(self._decoded(place, _text(data), declared))
        return "\n\n".join(filter(None, pieces))

    def _decoded(self, place: str, data: str, declared: str) -> str:
        charset = "utf-8"
        for parameter in declared.split(";")[1:]:
            key, _, value = parameter.partition("=")
            if key.strip().lower() == "charset":
                charset = value.strip().strip('"') or charset
        try:
            return base64.b64decode("".join(data.split()), validate=True).decode(charset)
        except (binascii.Error, ValueError, LookupError) as error:
            raise self._malformed(
                place, f"the attachment is no {charset[:20]} in base64"
            ) from error

    def _observation(self, _place: str, _url: str, resource: Resource) -> str | None:
        pieces = [_text(resource.get("valueString"))]
        pieces += [_text(_object(note).get("text")) for note in _list(resource.get("note"))]
        return "\n\n".join(filter(None, pieces)) or None

    def _resolved(self, url: str, holder: Resource, link: object, kind: str) -> Resource | None:
        """The resource of that kind that a reference leads to, within this bundle."""
        reference = _text(_object(link).get("reference"))
        found: Resource | None = None
        if reference.startswith("#"):
            contained = (_object(one) for one in _list(holder.get("contained")))
            found = next((one for one in contained if one.get("id") == reference[1:]), None)
        elif reference:
            reference = reference.partition("/_history/")[0]
            base = url.removesuffix("/".join(url.split("/")[-2:]))
            addresses = (reference, _joined(base, reference) if base else "")
            found = next((self._by_url[a] for a in addresses if a in self._by_url), None)
        if found is None:
            for key in _identifiers({"identifier": [_object(link).get("identifier")]}):
                found = found or self._by_identifier.get(key)
        return found if found is not None and found.get("resourceType") == kind else None

    def _entries(self, path: Path) -> list[Resource]:
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BUNDLE_BYTES + 1)
            if len(data) > MAX_BUNDLE_BYTES:
                raise MalformedTable(
                    f"{path.name} is larger than {MAX_BUNDLE_BYTES // 1024**2} MiB",
                    fix="export it as several bundles, and name their folder",
                )
            found = json.loads(data)
        except (OSError, ValueError, RecursionError) as error:
            raise MalformedTable(
                f"{path.name} is no JSON", fix="export the bundle again"
            ) from error
        if not isinstance(found, dict) or found.get("resourceType") != "Bundle":
            raise MalformedTable(f"{path.name} is no FHIR bundle", fix="export it as a Bundle")
        return [_object(entry) for entry in _list(found.get("entry"))]

    def _malformed(self, place: str, reason: str) -> MalformedTable:
        return MalformedTable(f"{self._name}, {place}: {reason}", fix="export the bundle again")


def _joined(base: str, reference: str) -> str:
    try:
        return urljoin(base, reference)
    except ValueError:  # no address at all: it leads nowhere
        return ""


def _patient_columns(patient: Resource | None) -> dict[str, str]:
    if patient is None:
        return dict.fromkeys(("subject", "mrn", *KNOWN), "")
    names = [
        _text(name.get("text"))
        or " ".join(
            filter(None, (*map(_text, _list(name.get("given"))), _text(name.get("family"))))
        )
        for name in map(_object, _list(patient.get("name")))
    ]
    telecoms = [_object(one) for one in _list(patient.get("telecom"))]
    addresses = [
        _text(one.get("text"))
        or ", ".join(
            filter(
                None,
                (
                    *map(_text, _list(one.get("line"))),
                    *(_text(one.get(key)) for key in ("city", "postalCode")),
                ),
            )
        )
        for one in map(_object, _list(patient.get("address")))
    ]
    numbers = [value for _, value in _identifiers(patient)]
    columns = {
        "subject": [_text(patient.get("id"))],
        "mrn": [_record_number(patient)],
        "name": names,
        "birth_date": [_text(patient.get("birthDate"))],
        "phone": [_text(one.get("value")) for one in telecoms if one.get("system") != "email"],
        "email": [_text(one.get("value")) for one in telecoms if one.get("system") == "email"],
        "address": addresses,
        "identifier": numbers,
    }
    return {name: SEVERAL.join(filter(None, values)) for name, values in columns.items()}


def _record_number(patient: Resource) -> str:
    """The identifier of type MR (HL7 table 0203), else the first."""
    identifiers = [_object(one) for one in _list(patient.get("identifier"))]
    for one in identifiers:
        codings = map(_object, _list(_object(one.get("type")).get("coding")))
        if any(coding.get("code") == "MR" for coding in codings):
            return _text(one.get("value"))
    return next((_text(one.get("value")) for one in identifiers), "")


def _identifiers(resource: Resource) -> Iterator[tuple[str, str]]:
    """System and value of each identifier that has a value."""
    for one in map(_object, _list(resource.get("identifier"))):
        if value := _text(one.get("value")):
            yield _text(one.get("system")), value


def _concept(value: object) -> str:
    """A CodeableConcept in words, else its first code."""
    concept = _object(value)
    codings = [_object(one) for one in _list(concept.get("coding"))]
    words = [concept.get("text"), *(one.get("display") for one in codings)]
    return next(filter(None, map(_text, [*words, *(one.get("code") for one in codings)])), "")


def _text(value: object) -> str:
    return value.replace(SEVERAL, " ") if isinstance(value, str) else ""


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _object(value: object) -> Resource:
    return value if isinstance(value, dict) else {}
