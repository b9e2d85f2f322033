"""How counts are said to people."""

from __future__ import annotations

_HISSING = ("s", "x", "ch", "sh")
_VOWELS = "aeiou"


def count_of(count: int, one: str, many: str = "") -> str:
    """A count and what is counted.

    Args:
        count: How many.
        one: The noun for one, with what stands before it.
        many: For none or several, where it is not made as most are.

    >>> count_of(1, "row"), count_of(0, "row"), count_of(2, "held-out example")
    ('1 row', '0 rows', '2 held-out examples')
    >>> count_of(2, "entry"), count_of(3, "day"), count_of(2, "hash")
    ('2 entries', '3 days', '2 hashes')
    >>> count_of(2, "person", "people")
    '2 people'
    """
    return f"{count} {one if count == 1 else many or _several(one)}"


def _several(one: str) -> str:
    if one.endswith("y") and one[-2] not in _VOWELS:
        return f"{one[:-1]}ies"
    return f"{one}es" if one.endswith(_HISSING) else f"{one}s"
