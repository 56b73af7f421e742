"""Where nefia.yaml and the state directory are looked for (SPEC 1), and in which order."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from nefia import config
from nefia.config import loader, places
from nefia.errors import EXIT_USAGE, InvalidConfiguration, Permission

HOME = Path("/home/user")
NOBODY = 65534


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in place of /etc/nefia (`etc.yaml`) and /var/lib/nefia (`var`)."""
    monkeypatch.setattr(places, "SYSTEM_CONFIG", tmp_path / "etc.yaml")
    for module in (places, loader):
        monkeypatch.setattr(module, "SYSTEM_STATE_DIR", tmp_path / "var")
    return tmp_path


def written(path: Path, text: str = "") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_file_is_looked_for_in_the_order_of_the_specification(system: Path) -> None:
    environ = {
        "NEFIA_CONFIG": written(system / "environment.yaml"),
        "XDG_CONFIG_HOME": str(system / "xdg"),
        "HOME": str(system / "home"),
    }
    option = written(system / "option.yaml")
    users = Path(written(system / "xdg/nefia/nefia.yaml"))
    homes = Path(written(system / "home/.config/nefia/nefia.yaml"))
    systems = Path(written(system / "etc.yaml"))

    assert config.find_config(option, environ) == Path(option)
    assert config.find_config(None, environ) == Path(environ["NEFIA_CONFIG"])
    environ["NEFIA_CONFIG"] = ""
    assert config.find_config(None, environ) == users
    del environ["XDG_CONFIG_HOME"]
    assert config.find_config(None, environ) == homes
    homes.unlink()
    assert config.find_config(None, environ) == systems
    systems.unlink()
    assert config.find_config(None, environ) is None


@pytest.mark.parametrize(
    ("option", "environ", "origin"),
    [("/no/such.yaml", {}, "--config"), (None, {"NEFIA_CONFIG": "/no/such.yaml"}, "NEFIA_CONFIG")],
)
def test_a_named_file_has_to_exist(
    option: str | None, environ: dict[str, str], origin: str
) -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        config.find_config(option, environ)
    assert "/no/such.yaml" in str(caught.value)
    assert origin in str(caught.value)


def test_a_daemon_without_a_file_is_told_all_four_places(system: Path) -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        config.require_config(None, {"HOME": str(HOME)})
    for place in ("--config", "$NEFIA_CONFIG", HOME / ".config/nefia/nefia.yaml", "etc.yaml"):
        assert str(place) in str(caught.value)
    assert caught.value.exit_code == EXIT_USAGE
    path = Path(written(system / "etc.yaml"))
    assert config.require_config(None, {"HOME": str(HOME)}) == path


def test_a_relative_xdg_directory_is_ignored(system: Path) -> None:
    environ = {"HOME": str(HOME), "XDG_STATE_HOME": "state"}
    found = config.resolve_state_dir(None, None, environ, is_root=False)
    assert found == HOME / ".local/state/nefia"


def test_the_state_directory_is_the_first_that_is_named() -> None:
    environ = {"NEFIA_STATE_DIR": "/environment", "XDG_STATE_HOME": "/xdg", "HOME": str(HOME)}
    configured = Path("/configured")

    def resolve(option: str | None, configured: Path | None, *, is_root: bool) -> Path:
        return config.resolve_state_dir(option, configured, environ, is_root=is_root)

    assert resolve("/option", configured, is_root=True) == Path("/option")
    assert resolve("here", configured, is_root=True) == Path.cwd() / "here"
    assert resolve(None, configured, is_root=True) == Path("/environment")
    del environ["NEFIA_STATE_DIR"]
    assert resolve(None, configured, is_root=True) == configured
    assert resolve(None, None, is_root=True) == Path("/var/lib/nefia")
    assert resolve(None, None, is_root=False) == Path("/xdg/nefia")
    del environ["XDG_STATE_HOME"]
    assert resolve(None, None, is_root=False) == HOME / ".local/state/nefia"


def client(
    system: Path, *, state_dir: str | None = None, file: str | None = None, **environ: str
) -> Path:
    """What a user who is not root asks, with a home directory below `system`."""
    return config.state_dir_for_client(
        state_dir=state_dir,
        config=file,
        environ={"HOME": str(system / "home")} | environ,
        is_root=False,
    )


def test_a_client_without_a_state_directory_of_its_own_asks_the_systems_daemon(
    system: Path,
) -> None:
    own = system / "home/.local/state/nefia"
    assert client(system) == own
    (system / "var").mkdir(mode=0o700)
    assert client(system) == system / "var"
    own.mkdir(parents=True)
    assert client(system) == own


def test_a_client_believes_the_state_directory_that_is_named(system: Path) -> None:
    (system / "var").mkdir()
    own = str(system / "home/.local/state/nefia")
    written(system / "etc.yaml", "state_dir: /configured")
    assert client(system) == Path("/configured")
    assert client(system, NEFIA_STATE_DIR="/environment") == Path("/environment")
    assert client(system, state_dir="/option", NEFIA_STATE_DIR="/environment") == Path("/option")
    assert client(system, state_dir=own) == Path(own)


def test_a_mistake_elsewhere_in_the_file_does_not_concern_a_client(system: Path) -> None:
    file = written(system / "file.yaml", "state_dir: /configured\nno_such_key: 1\n")
    assert client(system, file=file) == Path("/configured")


def test_a_mistake_about_the_state_directory_concerns_a_client(system: Path) -> None:
    file = written(system / "file.yaml", "state_dir: 5\n")
    with pytest.raises(InvalidConfiguration, match="5 is not text"):
        client(system, file=file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_unreadable_file_concerns_a_client_only_if_it_was_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        directory = Path(name)
        directory.chmod(0o755)
        file = written(directory / "etc.yaml", "state_dir: /configured")
        os.chmod(file, 0o600)
        monkeypatch.setattr(places, "SYSTEM_CONFIG", Path(file))
        monkeypatch.setattr(loader, "SYSTEM_STATE_DIR", directory)
        os.seteuid(NOBODY)
        try:
            assert client(directory) == directory
            with pytest.raises(Permission):
                client(directory, file=file)
        finally:
            os.seteuid(0)
