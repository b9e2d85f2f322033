"""Invented words: names that look real and belong to nobody known.

Family names and towns are put together from syllables, so that a stand-in is not by accident the
name of another subject. Given names are common ones: alone they identify nobody.
"""

from __future__ import annotations

from client.deidentification.lexicon import word_set
from client.deidentification.surrogates.choice import KeyedChoice


def _ordered(words: str) -> tuple[str, ...]:
    """The words of a text in an order that does not change."""
    return tuple(sorted(word_set(words)))


GIVEN_NAMES = _ordered(
    "Adele Alana Alina Amos Anselm Ariel Ashton Averil Basil Benita Blaine Brenna Bryn Caleb Carys "
    "Cassian Celia Clyde Corin Cosima Dalia Darius Delia Desmond Dorian Edda Edmund Elin Elora "
    "Elspeth Emrys Enid Evander Fabian Fern Flora Gareth Gideon Giles Greer Gwyn Hale Harlan Helga "
    "Hester Hollis Idris Ilse Imelda Ione Ivor Jarvis Jonas Joss Juno Kara Keir Keziah Lachlan "
    "Lenora Leopold Linus Lorne Lowell Lucian Mabel Maeve Marcel Merle Milo Minna Morwen Nadia "
    "Nerys Niall Nola Odette Orla Orson Otis Perrin Petra Quincy Ravi Reina Rhys Rowan Rufus Sable "
    "Selwyn Senna Silas Sorrel Tamsin Thea Tobias Ulric Una Vashti Verena Vaughn Wendell Wilmot "
    "Wynn Yara Yorick Zelda Zora"
)

GROUPS = _ordered(
    "Andorran Bolivian Cypriot Danish Ecuadorian Estonian Fijian Ghanaian Icelandic Jamaican "
    "Laotian Latvian Maltese Mongolian Namibian Norwegian Omani Paraguayan Samoan Slovenian "
    "Tongan Zambian"
)
OCCUPATIONS = _ordered(
    "accountant baker bookkeeper carpenter electrician gardener librarian locksmith mechanic "
    "optician painter plumber printer teacher translator upholsterer"
)
COUNTRIES = _ordered(
    "Austria Belgium Bolivia Botswana Bulgaria Canada Chile Croatia Cyprus Denmark Ecuador Estonia "
    "Finland Ghana Greece Hungary Iceland Ireland Jamaica Japan Kenya Latvia Malta Mexico Mongolia "
    "Namibia Nepal Norway Panama Paraguay Peru Poland Portugal Romania Senegal Slovenia Spain "
    "Sweden Tunisia Uruguay Vietnam Zambia"
)

_FIRST = _ordered(
    "Al Ard Bal Bel Bran Brin Cal Car Cor Dar Del Dor Ed El Er Fal Fen Fer Gal Gar Gor Hal Har "
    "Hol Il Ior Jar Jel Kal Kel Kor Lan Lor Lun Mar Mel Mor Nar Nel Nor Ol Or Pel Per Quar Quen "
    "Ral Rin Sar Sel Sol Tal Tar Tor Ul Ur Val Ver Vor Wal Wen Yar Yor Zan Zel"
)
_MIDDLE = _ordered(
    "a e i o u an en in on ar er or al el ith and und esk ist orr amb endr iv ov eth"
)
_FAMILY_ENDINGS = _ordered(
    "wick thorpe croft gard lund mere dale holt shaw stow rick nell vane quist mont beck fell ridge"
)
_TOWN_ENDINGS = _ordered(
    "bury mouth borough stead haven port wold minster bridge wells moor cliffe"
)
_STREETS = _ordered("bourne leigh combe hurst grove field brook gate dene crest")


def family_name(choice: KeyedChoice) -> str:
    """A family name of three syllables; some 30,000 are possible."""
    return choice.one_of(_FIRST) + choice.one_of(_MIDDLE) + choice.one_of(_FAMILY_ENDINGS)


def town(choice: KeyedChoice) -> str:
    """A town's name of three syllables."""
    return choice.one_of(_FIRST) + choice.one_of(_MIDDLE) + choice.one_of(_TOWN_ENDINGS)


def street(choice: KeyedChoice) -> str:
    """A street's name, without "Street"."""
    return choice.one_of(_FIRST) + choice.one_of(_MIDDLE) + choice.one_of(_STREETS)


def cased_like(original: str, made: str) -> str:
    """`made` in the case of `original`: upper, lower, or with a capital.

    >>> cased_like("LOPEZ", "Belanwick"), cased_like("lopez", "Belanwick")
    ('BELANWICK', 'belanwick')
    """
    if len(original) > 1 and original.isupper():
        return made.upper()
    if original.islower():
        return made.lower()
    return made
