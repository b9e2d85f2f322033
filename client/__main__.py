"""Where the `client` command begins."""

from __future__ import annotations

from audit.entry import run_command


def main() -> None:
    """Entry point of the `client` command."""
    run_command("client.cli")


if __name__ == "__main__":
    main()
