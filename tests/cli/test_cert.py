"""`nefia cert`: what it writes, with which modes, and what it refuses."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import pytest
from click.testing import Result

from nefia.certificate_files import CA, CA_KEY, CERT, KEY
from nefia.credentials import TlsFiles, load_credentials
from nefia.errors import EXIT_FAILED, EXIT_PERMISSION, EXIT_USAGE
from tests.certificates import bake
from tests.cli.asking import run


def done(*arguments: str) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    return result


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where an authority is."""
    directory = tmp_path / "pki"
    done("cert", "ca", "--directory", str(directory))
    return directory


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_made_is_what_a_daemon_takes(place: Path) -> None:
    result = done("cert", "issue", "--node", "node-1", "--directory", str(place))
    node = place / "node-1"
    assert str(node / CERT) in result.stdout
    assert "/etc/nefia" in result.stderr
    load_credentials(TlsFiles(node / CERT, node / KEY, node / CA), "node-1")


def test_keys_are_for_their_owner_only(place: Path) -> None:
    done("cert", "issue", "--node", "node-1", "--directory", str(place))
    assert mode(place / CA_KEY) == mode(place / "node-1" / KEY) == 0o600
    assert mode(place / "node-1") == 0o700
    assert mode(place / CA) == mode(place / "node-1" / CERT) == 0o644


def test_nothing_is_replaced_unasked(place: Path) -> None:
    issue = ("cert", "issue", "--node", "node-1", "--directory", str(place))
    done(*issue)
    before = (place / "node-1" / CERT).read_bytes()
    refused = run(*issue)
    assert refused.exit_code == EXIT_FAILED
    assert f"{place / 'node-1' / KEY} is there already" in refused.stderr
    assert "Nothing was changed" in refused.stderr
    assert (place / "node-1" / CERT).read_bytes() == before
    done(*issue, "--replace")
    assert (place / "node-1" / CERT).read_bytes() != before


def test_an_authority_is_never_replaced(place: Path) -> None:
    before = (place / CA_KEY).read_bytes()
    assert run("cert", "ca", "--directory", str(place)).exit_code == EXIT_FAILED
    assert (place / CA_KEY).read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (("issue", "--node", "a/b"), EXIT_USAGE, "is not a node id"),
        (("issue", "--node", "node-1"), EXIT_PERMISSION, "cannot be read: No such file"),
        (("issue",), EXIT_USAGE, "Missing option '--node'"),
        (("issue", "--node", "n", "--days", "0"), EXIT_USAGE, "'--days'"),
        (("ca", "--name", ""), EXIT_USAGE, "--name"),
        (("ca", "--directory", "/proc/nowhere"), EXIT_PERMISSION, "cannot be written to"),
        (("inspect", "no-such-file"), EXIT_PERMISSION, "cannot be read: No such file"),
    ],
)
def test_what_is_refused(
    arguments: tuple[str, ...], code: int, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("cert", *arguments)
    assert result.exit_code == code, result.stderr
    assert why in result.stderr
    assert "Traceback" not in result.stderr


def test_a_node_cannot_sign(place: Path) -> None:
    done("cert", "issue", "--node", "node-1", "--directory", str(place))
    node = place / "node-1"
    (node / CERT).rename(node / CA)
    (node / KEY).rename(node / CA_KEY)
    result = run("cert", "issue", "--node", "node-2", "--directory", str(node))
    assert result.exit_code == EXIT_PERMISSION
    assert "is not that of an authority" in result.stderr


def test_inspect(place: Path) -> None:
    done("cert", "issue", "--node", "node-1", "--directory", str(place), "--days", "10")
    shown = done("cert", "inspect", str(place / "node-1" / CERT)).stdout
    assert re.search(r"^Subject: +CN=node-1$", shown, re.MULTILINE)
    assert re.search(r"^Node IDs: +node-1$", shown, re.MULTILINE)
    assert re.search(r"^For Nodes: +true$", shown, re.MULTILINE)
    assert re.search(r"^Extended Key Usages: +clientAuth, serverAuth$", shown, re.MULTILINE)
    assert "PRIVATE" not in shown


def test_inspect_says_why_a_certificate_is_no_nodes(place: Path, tmp_path: Path) -> None:
    files = []
    for recipe in ("server-only", "expired"):
        path = tmp_path / f"{recipe}.pem"
        path.write_bytes(bake(recipe, "node-1").certificate)
        files.append(str(path))
    result = done("cert", "inspect", *files, str(place / CA), "-o", "json")
    one, expired, authority = json.loads(result.stdout)["certificates"]
    assert not one["for_nodes"]
    assert "has only the extended key usage serverAuth" in one["why_not"]
    assert (expired["for_nodes"], expired["valid_now"], expired["days_left"]) == (True, False, -1)
    assert authority["authority"]
    assert not authority["for_nodes"]


def test_inspect_of_a_key_shows_nothing_of_it(place: Path) -> None:
    result = run("cert", "inspect", str(place / CA_KEY))
    assert result.exit_code == EXIT_PERMISSION
    assert "holds no certificate" in result.stderr
    secret = (place / CA_KEY).read_text().splitlines()[1]
    assert secret not in result.stderr + result.stdout
