"""The tables of docs/configuration.md, made from the schema so that they cannot differ from it."""

from __future__ import annotations

from nefia.config.kinds import Kind, Scalar, shown
from nefia.config.schema import Config
from nefia.config.settings import Setting, all_settings


def reference_markdown() -> str:
    """One Markdown table for each section, all keys with type, default and meaning."""
    sections: dict[str, list[str]] = {}
    for key, setting in all_settings(Config):
        section, _, name = key.rpartition(".")
        sections.setdefault(section, []).append(_row(name, setting))
    return "\n".join(_table(section, rows) for section, rows in sections.items())


def _table(section: str, rows: list[str]) -> str:
    title = f"### `{section}`" if section else "### Top level"
    head = ("| key | type | default | meaning |", "|---|---|---|---|")
    return "\n".join((title, "", *head, *rows, ""))


def _row(name: str, setting: Setting) -> str:
    return f"| `{name}` | {setting.kind.description} | {_default(setting)} | {setting.doc} |"


def _default(setting: Setting) -> str:
    default: Scalar | None = setting.default
    if default is None:
        return "needed"
    if not isinstance(setting.kind, Kind):
        return "empty"
    return f"`{shown(default)}`"
