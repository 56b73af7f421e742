"""From `nefia daemon` to the daemon proper, in the order that makes a start short.

raft.db is looked through by a child process while this one imports what a daemon needs. Imports at
the top of this file delay that, so they are few.
"""

from __future__ import annotations

import os
import stat

from nefia.config import Config
from nefia.errors import InvalidConfiguration, NefiaError, Permission
from nefia.storage.claim import Claim


def start(config: Config) -> int:
    """Run the daemon until it is told to stop; returns the exit code. Raises NefiaError."""
    require_assertions()
    make_state_dir(config)
    claim = _claimed(config)
    try:
        from nefia import logs

        logs.configure(os.environ)  # before anything else imports structlog
        from nefia.daemon import run

        return run(config, claim)
    finally:
        # The lock goes with the process: a write may still hang in a dead disk.
        if claim is not None and claim.check is not None:
            claim.check.end()


def require_assertions() -> None:
    if not __debug__:
        raise InvalidConfiguration(
            "nefia does not run with python -O: its assertions are part of its safety"
        )


def make_state_dir(config: Config) -> None:
    try:
        config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = stat.S_IMODE(config.state_dir.stat().st_mode)
    except OSError as error:
        raise Permission(
            f"cannot use the state directory {config.state_dir}: {error.strerror}",
            hint="create it for this user, or name another with --state-dir",
        ) from error
    if mode & 0o022:
        raise Permission(
            f"others may write into the state directory {config.state_dir} (mode {mode:04o})",
            hint=f"chmod 0700 {config.state_dir}",
        )


def _claimed(config: Config) -> Claim | None:
    try:
        return Claim(config.data_dir)
    except (NefiaError, OSError):
        return None  # the store will try again, and say what is wrong
