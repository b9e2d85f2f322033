"""A process that appends to a journal, from one or several threads:

    python -m tests.audit.appender FOLDER NAME COUNT [--store files|sqlite] [--threads N]

It prints position and number of each entry only after `record` returned, so whoever kills it knows
what was acknowledged. Numbers of several threads are `NAME-thread-number`.
"""

import argparse
import sys
import threading
from pathlib import Path

from audit.file_log import FileStore
from audit.journal import Journal
from audit.keyring import Keyring
from audit.keys import SigningKey
from audit.sqlite_log import SqliteStore
from tests.audit.logs import entry


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    parser.add_argument("count", type=int)
    parser.add_argument("--store", choices=["files", "sqlite"], default="sqlite")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    keyring = Keyring.open(options.folder / "keyring")
    store = (
        FileStore.open(options.folder / "journal")
        if options.store == "files"
        else SqliteStore.open(options.folder / "journal.sqlite")
    )
    journal = Journal.over(store, SigningKey.load(options.folder / "key.pem"), keyring)
    printing = threading.Lock()

    def work(thread: int | None) -> None:
        for number in range(options.count):
            named = number if thread is None else f"{options.name}-{thread}-{number}"
            made = entry(number, actor=options.name, payload={"number": named})
            position = journal.record(made).position
            with printing:
                sys.stdout.write(f"{position} {named}\n")
                sys.stdout.flush()

    if options.threads == 0:
        work(None)
    threads = [threading.Thread(target=work, args=(n,)) for n in range(options.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()


if __name__ == "__main__":
    main()
