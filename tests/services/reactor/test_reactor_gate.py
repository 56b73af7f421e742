"""Tokens and TLS: who comes in, and what a reload changes."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio_websocket import ConnectionClosed, ConnectionRejected

from nefia.config.reactor_files import read_tokens, server_context
from nefia.errors import InvalidConfiguration, TLSFailed
from nefia.net.network import TcpNetwork
from nefia.services.interface import ServiceFailed
from nefia.services.reactor import service as service_module
from nefia.services.reactor.gate import Gate
from tests.services.reactor.certificates import certified
from tests.services.reactor.driving import (
    ENQUEUE,
    EVENT,
    PATIENCE_SECONDS,
    asked,
    connected,
    reactor_config,
    rule,
    started,
)

TOKEN = "0123456789abcdef0123456789abcdef"
OTHER = "fedcba9876543210fedcba9876543210"


def written(directory: Path, text: str, mode: int = 0o600) -> Path:
    path = directory / "tokens"
    path.touch(mode=0o600)
    path.write_text(text)
    path.chmod(mode)
    return path


async def test_who_has_the_token_comes_in(tmp_path: Path) -> None:
    config = reactor_config(token_file=written(tmp_path, f"{TOKEN}\n{OTHER}\n"))
    async with started(config) as stage:
        for token in (TOKEN, OTHER):
            async with connected(stage.url, token=token) as beacon:
                assert await asked(beacon, EVENT) == {"ack": "1"}
        for wrong in ("", "x" * 32, TOKEN[:-1], f"{TOKEN} {OTHER}"):
            with pytest.raises(ConnectionRejected) as caught:
                async with connected(stage.url, token=wrong):
                    raise AssertionError("let in")
            assert caught.value.status_code == 401
            assert b"permission" in (caught.value.body or b"")


@given(st.lists(st.binary(min_size=1), min_size=1, max_size=5), st.binary())
def test_only_a_token_is_one(tokens: list[bytes], given_: bytes) -> None:
    gate = Gate(tuple(tokens))
    assert gate.admits([(b"authorization", b"Bearer " + given_)]) is (given_ in tokens)
    assert not gate.admits([(b"cookie", b"Bearer " + tokens[0])])
    assert tokens[0].hex() not in repr(gate)
    assert str(tokens[0]) not in repr(gate)


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        ("", 0o600, "has no token"),
        ("short", 0o600, "16 or more"),
        ("tokenwithumläutes", 0o600, "ASCII"),
        (f"{TOKEN}\n" * 17, 0o600, "more than 16"),
        (TOKEN, 0o644, "read by others"),
        (TOKEN, 0o620, "read by others"),
    ],
)
def test_files_of_tokens_that_cannot_be_used(
    tmp_path: Path, text: str, mode: int, says: str
) -> None:
    with pytest.raises(InvalidConfiguration, match=says):
        read_tokens(written(tmp_path, text, mode))


def test_a_file_of_tokens_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="No such file"):
        read_tokens(tmp_path / "none")


async def test_events_over_tls(tmp_path: Path) -> None:
    files = certified(tmp_path)
    config = reactor_config(tls_cert_file=files.cert, tls_key_file=files.key)
    async with (
        started(config) as stage,
        connected(stage.url, context=files.context) as beacon,
    ):
        assert await asked(beacon, EVENT) == {"ack": "1"}
        stage.reactor.fence()
        with trio.fail_after(PATIENCE_SECONDS), pytest.raises(ConnectionClosed):
            await beacon.get_message()


async def test_without_tls_nobody_comes_in(tmp_path: Path) -> None:
    files = certified(tmp_path)
    config = reactor_config(tls_cert_file=files.cert, tls_key_file=files.key)
    async with started(config) as stage:
        async with await TcpNetwork(1.0).dial(config.listen) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert not (await stream.receive_some()).startswith(b"HTTP")
        async with connected(stage.url, context=files.context) as beacon:
            assert await asked(beacon, EVENT) == {"ack": "1"}


async def test_old_versions_of_tls_are_refused(tmp_path: Path) -> None:
    files = certified(tmp_path)
    context = server_context(reactor_config(tls_cert_file=files.cert, tls_key_file=files.key))
    assert context is not None
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_certificates_that_cannot_be_used(tmp_path: Path) -> None:
    files, other = certified(tmp_path / "a"), certified(tmp_path / "b")
    good = reactor_config(tls_cert_file=files.cert, tls_key_file=files.key)
    server_context(good)
    with pytest.raises(TLSFailed, match="not a certificate and its key"):
        server_context(reactor_config(tls_cert_file=files.cert, tls_key_file=other.key))
    with pytest.raises(TLSFailed, match="not a certificate and its key"):
        server_context(reactor_config(tls_cert_file=files.key, tls_key_file=files.key))
    with pytest.raises(TLSFailed, match="cannot be read"):
        server_context(reactor_config(tls_cert_file=files.cert, tls_key_file=tmp_path / "none"))
    files.key.chmod(0o644)
    with pytest.raises(TLSFailed, match="read by others"):
        server_context(good)


class TestReload:
    async def test_tokens_of_the_file_as_it_is_now(self, tmp_path: Path) -> None:
        config = reactor_config(token_file=written(tmp_path, TOKEN))
        async with (
            started(config) as stage,
            connected(stage.url, token=TOKEN) as beacon,
        ):
            written(tmp_path, OTHER)
            await stage.reload()
            with pytest.raises(ConnectionRejected):
                async with connected(stage.url, token=TOKEN):
                    raise AssertionError("let in")
            async with connected(stage.url, token=OTHER):
                pass
            assert await asked(beacon, EVENT) == {"ack": "1"}, "who is in stays"

    async def test_a_file_that_is_wrong_changes_nothing(self, tmp_path: Path) -> None:
        config = reactor_config(token_file=written(tmp_path, TOKEN))
        async with started(config) as stage:
            written(tmp_path, "short")
            with pytest.raises(ServiceFailed, match="goes on as it was"):
                await stage.reload(rules=(rule(ENQUEUE, type="none"),))
            async with connected(stage.url, token=TOKEN) as beacon:
                await asked(beacon, EVENT)
            assert len(stage.node.tasks("events")) == 1

    async def test_rules(self) -> None:
        async with started() as stage, connected(stage.url) as beacon:
            await stage.reload(rules=(rule(ENQUEUE, name="other", host="db-*"),))
            await asked(beacon, EVENT)
            assert stage.node.tasks("events") == []
            await asked(beacon, EVENT | {"host": "db-1"})
            assert len(stage.node.tasks("events")) == 1

    async def test_certificates(self, tmp_path: Path) -> None:
        files = certified(tmp_path)
        config = reactor_config(tls_cert_file=files.cert, tls_key_file=files.key)
        async with started(config) as stage:
            certified(tmp_path, "127.0.0.2")
            await stage.reload()
            with pytest.raises(trio.BrokenResourceError):
                async with connected(stage.url, context=files.context):
                    raise AssertionError("an old certificate")

    async def test_another_address_needs_a_restart(self) -> None:
        async with started() as stage:
            old = stage.reactor.config.listen
            with pytest.raises(ServiceFailed, match=f"still listens on {old}"):
                await stage.reload(listen="127.0.0.1:1")


@pytest.mark.parametrize(
    ("listen", "warnings"),
    [
        ("127.0.0.1:1", []),
        ("[::1]:1", []),
        ("localhost:1", []),
        ("0.0.0.0:1", ["reactor_without_token", "reactor_without_tls"]),
    ],
)
def test_an_open_door_is_warned_of(
    listen: str, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    class Log:
        def warning(self, event: str, **details: object) -> None:
            told.append(event)

    monkeypatch.setattr(service_module, "_log", Log())
    service_module._warn(reactor_config(listen=listen))
    assert told == warnings


def test_root_may_let_a_group_read(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root's files may have a group")
    assert read_tokens(written(tmp_path, TOKEN, 0o640)) == (TOKEN.encode(),)
