"""README.md and docs/: their fenced blocks, and what is written there of nefia's command line.

What a block is says the word behind its fence: `sh` is commands, `console` commands with a `$ ` and
what they print, `text` right behind commands is what the last of them prints, and any other `text`
nothing that could be run. `yaml` is nefia.yaml or a part of it; `python` and `sh` with a first line
that names a file are programs.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import click
from attrs import evolve, frozen

from nefia.cli.framework import commands_of
from nefia.cli.root import root

ROOT = Path(__file__).parents[2]
BEGINNING = ("README.md", "docs/tls.md")
"""Others go on with the cluster and the certificates that are made here."""
DOCUMENTS = (
    *BEGINNING,
    "SECURITY.md",
    *sorted({str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")} - {*BEGINNING}),
)

_FENCED = re.compile(r"(?ms)^(?P<indent> *)```(?P<kind>\S*)\n(?P<text>.*?)^ *```$")
_INLINE = re.compile(r"`(nefia [^`]+)`")
_PROGRAM = re.compile(r'(?:#!.*\n# |""")(\w+\.\w+) ')
_COMMAND_OF_OURS = re.compile(r"^\$ |^nefia (?!\d)|^\.venv/", re.MULTILINE)
_ENDS = frozenset({"|", "||", "&&", ";"})


@frozen
class Block:
    """`output` is what its last command prints, empty where the document does not show it.

    `heading` is that of its section.
    """

    document: str
    line: int
    kind: str
    text: str
    output: str = ""
    heading: str = ""

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def program(self) -> str:
        """The file name in the first lines of a program, else empty."""
        found = _PROGRAM.match(self.text)
        return found[1] if found and self.kind in ("python", "sh") else ""


def blocks(document: str) -> list[Block]:
    """In their order; what stands right behind commands is their output and no block."""
    whole = (ROOT / document).read_text(encoding="utf-8")
    found: list[tuple[Block, re.Match[str]]] = []
    for match in _FENCED.finditer(whole):
        line = whole.count("\n", 0, match.start()) + 1
        text = re.sub(f"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
        headings = re.findall(r"^## (.*)$", whole[: match.start()], re.MULTILINE)
        heading = headings[-1] if headings else ""
        found.append((Block(document, line, match["kind"], text, heading=heading), match))
    outputs = {
        behind.line: block.line
        for (block, one), (behind, other) in pairwise(found)
        if (block.kind, behind.kind) == ("sh", "text")
        and not whole[one.end() : other.start()].strip()
    }
    texts = {outputs[block.line]: block.text for block, _ in found if block.line in outputs}
    return [
        evolve(block, output=texts.get(block.line, ""))
        for block, _ in found
        if block.line not in outputs
    ]


def program(document: str, name: str) -> str:
    """The text of the program whose first lines name it so."""
    [text] = [block.text for block in blocks(document) if block.program == name]
    return text


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """(command, what it prints or empty), of an `sh` or `console` block; none of others."""
    if block.program or block.kind not in ("sh", "console"):
        return
    if block.kind == "console":
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, _, output = part.replace("\\\n", " ").partition("\n")
            yield command, output
        return
    lines = [
        line
        for line in block.text.replace("\\\n", " ").splitlines()
        if line.strip() and not line.startswith("#")
    ]
    for number, command in enumerate(lines, 1):
        yield command, block.output if number == len(lines) else ""


def hides_commands(block: Block) -> bool:
    """Whether there are commands in a block that is said to have none."""
    return block.kind == "text" and _COMMAND_OF_OURS.search(block.text) is not None


def inline_commands(document: str) -> list[str]:
    """What stands in the sentences as `nefia ...`."""
    prose = _FENCED.sub("", (ROOT / document).read_text(encoding="utf-8"))
    return [found.replace("\n", " ") for found in _INLINE.findall(prose)]


def misuse(command: str) -> str:
    """What nefia's command line would not take of the first call of nefia in `command`.

    Empty if there is none. Values are not looked at: they may be placeholders.
    """
    words = shlex.split(command.replace("[--", "--"), comments=True)
    words = words[words.index("--") :] if "--" in words else words  # another program's, then ours
    current: click.Command = root
    for word in words[words.index("nefia") + 1 :] if "nefia" in words else ():
        if word in _ENDS:
            break
        if word.startswith("-"):
            known = {name for parameter in current.params for name in parameter.opts}
            if word.partition("=")[0].rstrip("]") not in {*known, "--help"}:
                return f"{current.name} has no option {word}"
        elif isinstance(current, click.Group):
            for name in word.split("|"):
                if name not in commands_of(current):
                    return f"{current.name} has no command {name}"
            current = commands_of(current)[word.partition("|")[0]]
    return ""
