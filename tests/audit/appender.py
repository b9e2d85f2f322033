"""A process that appends to a journal: `python -m tests.audit.appender FOLDER NAME COUNT`.

It prints each position only after `record` returned, so whoever kills it knows what was
acknowledged.
"""

import sys
from pathlib import Path

from audit.journal import Journal
from audit.keyring import Keyring
from audit.keys import SigningKey
from tests.audit.logs import entry


def main() -> None:
    folder, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    keyring = Keyring.open(folder / "keyring")
    journal = Journal.open(folder / "journal.sqlite", SigningKey.load(folder / "key.pem"), keyring)
    for number in range(count):
        appended = journal.record(entry(number, actor=name, payload={"number": number}))
        sys.stdout.write(f"{appended.position} {number}\n")
        sys.stdout.flush()
    journal.close()


if __name__ == "__main__":
    main()
