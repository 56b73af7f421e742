"""`python -m nefia.config` prints the tables that docs/configuration.md has to contain."""

from nefia.config.reference import reference_markdown

print(reference_markdown(), end="")
