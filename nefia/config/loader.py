"""nefia.yaml as a whole: read, checked and made into a `Config`; and what a client needs of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from nefia.config.checks import check
from nefia.config.kinds import Items, Section, Variants
from nefia.config.places import SYSTEM_STATE_DIR, Environment, find_config, resolve_state_dir
from nefia.config.reader import Report, Values, read_file
from nefia.config.schema import ClusterConfig, Config, HttpConfig, PeerConfig, RaftConfig
from nefia.config.services import KINDS, ServiceConfig
from nefia.config.settings import settings_of
from nefia.errors import Permission

T = TypeVar("T")


def load(path: Path, *, state_dir: str | None, environ: Environment, is_root: bool) -> Config:
    """The configuration in the file at `path`; `state_dir` is what `--state-dir` says.

    Raises InvalidConfiguration with all mistakes at once, and Permission if the file is unreadable.
    """
    report = Report(path)
    values = read_file(path, report)
    config = _build(values, path, state_dir, environ, is_root)
    check(config, report)
    if report.mistakes:
        raise report.error()
    return config


def default(*, state_dir: str | None, environ: Environment, is_root: bool) -> Config:
    """The configuration of an empty file: a single active node without a cluster."""
    return _build({}, None, state_dir, environ, is_root)


def state_dir_for_client(
    *, state_dir: str | None, config: str | None, environ: Environment, is_root: bool
) -> Path:
    """The state directory whose `admin.sock` a client asks; `config` is what `--config` says.

    Of the file only `state_dir` counts, so that a mistake elsewhere in it keeps nobody from asking
    the daemon. A user without a state directory of their own asks the system's daemon. Raises
    InvalidConfiguration and Permission as `find_config` and `load` do for the file as such.
    """
    path = find_config(config, environ)
    if state_dir or environ.get("NEFIA_STATE_DIR"):
        return resolve_state_dir(state_dir, None, environ, is_root=is_root)
    is_named = bool(config or environ.get("NEFIA_CONFIG"))
    if path and (configured := _configured_state_dir(path, is_named=is_named)):
        return configured
    own = resolve_state_dir(None, None, environ, is_root=is_root)
    return own if os.path.isdir(own) or not os.path.isdir(SYSTEM_STATE_DIR) else SYSTEM_STATE_DIR


def _configured_state_dir(path: Path, *, is_named: bool) -> Path | None:
    report = Report(path)
    try:
        configured: Path | None = read_file(path, report).get("state_dir")
    except Permission:
        # /etc/nefia/nefia.yaml may be root's alone while the socket is open to a group.
        if is_named:
            raise
        return None
    if report.is_faulty("state_dir"):
        raise report.error()
    return configured


def _build(
    values: Values, path: Path | None, option: str | None, environ: Environment, is_root: bool
) -> Config:
    """Faulty and absent values get their defaults; those without one are empty."""
    state_dir = resolve_state_dir(option, values.get("state_dir"), environ, is_root=is_root)
    cluster = values.get("cluster", {})
    no_peer = {"id": "", "address": ""}
    settled = {
        "data_dir": cluster.get("data_dir") or state_dir / "cluster",
        "peers": tuple(PeerConfig(**no_peer | peer) for peer in cluster.get("peers", ())),
        "raft": RaftConfig(**cluster.get("raft", {})),
    }
    return Config(
        **values
        | {
            "path": path,
            "state_dir": state_dir,
            "cluster": ClusterConfig(**cluster | settled),
            "http": HttpConfig(**values.get("http", {})),
            "services": tuple(_services(values.get("services", ()))),
        }
    )


def _services(sections: Iterable[Values]) -> Iterator[ServiceConfig]:
    """Without those that lack what they need: their mistakes are reported already."""
    for values in sections:
        of = KINDS.get(values.get("kind", ""))
        service = None if of is None else _made(of, values)
        if service is not None:
            yield service


def _made(of: type[T], values: Values) -> T | None:
    """An `of` with all that is within it, or None if it lacks what it needs."""
    settled = dict(values)
    for name, setting in settings_of(of).items():
        if name not in values:
            if setting.default is None:
                return None
            continue
        match setting.kind:
            case Section(inner):
                settled[name] = _made(inner, values[name])
            case Items(inner):
                settled[name] = _all_made((inner, each) for each in values[name])
            case Variants(by, classes):
                known = [each for each in values[name] if by in each]
                settled[name] = _all_made((classes[each[by]], each) for each in known)
    return of(**settled)


def _all_made(items: Iterable[tuple[type[object], Values]]) -> tuple[object, ...]:
    made = [_made(of, values) for of, values in items]
    return tuple(each for each in made if each is not None)
