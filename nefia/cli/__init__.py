"""The command line (SPEC 3). `main` is the entry point of the `nefia` program.

Commands that ask the daemon import click, json and the blocking client, nothing heavier; what the
daemon needs is imported by `nefia daemon` alone.
"""

import gc

IMPORTED_OBJECTS = 100_000
"""The collector looks after so many new objects. Any command imports fewer, and they last; left to
itself, at each 700, it takes a seventh of the time of a daemon's start."""


def main() -> None:
    """Run the command in sys.argv and exit with its code."""
    gc.set_threshold(IMPORTED_OBJECTS)
    from nefia.cli.root import root

    root.main(prog_name="nefia")
