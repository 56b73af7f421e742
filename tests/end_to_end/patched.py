"""Copies of the package with changes in them, for daemons to be run from."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

ROOT = Path(__file__).parents[2]


@frozen
class Patch:
    """`old` stands exactly once in `file`, and `new` takes its place."""

    file: str
    old: str
    new: str


def planted(patch: Patch, root: Path = ROOT) -> str:
    """The text of the changed file."""
    text = (root / patch.file).read_text()
    assert text.count(patch.old) == 1, f"{patch.file} has changed: {patch.old}"
    return text.replace(patch.old, patch.new)


@contextmanager
def patched_tree(*patches: Patch) -> Iterator[Path]:
    """A directory with the changed package, from which `python -m nefia` runs it."""
    with tempfile.TemporaryDirectory(prefix="nefia-patched-") as name:
        tree = Path(name)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "nefia", tree / "nefia", ignore=ignored)
        for patch in patches:
            (tree / patch.file).write_text(planted(patch, tree))
        yield tree
