"""The coordinator: the federation folder, invitations, rounds and releases."""
