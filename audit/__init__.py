"""Evidence: canonical bytes, signed statements, a Merkle log, and a verifier that needs no secret."""
