"""Lists: a page for people, everything for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from nefia.cli.framework import Setup
from nefia.cli.output import line, show_page

PAGE_RECORDS = 500
"""How many records are asked for at once, when all are wanted."""


def show_list(
    setup: Setup,
    action: str,
    name: str,
    form: str,
    columns: tuple[Sequence[str], Sequence[str]],
    *,
    limit: int | None,
    cursor: str | None,
    **params: Any,
) -> None:
    """`columns` are those of a table, narrow and wide.

    As JSON it is one object with all records from the cursor on, or as many as `limit` says, one a
    line and written as they come: a long list takes no memory, and a pipe can read along.
    """
    if form != "json":
        result = setup.ask(action, limit=limit, cursor=cursor, **params)
        show_page(result, name, form, *columns)
        return
    line(f'{{"{name}": [')
    separator = ""
    for page in _pages(setup, action, name, limit, cursor, params):
        for record in page[name]:
            sys.stdout.write(separator + _encoded(record))
            separator = ",\n"
        sys.stdout.flush()
        cursor = page["cursor"]
    line(f'\n], "cursor": {json.dumps(cursor)}}}')


def _pages(
    setup: Setup,
    action: str,
    name: str,
    limit: int | None,
    cursor: str | None,
    params: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    left = limit
    while left is None or left > 0:
        count = PAGE_RECORDS if left is None else min(PAGE_RECORDS, left)
        page = setup.ask(action, limit=count, cursor=cursor, **params)
        yield page
        cursor = page["cursor"]
        if cursor is None:
            return
        left = None if left is None else left - len(page[name])


def _encoded(record: dict[str, Any]) -> str:
    text = json.dumps(record, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return json.dumps(record)
    return text
