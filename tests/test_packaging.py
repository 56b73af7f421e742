"""The wheel and the sdist: they build, install beside nothing of the source tree, and are whole."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Mapping
from pathlib import Path
from shutil import which
from venv import EnvBuilder

import pytest

from nefia import __version__
from nefia.cli.manual import manual

ROOT = Path(__file__).parent.parent
PACKAGING = ROOT / "packaging"
INSTALLED = {
    "share/man/man1/nefia.1": "nefia.1",
    "share/bash-completion/completions/nefia": "completions/nefia.bash",
    "share/zsh/site-functions/_nefia": "completions/nefia.zsh",
    "share/fish/vendor_completions.d/nefia.fish": "completions/nefia.fish",
    **{
        f"share/nefia/{name}": name
        for name in (
            "nefia.service",
            "nefia-guard.service",
            "prometheus-alerts.yaml",
            "grafana-dashboard.json",
        )
    },
}
"""Files in the environment, and what they are in packaging/."""
COMPLETE = """
source "$1"
COMP_WORDS=(nefia cluster st) COMP_CWORD=2
_nefia_completion nefia
echo "${COMPREPLY[@]}"
"""


def run(*argv: str | Path, cwd: Path | None = None, path: str = os.environ["PATH"]) -> str:
    environment: Mapping[str, str] = os.environ | {"PATH": path}
    done = subprocess.run(
        [str(word) for word in argv], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel that the sdist's sources make. Only dependencies are ours."""
    place = tmp_path_factory.mktemp("packaging")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", place, cwd=ROOT)
    with tarfile.open(place / f"nefia-{__version__}.tar.gz") as sdist:
        sdist.extractall(place, filter="data")
    source = place / f"nefia-{__version__}"
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", place, cwd=source)
    environment = place / "environment"
    EnvBuilder(symlinks=True).create(environment)
    [wheel] = place.glob("*.whl")
    pip = (sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"))
    run(*pip, "install", "--quiet", "--no-index", "--no-deps", wheel)
    [packages] = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return environment


def test_the_command_is_there_and_comes_from_the_wheel(installed: Path) -> None:
    nefia = installed / "bin" / "nefia"
    assert run(nefia, "--version") == f"nefia {__version__}\n"
    assert "cluster" in run(nefia, "--help")
    where = "import nefia; print(nefia.__file__)"
    found = run(installed / "bin" / "python", "-c", where, cwd=installed)
    assert Path(found).is_relative_to(installed)


def test_all_files_of_the_package_are_there(installed: Path) -> None:
    [package] = installed.glob("lib/python*/site-packages/nefia")
    assert files_in(package) == files_in(ROOT / "nefia")


def files_in(package: Path) -> set[Path]:
    return {
        path.relative_to(package)
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


@pytest.mark.parametrize("name", INSTALLED)
def test_a_file_for_others_is_there(installed: Path, name: str) -> None:
    assert (installed / name).read_bytes() == (PACKAGING / INSTALLED[name]).read_bytes()


def test_completion_completes(installed: Path) -> None:
    path = f"{installed / 'bin'}:{os.environ['PATH']}"
    script = installed / "share/bash-completion/completions/nefia"
    assert run("bash", "-c", COMPLETE, "bash", script, path=path) == "status\n"


@pytest.mark.skipif(which("groff") is None, reason="needs groff")
def test_the_manual_page_is_sound(installed: Path) -> None:
    page = installed / "share/man/man1/nefia.1"
    shown = run("groff", "-man", "-Tascii", "-ww", "-P-cbu", page)
    assert "nefia cluster add-peer ID" in shown


def test_the_manual_page_is_of_these_commands() -> None:
    """Written anew by `python -m nefia.cli.manual > packaging/nefia.1`."""
    assert (PACKAGING / "nefia.1").read_text() == manual()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_is_what_the_command_prints(shell: str) -> None:
    """But for what differs between versions of click: the names that both sides rely on."""
    written = (PACKAGING / "completions" / f"nefia.{shell}").read_text()
    for name in ("_nefia_completion", f"_NEFIA_COMPLETE={shell}_complete"):
        assert name in written
        assert name in run(sys.executable, "-m", "nefia", "completion", shell)
