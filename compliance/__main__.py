"""Where the `compliance` command begins."""

from __future__ import annotations

from audit.entry import run_command


def main() -> None:
    """Entry point of the `compliance` command."""
    run_command("compliance.cli")


if __name__ == "__main__":
    main()
