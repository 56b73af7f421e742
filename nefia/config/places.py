"""Where nefia.yaml and the state directory are (SPEC 1).

Environments are passed in, and so is whether the user is root; nothing here reads the process's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from nefia.errors import InvalidConfiguration

SYSTEM_CONFIG = Path("/etc/nefia/nefia.yaml")
SYSTEM_STATE_DIR = Path("/var/lib/nefia")

Environment = Mapping[str, str]


def find_config(explicit: str | None, environ: Environment) -> Path | None:
    """The file to read: `--config`, `$NEFIA_CONFIG`, the user's, the system's; None without any.

    Raises InvalidConfiguration if one that was named explicitly does not exist.
    """
    named = {"--config": explicit, "$NEFIA_CONFIG": environ.get("NEFIA_CONFIG") or None}
    for origin, text in named.items():
        if text is not None:
            if not os.path.exists(text):
                raise InvalidConfiguration(
                    f'there is no file "{text}", which {origin} names',
                    hint="correct the path, or write the file",
                )
            return Path(text)
    places = (_user_config(environ), SYSTEM_CONFIG)
    return next((path for path in places if os.path.exists(path)), None)


def require_config(explicit: str | None, environ: Environment) -> Path:
    """As `find_config`; raises InvalidConfiguration with the places looked at if there is none."""
    path = find_config(explicit, environ)
    if path is None:
        raise InvalidConfiguration(
            "there is no nefia.yaml: --config and $NEFIA_CONFIG name none, and neither "
            f"{_user_config(environ)} nor {SYSTEM_CONFIG} exists",
            hint=f"write {SYSTEM_CONFIG}, or name another file with --config",
        )
    return path


def resolve_state_dir(
    option: str | None, configured: Path | None, environ: Environment, *, is_root: bool
) -> Path:
    """The absolute state directory: `--state-dir`, `$NEFIA_STATE_DIR`, the file's, the default."""
    named = option or environ.get("NEFIA_STATE_DIR")
    if named:
        return Path(named).absolute()
    if configured:
        return configured
    return (
        SYSTEM_STATE_DIR if is_root else _xdg(environ, "XDG_STATE_HOME", ".local/state") / "nefia"
    )


def _user_config(environ: Environment) -> Path:
    return _xdg(environ, "XDG_CONFIG_HOME", ".config") / "nefia" / "nefia.yaml"


def _xdg(environ: Environment, variable: str, below_home: str) -> Path:
    base = Path(environ.get(variable, ""))
    # The XDG specification: a relative path is invalid and has to be ignored.
    if base.is_absolute():
        return base
    return Path(environ.get("HOME") or os.path.expanduser("~")) / below_home
