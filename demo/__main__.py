"""Run the demo: `python -m demo [--folder .demo] [--subjects 400]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from demo.processes import CommandFailed
from demo.results import print_results, write_reports
from demo.story import FINDINGS_THAT_MUST_HOLD, SUBJECTS_PER_SITE, Story


def main() -> int:
    """Run every chapter, print the page of results, and say whether all of it held."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".demo"), help="where it all lives")
    parser.add_argument(
        "--subjects", type=int, default=SUBJECTS_PER_SITE, help="synthetic people a site (>= 100)"
    )
    options = parser.parse_args()
    folder: Path = options.folder
    console = Console()
    try:
        results = Story(folder.resolve(), console, options.subjects).run()
    except CommandFailed as error:
        console.print(f"[bold red]The demo stopped:[/] {escape(str(error))}")
        console.print(f"Logs of every process are in {folder / 'logs'}.")
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; every process of the demo was stopped")
        return 130
    html, data = write_reports(results, folder)
    print_results(results, console)
    console.print(f"\nThe same as a page: [bold]{html}[/], as data: [bold]{data}[/]")
    broken = [name for name in FINDINGS_THAT_MUST_HOLD if not getattr(results, name)]
    if broken:
        console.print(f"[bold red]did not hold:[/] {', '.join(broken)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
