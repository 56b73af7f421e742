"""The command line (SPEC 3). `main` is the entry point of the `nefia` program.

Commands that ask the daemon import click, json and the blocking client, nothing heavier; what the
daemon needs is imported by `nefia daemon` alone.
"""


def main() -> None:
    """Run the command in sys.argv and exit with its code."""
    from nefia.cli.root import root

    root.main(prog_name="nefia")
