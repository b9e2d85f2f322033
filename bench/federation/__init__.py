"""A round beside stock Flower's, and the coordinator's memory beside the number of sites.

    python -m bench.federation [--quick] [--only NAME …] [--option NAME=JSON …]

* `seconds_per_round`, `stock_seconds_per_round`: four sites, 1 MB of float32 weights, five rounds
  in which every site trains and evaluates, on loopback with TLS and authenticated sites, one after
  the other on the same machine. Ours is the whole product with its own commands
  (`bench.federation.ours`), stock is Flower with its own and their defaults
  (`bench.federation.stock`). Means over the rounds, the first included. Of ours the second plan is
  told; `seconds_per_round_after_start` is that of the first.
* `seconds_per_round_secure`: the same plan with `secure_aggregation = true` and a quorum of three.
* `secure_seconds_site_SITES`, `secure_bytes_site_SITES`, `secure_bytes_over_plain_SITES`: processor
  time and octets of one site in one secure sum of a million weights, in one process; `…_dropouts_N`
  where so many sites drop out after their shares (`bench.federation.secure`).
* `cpu_seconds_…`: processor time of a round, by process. Where processes outnumber cores this is
  what a round waits for.
* `coordinator_peak_mb_SITES`: peak memory of the coordinator's process when so many sites send a
  million weights each (`bench.federation.memory`); `…_over_idle_mb_…` is what the run added.
* `--option` adds a line to the `[plan]` of our run, so that what a plan can ask for can be
  measured.

Each process computes with one thread. The last line is one JSON object; progress goes to standard
error.
"""
