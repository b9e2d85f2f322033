"""What the compliance service serves, and what evidence costs it.

    python -m bench.service [--quick] [--no-postgresql]

Fifty sites call at once, each on a TLS connection of its own, from a second process. Three calls of
four read (its plan, itself); by one an officer files a request of a data subject, which the service
records:

* ours: the service as `compliance start` runs it, with tokens and rules, an encrypted entry in the
  log, its tree, its signed head and its index row.
* bare: a FastAPI and SQLAlchemy application with the same routes, documents, tables, threads, web
  server, TLS and durability (`server.py`), and none of the above.

Both run all the time on one core and are loaded in turns from the other one, where PostgreSQL runs
too; `audited_over_bare` is the median of the turns' ratios. Then the service alone: questions to a
log of a million entries, and ten thousand open requests of subjects.

Prints a table, and one JSON line last.
"""
