"""The manual page, made of what the commands say of themselves: `python -m nefia.cli.manual`.

Prints what packaging/nefia.1 has to contain.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from nefia import __version__
from nefia.cli.framework import commands_of
from nefia.cli.root import root

GLOBAL_OPTIONS = frozenset({"config", "state_dir", "help"})
"""Taken by every command, and shown once."""
BEGINNING = """\
.\\" Made by `python -m nefia.cli.manual`.
.TH NEFIA 1 "" "nefia {version}" "User Commands"
.SH NAME
nefia \\- {purpose}
.SH SYNOPSIS
.B nefia
.RI [ options ]
.I command
.RI [ options "] [" arguments ]
.SH DESCRIPTION
A few nodes form a cluster on the Raft protocol. One of them leads: it alone runs the services and
applies changes to the shared state. When it fails, another takes over by itself.
.PP
Commands that change something are for the leader; on a follower add
.BR \\-\\-forward ,
where there is that option. Results go to stdout, everything else to stderr.
.SH OPTIONS
Taken by all commands, before them or after. \\-\\-help shows what a command does and takes.
"""
ENDING = """\
.SH FILES
.TP
.I /etc/nefia/nefia.yaml
The configuration. Looked up in this order:
.BR \\-\\-config ,
.BR $NEFIA_CONFIG ,
.IR $XDG_CONFIG_HOME/nefia/nefia.yaml ,
this file.
.TP
.I /var/lib/nefia
The state directory of root's daemon, with
.IR admin.sock ,
the log and the snapshots. Else
.BR \\-\\-state\\-dir ,
.BR $NEFIA_STATE_DIR ,
.B state_dir
in the configuration, or
.IR $XDG_STATE_HOME/nefia .
.SH ENVIRONMENT
.TP
.BR NEFIA_CONFIG ", " NEFIA_STATE_DIR
See above.
.TP
.B NO_COLOR
No colours on a terminal either.
.SH EXIT STATUS
"""
EXITS = (
    ("0", "Done."),
    ("1", "Failed."),
    ("2", "Wrong usage or configuration."),
    ("3", "Degraded (cluster status --check)."),
    ("4", "No leader, no majority, or no cluster."),
    ("5", "Refused by a safety check."),
    ("6", "Permission, or TLS."),
    ("7", "Outcome unknown: repeat it with the request id."),
    ("8", "No daemon answers."),
    ("130", "Ctrl-C."),
)


def manual() -> str:
    """In the man macros of troff."""
    purpose = (root.help or "").rstrip(".").lower()
    lines = [BEGINNING.format(version=__version__, purpose=purpose).rstrip()]
    for parameter in root.params:
        if parameter.name in GLOBAL_OPTIONS:
            lines += _option(parameter)
    lines.append(".SH COMMANDS")
    lines += _commands(root, "nefia")
    lines.append(ENDING.rstrip())
    for code, meaning in EXITS:
        lines += [".TP", f".B {code}", _text(meaning)]
    return "\n".join(lines) + "\n"


def _commands(group: click.Group, path: str) -> Iterator[str]:
    """A section for each command, those of groups in place of the groups."""
    for name, command in commands_of(group).items():
        if command.hidden:
            continue
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")
            continue
        arguments = [p for p in command.params if isinstance(p, click.Argument)]
        words = [f"{path} {name}", *map(_metavar, arguments)]
        yield f".SS {_text(' '.join(words))}"
        yield _text(command.help or "")
        for parameter in command.params:
            if parameter.name not in GLOBAL_OPTIONS:
                yield from _option(parameter)


def _option(parameter: click.Parameter) -> Iterator[str]:
    if not isinstance(parameter, click.Option) or parameter.hidden:
        return
    yield ".TP"
    names = ", ".join(parameter.opts + parameter.secondary_opts)
    value = "" if parameter.is_flag else f" {_metavar(parameter)}"
    yield f".B {_text(names + value)}"
    yield _text(parameter.help or "")


def _metavar(parameter: click.Parameter) -> str:
    if parameter.metavar:
        return parameter.metavar
    if isinstance(parameter.type, click.Choice):
        return "|".join(map(str, parameter.type.choices))
    if isinstance(parameter, click.Argument):
        name = str(parameter.name).upper()
        return name if parameter.required else f"[{name}]"
    return parameter.type.name.upper().replace(" RANGE", "")


def _text(text: str) -> str:
    """As troff takes it: hyphens that are hyphens, backslashes, and paragraphs."""
    escaped = text.replace("\b\n", "").replace("\\", "\\e").replace("-", "\\-")
    lines = [line.strip() for line in escaped.splitlines()]
    whole = re.sub(r"\n{2,}", "\n.PP\n", "\n".join(lines).strip())
    return re.sub(r"^(['.](?!PP$))", r"\\&\1", whole, flags=re.MULTILINE)


if __name__ == "__main__":
    print(manual(), end="")
