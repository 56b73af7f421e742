"""Tunnels and addresses in nefia.yaml: every mistake that would only show at the first failover."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import ip_interface
from pathlib import Path
from re import escape
from typing import Any

import pytest

from nefia import config
from nefia.config import Config, service_checks
from nefia.config.wg_quick import MAX_FILE_BYTES, MAX_PEERS, Hub, HubPeer, parse_hub, read_hub
from nefia.errors import InvalidConfiguration

SECRET = "k" * 43 + "="
TUNNEL = """\
[Interface]
PrivateKey = {secret}
ListenPort = 51820
Address = 10.77.0.1/24, fd77::1/64
{interface}

[Peer]
PublicKey = A=
AllowedIPs = 10.77.0.11/32, 10.88.0.0/16
{peer}
"""
TOOLS = ("wg", "wg-quick", "resolvconf")
ADVERTISED = "192.0.2.1:9700"


class Place:
    """A directory with a tunnel's file, tools and nefia.yaml."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bin = directory / "bin"
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).touch(mode=0o755)
        self.tunnel = directory / "wg0.conf"
        self.write_tunnel()

    def write_tunnel(self, interface: str = "", peer: str = "") -> None:
        self.tunnel.touch(mode=0o600)
        self.tunnel.write_text(TUNNEL.format(secret=SECRET, interface=interface, peer=peer))

    def load(self, *services: dict[str, Any], **cluster: Any) -> Config:
        path = self.directory / "nefia.yaml"
        own = {"enabled": True, "node_id": "n1", "bind_addr": "0.0.0.0:9700"}
        own |= {"advertise_addr": ADVERTISED} | cluster
        path.write_text(json.dumps({"cluster": own, "services": services}))
        return config.load(path, state_dir="/state", environ={}, is_root=True)

    def tunnelled(self, **values: Any) -> dict[str, Any]:
        return {"name": "tunnel", "kind": "wireguard", "config": str(self.tunnel)} | values

    def mistakes(self, *services: dict[str, Any], **cluster: Any) -> list[str]:
        try:
            self.load(*(services or [self.tunnelled()]), **cluster)
        except InvalidConfiguration as error:
            return [mistake.split(": ", 1)[1] for mistake in error.details["mistakes"]]
        return []

    def mistake(self, *services: dict[str, Any], **cluster: Any) -> str:
        [one] = self.mistakes(*services, **cluster)
        return one


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(tmp_path)
    monkeypatch.setenv("PATH", str(made.bin))
    monkeypatch.setattr(service_checks, "UNIT_LINKS", f"{tmp_path}/*.wants/wg-quick@{{}}.service")
    return made


def floating(**values: Any) -> dict[str, Any]:
    own = {"name": "floating", "kind": "address", "address": "192.0.2.10/24", "interface": "eth0"}
    return own | values


def test_a_good_tunnel(place: Place) -> None:
    assert place.mistakes() == []
    assert place.mistakes(floating(), place.tunnelled(source="192.0.2.10")) == []


@pytest.mark.parametrize("tool", ["wg", "wg-quick"])
def test_the_tools_are_needed(place: Place, tool: str) -> None:
    (place.bin / tool).unlink()
    assert f"needs the program {tool}, which is not in the PATH" in place.mistake()


def test_the_file_is_there(place: Place) -> None:
    place.tunnel.unlink()
    assert f"{place.tunnel} cannot be used: No such file" in place.mistake()


@pytest.mark.parametrize(("mode", "is_open"), [(0o604, True), (0o601, True), (0o640, False)])
def test_the_file_is_not_open_to_everyone(place: Place, mode: int, is_open: bool) -> None:
    place.tunnel.chmod(mode)
    assert ["chmod 600 it" in mistake for mistake in place.mistakes()] == [True] * is_open


@pytest.mark.parametrize("name", ["longer-than-most.conf", "wg 0.conf", "wg0.txt", "wg:0.conf"])
def test_the_file_names_the_interface(place: Place, name: str) -> None:
    place.tunnel = place.tunnel.rename(place.tunnel.with_name(name))
    assert f"{name} does not name an interface" in place.mistake()


def test_fifteen_characters_name_one(place: Place) -> None:
    place.tunnel = place.tunnel.rename(place.tunnel.with_name("as-long-as-this.conf"))
    assert place.mistakes() == []


def test_a_unit_of_systemd_would_start_it_too(place: Place) -> None:
    wants = place.directory / "multi-user.target.wants"
    wants.mkdir()
    (wants / "wg-quick@wg1.service").touch()
    assert place.mistakes() == []
    (wants / "wg-quick@wg0.service").symlink_to("/nowhere")
    assert "systemctl disable --now wg-quick@wg0" in place.mistake()


@pytest.mark.parametrize(
    ("interface", "part"),
    [
        ("SaveConfig = true", "has SaveConfig = true"),
        ("saveconfig=true # no", "has SaveConfig = true"),
        ("ListenPort = 0", 'has "0" for a ListenPort'),
        ("ListenPort = many", 'has "many" for a ListenPort'),
        ("Address = 10.77.0.1/33", "'10.77.0.1/33' does not appear to be"),
    ],
)
def test_what_a_hub_may_not_say_of_itself(place: Place, interface: str, part: str) -> None:
    place.write_tunnel(interface)
    assert part in place.mistake()


@pytest.mark.parametrize(
    "interface", ["SaveConfig = false", "DNS = 192.0.2.53", "#SaveConfig = true", "MTU = 1400"]
)
def test_what_it_may_say(place: Place, interface: str) -> None:
    place.write_tunnel(interface)
    assert place.mistakes() == []


def test_dns_needs_resolvconf(place: Place) -> None:
    place.write_tunnel("DNS = 192.0.2.53")
    (place.bin / "resolvconf").unlink()
    assert "has DNS, which wg-quick sets through resolvconf" in place.mistake()


def test_a_hub_has_a_port(place: Place) -> None:
    place.tunnel.write_text(f"[Interface]\nPrivateKey = {SECRET}\n")
    assert "has no ListenPort" in place.mistake()


@pytest.mark.parametrize(
    ("peer", "part"),
    [
        ("AllowedIPs = 0.0.0.0/0", "has a peer with AllowedIPs of prefix /0"),
        ("AllowedIPs = ::/0", "has a peer with AllowedIPs of prefix /0"),
        ("PersistentKeepalive = 25", "has PersistentKeepalive for a peer without Endpoint"),
    ],
)
def test_what_a_peer_may_not_have(place: Place, peer: str, part: str) -> None:
    place.write_tunnel(peer=peer)
    assert part in place.mistake()


@pytest.mark.parametrize(
    ("interface", "peer"),
    [
        ("Table = off", "AllowedIPs = 0.0.0.0/0"),
        ("Table = 77", "AllowedIPs = 0.0.0.0/0"),
        ("", "PersistentKeepalive = 25\nEndpoint = 192.0.2.7:1"),
        ("", "PersistentKeepalive = off"),
    ],
)
def test_what_a_peer_may_have(place: Place, interface: str, peer: str) -> None:
    place.write_tunnel(interface, peer)
    assert place.mistakes() == []


@pytest.mark.parametrize(
    "address", ["10.77.0.2:9700", "10.77.0.11:9700", "10.88.7.7:9700", "[fd77::2]:9700"]
)
def test_the_cluster_may_not_go_through_the_tunnel(place: Place, address: str) -> None:
    said = place.mistake(advertise_addr=address)
    assert f"has the cluster's advertise_addr, {address}, inside the tunnel" in said
    said = place.mistake(peers=[{"id": "n2", "address": address}])
    assert f"has the cluster's peers[0], {address}, inside the tunnel" in said


def test_where_wg_quick_sets_no_routes_only_its_own_networks_count(place: Place) -> None:
    place.write_tunnel("Table = off")
    assert place.mistakes(advertise_addr="10.88.7.7:9700") == []
    assert "inside the tunnel" in place.mistake(advertise_addr="10.77.0.2:9700")


def test_a_host_name_is_not_looked_up(place: Place) -> None:
    assert place.mistakes(advertise_addr="node-1.example:9700") == []


def test_one_tunnel_for_each_interface(place: Place) -> None:
    said = place.mistake(place.tunnelled(), place.tunnelled(name="other"))
    assert said == "services[1].config: is the interface of services[0] too"


@pytest.mark.parametrize("before", [[], [{"address": "192.0.2.11/24"}]])
def test_a_source_stands_before_its_tunnel(place: Place, before: list[dict[str, str]]) -> None:
    services = [floating(**values) for values in before]
    said = place.mistake(*services, place.tunnelled(source="192.0.2.10"))
    assert "192.0.2.10 is not the address of an address service that stands before" in said


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("address", "192.0.2.10", "is not an IP address with its prefix"),
        ("address", "192.0.2.10/33", "is not an IP address with its prefix"),
        ("address", "somewhere/24", "is not an IP address with its prefix"),
        ("interface", "sixteen-is-long1", "is not an interface's name"),
        ("interface", "a/b", "is not an interface's name"),
        ("interface", "..", "is not an interface's name"),
        ("interface", "", "is not an interface's name"),
    ],
)
def test_an_address_is_one(place: Place, key: str, value: str, part: str) -> None:
    said = place.mistake(floating(**{key: value}))
    assert said.startswith(f"services[0].{key}: ")
    assert part in said


def test_an_address_floats_once(place: Place) -> None:
    said = place.mistake(floating(), floating(name="other", address="192.0.2.10/32"))
    assert said == "services[1].address: is also that of services[0]"


def test_a_node_keeps_its_own_address(place: Place) -> None:
    said = place.mistake(floating(address="192.0.2.1/24"))
    assert "192.0.2.1 is this node's advertise_addr too" in said


def test_a_source_is_an_address(place: Place) -> None:
    said = place.mistake(floating(), place.tunnelled(source="192.0.2.10/24"))
    assert '"192.0.2.10/24" is not an IP address' in said


def test_a_hub_is_read_as_wg_quick_reads_it() -> None:
    text = (
        "[interface]\nlistenport=7\nADDRESS = 10.0.0.1/24,fd00::1/64\naddress = 10.1.0.1/16\n"
        "Table = OFF\nDNS = 9.9.9.9\nPostDown = a = b %i # no\nPostDown = c\nPreDown = d\n"
        "[Peer] # the first\nPublicKey=A=\nAllowedIPs=10.0.0.2\nEndpoint = x:1\n"
        "PersistentKeepalive = 25\n[Peer]\nPublicKey = B=\n"
    )
    assert parse_hub(text) == Hub(
        listen_port=7,
        addresses=tuple(map(ip_interface, ("10.0.0.1/24", "fd00::1/64", "10.1.0.1/16"))),
        table="off",
        has_dns=True,
        pre_down=("d",),
        post_down=("a = b %i", "c"),
        peers=(
            HubPeer(
                public_key="A=",
                allowed_ips=(ip_interface("10.0.0.2/32"),),
                has_endpoint=True,
                has_keepalive=True,
            ),
            HubPeer(public_key="B="),
        ),
    )


@pytest.mark.parametrize(
    ("write", "part"),
    [
        (lambda path: path.write_bytes(bytes(MAX_FILE_BYTES + 1)), "is longer than"),
        (lambda path: path.write_text("[Peer]\n" * (MAX_PEERS + 1)), "are the most"),
    ],
)
def test_a_hub_is_bounded(tmp_path: Path, write: Callable[[Path], int], part: str) -> None:
    path = tmp_path / "wg0.conf"
    write(path)
    with pytest.raises(ValueError, match=part):
        read_hub(path)


def test_all_that_is_wrong_with_one_tunnel_is_said_at_once(place: Place) -> None:
    place.write_tunnel("SaveConfig = true", "PersistentKeepalive = 25")
    place.tunnel.chmod(0o644)
    for part, mistake in zip(
        ("chmod 600", "SaveConfig", "PersistentKeepalive"), place.mistakes(), strict=True
    ):
        assert part in mistake


def test_a_command_has_something_to_run(place: Place) -> None:
    mistake = place.mistake({"name": "app", "kind": "command", "run": []})
    assert mistake == "services[0].run: is empty; write the program and its arguments"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (f"[Interface]\nPrivatKey = {SECRET}", 'has "privatkey" in [interface], which neither'),
        (f"[Peer]\nPrivateKey = {SECRET}", 'has "privatekey" in [peer], which neither'),
        (f"[Interface]\n{SECRET}", "has a line in [interface], which neither"),
        (f"PrivateKey = {SECRET}", 'has "privatekey" before any section'),
        (f"[Interface]\nPrivateKey = {SECRET[1:]}", "has a privatekey that is no key"),
        (f"[Peer]\nPresharedKey = {SECRET}{SECRET}", "has a presharedkey that is no key"),
    ],
)
def test_what_wg_would_show_with_its_secret_never_comes_to_it(text: str, part: str) -> None:
    """Its messages quote the line or key; they would stand in log, status and history."""
    with pytest.raises(ValueError, match=escape(part)) as caught:
        parse_hub(text)
    assert SECRET[1:20] not in str(caught.value)
