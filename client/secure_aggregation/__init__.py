"""Secure aggregation: the coordinator learns the sum of the sites' vectors, and nothing else.

The protocol is Bonawitz et al. 2017 ("Practical Secure Aggregation for Privacy-Preserving Machine
Learning", CCS, section 4 with the consistency check of round 3, figure 4), over the coordinator as
the only channel between sites:

| step | each site sends | the coordinator sends back |
|---|---|---|
| 1 keys | fresh X25519 keys and a commitment to its seed, signed | everybody's |
| 2 shares | its seed and its mask key, shared by Shamir, sealed to each member | the boxes for it |
| 3 vector | its vector + its own mask ± the masks that it shares with each dealer | who survived |
| 4 consistency | its signature over the list of survivors | everybody's signatures |
| 5 reveal | shares of survivors' seeds, and of missing dealers' mask keys | |

Formal guarantees. Let `n` sites be in the plan, `t` be its quorum, and `c` of the sites share what
they know with a coordinator that follows no rule. With `2 * t > n + c` (`tolerated_collusion`), and
while signatures, X25519, HKDF-SHA256, ChaCha20-Poly1305, AES-256 and SHA-256 are what they are
believed to be:

* **What is learned.** For each round and each activity the coordinator and those `c` sites learn
  the sum over one set of at least `t - c` honest survivors, and nothing else of their vectors. They
  choose the set (who answers cannot be enforced), not the vectors.
* **Once.** A site reveals once for each (plan, round, activity), durably, before it does
  (`client.secure_sums`). Two sums over sets that differ by one site would give that site's vector;
  two sets of `t` revealers would have to share an honest one, as `2 * t > n + c`.
* **Either or.** An honest site reveals shares of a member's seed or of its mask key, by a list that
  `t` survivors signed. Both would unmask a vector; two lists with `t` signatures would again share
  an honest signer, who signs one.
* **Exact.** The sum is the integer sum, whoever drops out at whichever step, as long as `t` stay.
* **Whose keys.** A site believes the identity keys that it saw first (`client.peers`), which
  operators can compare by telephone. Who makes up a site and gets it into the plan has one of the
  `c`.

What it does not protect:

* The sum itself, and what follows from it: with two sites either of them learns the other's vector.
  Differential privacy is what bounds that (`docs/privacy.md`), and it does not depend on this
  protocol unless the plan distributes its noise (`privacy.noise_sites`).
* Against a site that sends a wrong vector: nobody sees it. Numbers are bounded by construction
  (`fixed_point`), so the mean moves by at most `bound / survivors` a coordinate; robust rules need
  single updates, and a plan cannot have both.
* Availability. A site, or the coordinator, can make a round fail. A dealer of shares that do not
  fit costs the round, and is named.
* Who takes part, when, and how long it takes.

| edge case | what happens |
|---|---|
| fewer than `t` left at any step | the sum stays masked; the round is missed |
| a site drops out before step 2 is over | it is not in the masks |
| a site drops out after that, before its vector came | its mask key is recovered from `t` shares |
| a site drops out after its vector came | it counts; its seed is recovered |
| the late vector of a site that was counted out | refused |
| a message is repeated | the same answer |
| a message is repeated with another content | refused |
| all sites sent zeros | zeros |
"""

from __future__ import annotations


def tolerated_collusion(sites: int, quorum: int) -> int:
    """How many sites may share what they know with a hostile coordinator.

    The largest `c` with `2 * quorum > sites + c`, and at least two honest survivors in every sum.

    >>> tolerated_collusion(sites=4, quorum=3), tolerated_collusion(sites=3, quorum=3)
    (1, 1)
    """
    return max(0, min(2 * quorum - sites - 1, quorum - 2))
