"""`nefia queue`: the cluster's task queue."""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any, NoReturn

import click

from nefia.admin import MAX_LINE_BYTES
from nefia.admin.client import DEFAULT_TIMEOUT_SECONDS
from nefia.cli.framework import (
    Group,
    Setup,
    argument_or_option,
    changing_state,
    pass_setup,
    reading_state,
)
from nefia.cli.output import STRUCTURED, label_of, line, note, shortened, show_fields, show_table
from nefia.errors import InvalidArgument
from nefia.units import parse_duration

LIST_COLUMNS = ("id", "queue", "state", "priority", "attempt", "host", "worker", "run_at")
WIDE_COLUMNS = (
    *LIST_COLUMNS,
    "max_attempts",
    "key",
    "token",
    "lease_expires_at",
    "created_at",
    "updated_at",
    "finished_at",
    "error",
    "payload",
)


@click.group(cls=Group)
def queue() -> None:
    """The task queue."""


def _json(context: click.Context, parameter: click.Parameter, text: str | None) -> Any:
    """A callback: the JSON value of a text, or of stdin for `-`; `_NOT_GIVEN` if there is none."""
    if text is None:
        return None
    if text == "-":
        # The daemon would take no more; without a bound an endless pipe would fill the memory.
        text = sys.stdin.read(MAX_LINE_BYTES + 1)
    try:
        return Given(json.loads(text, parse_constant=_refuse))
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(
            f"{parameter.human_readable_name} is not JSON: {error}",
            hint="write text as '\"text\"', with both kinds of quotes",
        ) from None
