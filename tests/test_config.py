"""nefia.yaml: the good files and what they mean, the bad ones and everything said about them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import evolve

from nefia import config
from nefia.config import ClusterConfig, Config, PeerConfig, RaftConfig
from nefia.config.reactor import (
    AlertConfig,
    Condition,
    EnqueueConfig,
    ExecConfig,
    MatchConfig,
    RuleConfig,
    Template,
    websocket_url,
)
from nefia.config.reader import MAX_CONFIG_BYTES, MAX_MISTAKES_SHOWN
from nefia.config.services import ReactorConfig
from nefia.errors import EXIT_USAGE, InvalidConfiguration, Permission

ROOT = Path(__file__).parent.parent
GOOD = ROOT / "fixtures/config/good"
BAD = ROOT / "fixtures/config/bad"
REFERENCE = ROOT / "docs/configuration.md"
REACTOR_DOCUMENT = ROOT / "docs/reactor.md"

STATE_DIR = Path("/state")
NOBODY = 65534


def load(path: Path, *, state_dir: str | None = None) -> Config:
    return config.load(path, state_dir=state_dir, environ={}, is_root=True)


def written(directory: Path, text: str) -> Path:
    path = directory / "nefia.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def mistakes(path: Path) -> list[str]:
    with pytest.raises(InvalidConfiguration) as caught:
        load(path)
    assert caught.value.exit_code == EXIT_USAGE
    found: list[str] = caught.value.details["mistakes"]
    assert caught.value.message == "\n".join(found)
    return found


DEFAULTS = Config(
    path=None,
    state_dir=STATE_DIR,
    cluster=ClusterConfig(data_dir=STATE_DIR / "cluster"),
)

HOST = Template((("host",),))
REACTOR = ReactorConfig(
    name="reactor",
    listen="[::]:9500",
    start_timeout=5.0,
    urls=(("node-1", "wss://one.example.org:9500"), ("node-2", "ws://[fd00::2]/events?x=1")),
    max_connections=5,
    max_connections_per_address=3,
    events_per_second=7,
    rules=(
        RuleConfig(name="all", do=(AlertConfig(),)),
        RuleConfig(
            name="disk-full",
            match=MatchConfig(
                type="disk.*",
                host="web-?",
                severity=("error", "critical"),
                min_severity="warning",
                data=(
                    ("used", Condition(">=", 90.5)),
                    ("disk.mount", Condition("glob", "/var*")),
                    ("removable", Condition("==", False)),
                    ("disks", Condition("==", 2)),
                    ("note", Condition("!=", "none")),
                ),
            ),
            do=(
                EnqueueConfig(
                    queue="cleanup",
                    host=HOST,
                    priority=-1,
                    delay=60.0,
                    max_attempts=7,
                    payload=(
                        ("mount", Template((("data", "disk", "mount"),))),
                        ("text", Template(("$ ", ("data", "used"), "%"))),
                        ("number", 3),
                        ("urgent", True),
                    ),
                ),
                ExecConfig(
                    run=(
                        Template(("/usr/local/bin/page",)),
                        Template(("--",)),
                        Template((("data", "used"),)),
                    ),
                    timeout=2.0,
                    max_attempts=1,
                ),
                AlertConfig(
                    webhook="https://chat.example.org/hooks/1?a=b",
                    payload=(("text", Template((("type",),))),),
                    timeout=3.0,
                    max_attempts=2,
                ),
            ),
        ),
    ),
)

EXPECTED = {
    "empty": DEFAULTS,
    "reactor": evolve(DEFAULTS, services=(REACTOR,)),
    "minimal": evolve(
        DEFAULTS,
        cluster=ClusterConfig(
            enabled=True,
            node_id="node-1",
            bind_addr="127.0.0.1:9700",
            advertise_addr="localhost:9700",
            data_dir=STATE_DIR / "cluster",
        ),
    ),
    "ipv6": evolve(
        DEFAULTS,
        cluster=ClusterConfig(
            enabled=True,
            node_id="node-1",
            bind_addr="[::]:9700",
            advertise_addr="[fd00::1]:9700",
            data_dir=STATE_DIR / "cluster",
            peers=(
                PeerConfig(id="node-1", address="[fd00::1]:9700"),
                PeerConfig(id="node-2", address="[fe80::2%eth0]:9700"),
            ),
        ),
    ),
    "relative": evolve(
        DEFAULTS,
        cluster=ClusterConfig(data_dir=GOOD / "raft", tls_ca_file=GOOD / "certs/ca.pem"),
    ),
    "full": Config(
        path=None,
        state_dir=STATE_DIR,
        admin_group="root",
        cluster=ClusterConfig(
            enabled=True,
            node_id="node-1",
            bind_addr="0.0.0.0:9700",
            advertise_addr="10.99.0.1:9700",
            data_dir=Path("/srv/raft"),
            peers=(
                PeerConfig(id="node-2", address="10.99.0.2:9700"),
                PeerConfig(id="node-3", address="three.example.org:9700"),
            ),
            tls_cert_file=Path("/etc/nefia/cluster-cert.pem"),
            tls_key_file=Path("/etc/nefia/cluster-key.pem"),
            tls_ca_file=Path("/etc/nefia/cluster-ca.pem"),
            dead_peer_cleanup=86_400.0,
            raft=RaftConfig(
                apply_timeout=90.0,
                leader_lease=0.2,
                heartbeat_timeout=0.3,
                election_timeout=0.4,
                snapshot_retain=3,
                snapshot_threshold=100,
                snapshot_interval=1.0,
                trailing_logs=50,
                max_pool=2,
                transport_timeout=2.5,
            ),
        ),
        session_ttl_minutes=60,
        session_idle_timeout_minutes=10,
        session_gc_interval_minutes=1,
        task_retention=3600.0,
    ),
}


def test_every_good_file_has_its_meaning_written_down() -> None:
    assert {path.stem for path in GOOD.glob("*.yaml")} == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_a_good_file_means_what_it_says(name: str) -> None:
    path = GOOD / f"{name}.yaml"
    assert load(path, state_dir=str(STATE_DIR)) == evolve(EXPECTED[name], path=path)


@pytest.mark.parametrize("path", sorted(BAD.glob("*.yaml")), ids=lambda path: path.stem)
def test_all_mistakes_of_a_bad_file_are_reported_at_once(path: Path) -> None:
    expected = path.with_suffix(".expected").read_text(encoding="utf-8").splitlines()
    assert [message.replace(f"{BAD}/", "") for message in mistakes(path)] == expected


def test_the_defaults_are_those_of_the_specification() -> None:
    assert config.default(state_dir=str(STATE_DIR), environ={}, is_root=True) == DEFAULTS
    assert RaftConfig() == RaftConfig(
        apply_timeout=10.0,
        leader_lease=0.5,
        heartbeat_timeout=1.0,
        election_timeout=1.0,
        snapshot_retain=2,
        snapshot_threshold=8192,
        snapshot_interval=120.0,
        trailing_logs=10240,
        max_pool=3,
        transport_timeout=10.0,
    )
    assert DEFAULTS.session_ttl_minutes == 1440
    assert DEFAULTS.session_idle_timeout_minutes == 30
    assert DEFAULTS.session_gc_interval_minutes == 5
    assert DEFAULTS.task_retention == 86_400.0
    assert not DEFAULTS.cluster.enabled


def test_the_state_directory_of_the_file_is_relative_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, "state_dir: state")
    monkeypatch.chdir(tmp_path)
    loaded = load(Path("nefia.yaml"))
    assert loaded.state_dir == tmp_path / "state"
    assert loaded.cluster.data_dir == tmp_path / "state/cluster"


def test_the_state_directory_of_the_option_comes_before_that_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "state_dir: /from/file")
    assert load(path, state_dir="/from/option").state_dir == Path("/from/option")


@pytest.mark.parametrize(
    ("wrong_line", "key"),
    [("leader_lease: 2x", "leader_lease"), ("heartbeat_timeout: 1", "heartbeat_timeout")],
)
def test_a_faulty_value_is_not_compared_with_others(
    tmp_path: Path, wrong_line: str, key: str
) -> None:
    other = "heartbeat_timeout: 20ms" if key == "leader_lease" else "leader_lease: 50s"
    text = f"cluster: {{raft: {{{wrong_line}, {other}}}}}"
    [message] = mistakes(written(tmp_path, text))
    assert f"cluster.raft.{key}: " in message


def test_a_bom_is_no_mistake(tmp_path: Path) -> None:
    assert load(written(tmp_path, "\ufeffsession_ttl_minutes: 7")).session_ttl_minutes == 7


def test_too_many_mistakes_are_cut_off_and_that_is_said(tmp_path: Path) -> None:
    path = written(tmp_path, "".join(f"key{n}: 1\n" for n in range(MAX_MISTAKES_SHOWN + 50)))
    messages = mistakes(path)
    assert len(messages) == MAX_MISTAKES_SHOWN + 1
    assert messages[-1] == f"{path}: only the first {MAX_MISTAKES_SHOWN} mistakes are shown"


def test_too_many_peers_are_one_mistake(tmp_path: Path) -> None:
    peers = "".join(f"    - {{id: n{n}, address: 'h{n}:1'}}\n" for n in range(101))
    [message] = mistakes(written(tmp_path, f"cluster:\n  peers:\n{peers}"))
    assert message.endswith(":2: cluster.peers: has 101 items; write at most 100")


def test_a_file_of_the_greatest_size_is_read_and_a_larger_one_is_not(tmp_path: Path) -> None:
    path = written(tmp_path, "#" * MAX_CONFIG_BYTES)
    load(path)
    path.write_text("#" * (MAX_CONFIG_BYTES + 1), encoding="utf-8")
    assert mistakes(path) == [f"{path}:1: is larger than 64KiB; is this nefia.yaml?"]


def test_brackets_nested_too_deeply_are_a_mistake(tmp_path: Path) -> None:
    [message] = mistakes(written(tmp_path, "[" * 5000))
    assert "nested too deeply" in message


def test_an_alias_within_its_own_anchor_ends(tmp_path: Path) -> None:
    [message] = mistakes(written(tmp_path, "cluster: &c\n  raft: *c\n"))
    assert "cluster.raft.raft: unknown key" in message


def test_a_file_that_is_none_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="cannot be read: Is a directory"):
        load(tmp_path)
    with pytest.raises(InvalidConfiguration, match="cannot be read: No such file"):
        load(tmp_path / "nefia.yaml")


@pytest.fixture
def others_directory() -> Iterator[Path]:
    """A directory that every user may enter; the test goes on as a user who owns nothing."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)
        os.seteuid(0)


def test_an_unreadable_file_is_a_matter_of_permission(others_directory: Path) -> None:
    path = written(others_directory, "")
    path.chmod(0o600)
    os.seteuid(NOBODY)
    with pytest.raises(Permission, match="may not read it"):
        load(path)


def test_an_unreadable_key_is_a_mistake(others_directory: Path) -> None:
    for name in ("cert", "key", "ca"):
        (others_directory / name).touch(0o600 if name == "key" else 0o644)
    path = written(
        others_directory,
        "cluster:\n  tls_cert_file: cert\n  tls_key_file: key\n  tls_ca_file: ca\n"
        "  tls_enabled: true\n",
    )
    os.seteuid(NOBODY)
    [unreadable] = mistakes(path)
    assert f"{path}:3: cluster.tls_key_file: {others_directory}/key is not readable" in unreadable


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.99.0.1:9700", "10.99.0.1", 9700),
        ("node-1.example.org.:1", "node-1.example.org.", 1),
        ("a_b:65535", "a_b", 65535),
        ("[fd00::1]:9700", "fd00::1", 9700),
        ("[fe80::1%eth0]:9700", "fe80::1%eth0", 9700),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, host: str, port: int) -> None:
    assert config.parse_address(text) == (host, port)


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "[0:0::0]", "[::ffff:0.0.0.0]"])
def test_no_form_of_the_unspecified_address_can_be_advertised(tmp_path: Path, host: str) -> None:
    [message] = mistakes(written(tmp_path, f'cluster:\n  advertise_addr: "{host}:9700"\n'))
    assert "cannot be dialled" in message


def test_the_reference_has_the_tables_of_the_schema() -> None:
    """`python -m nefia.config` prints what belongs there."""
    assert config.reference_markdown() in REFERENCE.read_text(encoding="utf-8")


def test_the_example_of_the_reference_is_right(tmp_path: Path) -> None:
    _, _, rest = REFERENCE.read_text(encoding="utf-8").partition("```yaml\n")
    example, fence, _ = rest.partition("```")
    assert fence
    loaded = load(written(tmp_path, example))
    assert loaded.cluster.enabled
    assert loaded.cluster.raft == RaftConfig()


@pytest.mark.parametrize(
    ("node_id", "address", "url"),
    [
        ("node-1", "10.0.0.1:9700", "wss://one.example.org:9500"),
        ("node-3", "10.0.0.3:9700", "ws://10.0.0.3:9500"),
        ("node-3", "[fd00::3]:9700", "ws://[fd00::3]:9500"),
        ("node-3", "three.example.org:9700", "ws://three.example.org:9500"),
    ],
)
def test_where_a_reactor_is_reached(node_id: str, address: str, url: str) -> None:
    assert REACTOR.url_of(node_id, address) == url
    with_tls = evolve(REACTOR, tls_cert_file=Path("cert.pem"))
    assert with_tls.url_of(node_id, address) == url.replace("ws://", "wss://")


@pytest.mark.parametrize(
    "url", ["", "ws://", "http://h:1", "ws://h:99999", "ws://h:0", "ws://u@h:1", "ws://h:x", 5]
)
def test_what_is_no_url_of_a_reactor(url: str | int) -> None:
    with pytest.raises(ValueError, match="not a WebSocket URL"):
        websocket_url(url)


def test_the_example_of_the_reactor_is_right(tmp_path: Path) -> None:
    _, _, rest = REACTOR_DOCUMENT.read_text(encoding="utf-8").partition("```yaml\n")
    example, fence, _ = rest.partition("```")
    assert fence
    files = ("reactor-token", "reactor-cert.pem", "reactor-key.pem")
    kept = [line for line in example.splitlines() if not line.endswith(files)]
    [reactor] = load(written(tmp_path, "\n".join(kept))).services
    assert isinstance(reactor, ReactorConfig)
    assert len(kept) == len(example.splitlines()) - len(files)
    assert [len(rule.do) for rule in reactor.rules] == [2]


def test_importing_it_imports_nothing_slow() -> None:
    """SPEC 3: a command that only asks the daemon answers within 0.3 s, imports included."""
    slow = {"trio", "cattrs", "structlog", "msgpack", "lmdb", "ruamel", "ruamel.yaml"}
    program = "import sys, nefia.config; print(' '.join(sys.modules))"
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not slow & set(ran.stdout.split())
