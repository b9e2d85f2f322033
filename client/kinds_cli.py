"""`client deidentify kinds`: what laws list, and under which kinds it is found."""

from __future__ import annotations

from audit.options import Json
from audit.terminal import out, print_json


def kinds(json: Json = False) -> None:
    """List HIPAA's Safe Harbor and the GDPR's special categories, with the kinds they are found as.

    The kinds are those of `[replace]` and `keep` in `deidentify.toml`. Where no kind stands,
    nothing is searched for, and the note says why.

    Examples: `client deidentify kinds` · `client deidentify kinds --json`
    """
    from client.deidentification.kinds import GDPR_SPECIAL_CATEGORIES, SAFE_HARBOR

    lists = {
        "HIPAA Safe Harbor, 45 CFR 164.514(b)(2)(i)": SAFE_HARBOR,
        "GDPR special categories, Article 9(1)": GDPR_SPECIAL_CATEGORIES,
    }
    if json:
        print_json(
            {
                law: [
                    {
                        "number": entry.number,
                        "name": entry.name,
                        "kinds": sorted(entry.examples),
                        "note": entry.note,
                    }
                    for entry in listed
                ]
                for law, listed in lists.items()
            }
        )
        return
    say = out().print
    for law, listed in lists.items():
        say(law, markup=False, highlight=False)
        for entry in listed:
            found = ", ".join(sorted(entry.examples)) or "-"
            note = f"  ({entry.note})" if entry.note else ""
            say(f"  {entry.number}  {entry.name}: {found}{note}", markup=False, highlight=False)
