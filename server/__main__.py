"""Where the `server` command begins."""

from __future__ import annotations

from audit.entry import run_command


def main() -> None:
    """Entry point of the `server` command."""
    run_command("server.cli")


if __name__ == "__main__":
    main()
