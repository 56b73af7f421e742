"""Reaching another node: the dialling side of the handshake, probes, and single requests."""

from __future__ import annotations

from nefia.errors import NewerFormat, OutcomeUnknown, PeerUnreachable, TLSFailed, TooLarge
from nefia.net.channel import Channel, Cut
from nefia.net.frames import MAX_FRAME_BYTES, MAX_WELCOME_BYTES, Kind
from nefia.net.handshake import (
    ASK,
    PROBE,
    Hello,
    LocalIdentity,
    OtherVersion,
    Refusal,
    Welcome,
    check,
    decode,
    encode,
    error_of,
    vouch,
)
from nefia.net.interface import PeerTarget, Setting
from nefia.net.network import certified_ids, tls_failure
from nefia.wire import Malformed

MAX_REQUEST_BYTES = MAX_FRAME_BYTES - 1


class PeerRefused(PeerUnreachable):
    """The host answers, and nothing listens at that address."""


def hello_to(
    me: LocalIdentity, purpose: str, expected_id: str, expected_instance: str = "", lane: int = 0
) -> Hello:
    return Hello(
        purpose=purpose,
        node_id=me.node_id,
        instance_id=me.instance_id,
        cluster_id=me.cluster_id,
        incarnation=me.incarnation,
        expected_id=expected_id,
        expected_instance=expected_instance,
        lane=lane,
        address=me.address,
        lineage=me.lineage,
    )


async def reach(
    setting: Setting, address: str, hello: Hello, deadline: float
) -> tuple[Channel, Welcome]:
    """A connection on which both sides have introduced themselves; the caller closes it.

    Raises PeerUnreachable (PeerRefused if nothing listens there), OtherNode, OtherCluster,
    NewerFormat and TLSFailed, each with a sentence that names `address`.
    """
    began = setting.clock.now()
    with setting.clock.deadline_scope(deadline):
        try:
            stream = await setting.network.dial(address)
        except ConnectionRefusedError as error:
            raise PeerRefused(f"{address}: nothing listens there") from error
        except OSError as error:
            raise PeerUnreachable(f"{address}: {error.strerror or error}") from error
        channel = Channel(stream, setting.clock, MAX_WELCOME_BYTES)
        try:
            welcome = await _introduce(channel, hello, address)
            if refusal := vouch(welcome.node_id, certified_ids(stream)):
                raise error_of(refusal, address)
            return channel, welcome
        except BaseException:
            await channel.close()
            raise
    seconds = setting.clock.now() - began
    raise PeerUnreachable(f"{address} did not answer within {seconds:.1f} s")


async def _introduce(channel: Channel, hello: Hello, address: str) -> Welcome:
    try:
        await channel.send(Kind.HANDSHAKE, encode(hello))
        frame = await channel.receive_one()
        answer = decode(frame.body)
    except OtherVersion as error:
        raise NewerFormat(f"{address}: {error}") from error
    except Malformed as error:
        raise PeerUnreachable(f"{address} does not answer as a nefia node: {error}") from error
    except Cut as error:
        if why := tls_failure(error):
            raise TLSFailed(f"{address}: {why}") from error
        raise PeerUnreachable(f"{address} ended the connection: {error}") from error
    match answer:
        case Refusal():
            raise error_of(answer, address)
        case Hello():
            raise PeerUnreachable(f"{address} does not answer as a nefia node: it says hello too")
        case Welcome():
            if refusal := check(answer, hello):
                raise error_of(refusal, address)
    channel.set_limit(MAX_FRAME_BYTES)
    return answer


async def probe(
    setting: Setting, address: str, expected_id: str, timeout_seconds: float
) -> Welcome:
    """Who answers at `address`; raises as `reach` does."""
    hello = hello_to(setting.local(), PROBE, expected_id)
    deadline = setting.clock.now() + timeout_seconds
    channel, welcome = await reach(setting, address, hello, deadline)
    await channel.close()
    return welcome


async def ask(
    setting: Setting, peer: str, target: PeerTarget, request: bytes, timeout_seconds: float
) -> bytes:
    """The answer of `peer` to `request`, on a connection of its own.

    Raises as `reach` does, and then `peer` has not seen the request; TooLarge; and OutcomeUnknown
    once the request may have arrived.
    """
    if len(request) > MAX_REQUEST_BYTES:
        raise TooLarge(
            f"a request of {len(request)} bytes; at most {MAX_REQUEST_BYTES} can be sent"
        )
    deadline = setting.clock.now() + timeout_seconds
    hello = hello_to(setting.local(), ASK, peer, target.instance)
    channel, _ = await reach(setting, target.address, hello, deadline)
    end: Exception | str = f"no answer within {timeout_seconds:g} s"
    try:
        with setting.clock.deadline_scope(deadline):
            await channel.send(Kind.REQUEST, request)
            frame = await channel.receive_one()
            if frame.kind is Kind.ANSWER:
                return frame.body
            end = f"a {frame.kind.name} frame came in place of the answer"
    except (Cut, Malformed) as error:
        end = error
    finally:
        await channel.close()
    raise OutcomeUnknown(f"{peer} was sent the request, but its answer did not come: {end}")
