"""Where the `audit` command begins."""

from __future__ import annotations

from audit.entry import run_command


def main() -> None:
    """Entry point of the `audit` command."""
    run_command("audit.cli")


if __name__ == "__main__":
    main()
