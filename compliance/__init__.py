"""Governance: the documents, the rules over them, and the service that keeps them."""
