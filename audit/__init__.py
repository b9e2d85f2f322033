"""Evidence: canonical bytes, signed statements, a Merkle log, a verifier without secrets."""
