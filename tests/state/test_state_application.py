"""A program's own state machine inside nefia's: what it is given, what it may not, what is kept."""

from __future__ import annotations

import pytest

from nefia.errors import MachineFailed, OtherMachine, Refused
from nefia.state.application import PART_BYTES, Host, hosted
from nefia.state.commands import ApplicationCommand
from nefia.state.machine import Machine
from nefia.state.records import (
    ApplicationOutcome,
    ApplicationPart,
    ApplicationState,
    Record,
    Refusal,
    TimeOutcome,
)
from tests.state.state_driver import Driver
from tests.state.words import Lazy, Words


def word(body: bytes = b"a") -> ApplicationCommand:
    return ApplicationCommand("words", body)


@pytest.fixture
def driver() -> Driver:
    return Driver.of(Words)


def words_of(machine: Machine) -> Words:
    assert machine.application is not None
    assert isinstance(machine.application.machine, Words)
    return machine.application.machine


def test_it_gets_commands_in_order_with_cluster_time(driver: Driver) -> None:
    assert driver.do(word(b"a")) == ApplicationOutcome(b"1")
    driver.wait(500)
    assert driver.do(word(b"b")) == ApplicationOutcome(b"2")
    driver.wait(-10_000)  # a leader whose clock is behind
    driver.do(word(b"c"))
    assert words_of(driver.machine).words == [b"a", b"b", b"c"]
    assert words_of(driver.machine).times == [1_000_000, 1_000_500, 1_000_500]


def test_a_request_id_is_performed_once(driver: Driver) -> None:
    assert driver.do(word(b"a"), "r-1") == ApplicationOutcome(b"1")
    assert driver.do(word(b"a"), "r-1") == ApplicationOutcome(b"1")
    assert driver.refused(word(b"b"), "r-1") == "conflict"
    driver.machine = driver.restored()
    assert driver.do(word(b"a"), "r-1") == ApplicationOutcome(b"1")
    assert words_of(driver.machine).words == [b"a"]


def test_what_it_refuses_is_an_outcome(driver: Driver) -> None:
    refusal = Refusal("refused", "Nothing is no word.")
    assert driver.do(word(b""), "r-1") == refusal
    assert driver.do(word(b""), "r-1") == refusal
    assert isinstance(refusal.to_error(), Refused)
    assert driver.do(word(b"a")) == ApplicationOutcome(b"1")


@pytest.mark.parametrize("body", [b"raise", b"too long", b"no bytes"])
def test_what_is_no_refusal_is_a_failure(driver: Driver, body: bytes) -> None:
    with pytest.raises(MachineFailed) as caught:
        driver.do(word(body))
    assert caught.value.details == {"machine": "words"}
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("host", [None, lambda: Other()])
def test_a_command_for_a_machine_that_is_not_here(host: Host | None) -> None:
    driver = Driver(Machine(application=hosted(host)))
    with pytest.raises(OtherMachine, match="words"):
        driver.do(word())


@pytest.mark.parametrize("host", [None, lambda: Other()])
def test_the_state_of_a_machine_that_is_not_here(driver: Driver, host: Host | None) -> None:
    driver.do(word())
    driver.host = host
    with pytest.raises(OtherMachine, match="words"):
        driver.restored()


class Other(Words):
    name = "other"


def test_without_that_check_nodes_would_diverge(driver: Driver) -> None:
    """A daemon that skipped what it does not know would go on, and answer with another state."""
    daemon = Driver()
    daemon.machine._handlers[ApplicationCommand] = lambda *_: TimeOutcome()
    for each in (driver, daemon):
        each.do(word())
    assert driver.machine.applied_index == daemon.machine.applied_index
    assert driver.machine.digest() != daemon.machine.digest()


def test_a_snapshot_restores_state_and_digest(driver: Driver) -> None:
    long = bytes(range(256)) * (3 * PART_BYTES // 256)
    exact = b"x" * PART_BYTES
    words_of(driver.machine).words += [long, exact, b"", b"last"]
    driver.do(word(b"a"))
    again = driver.restored()
    assert words_of(again).words == [long, exact, b"", b"last", b"a"]
    assert again.digest() == driver.machine.digest()
    parts = [r for _, r in driver.machine.snapshot_records() if isinstance(r, ApplicationPart)]
    assert [part.more for part in parts] == [True, True, False, False, False, False, False]


def test_a_snapshot_is_of_the_moment_when_it_began(driver: Driver) -> None:
    assert after_a_change(driver) == [b"a"]


def test_that_moment_is_the_program_s_to_keep(driver: Driver) -> None:
    """What the test before is worth: this machine's generator looks too late."""
    driver.machine = Machine(application=hosted(Lazy))
    assert after_a_change(driver) == [b"a", b"b"]


def after_a_change(driver: Driver) -> list[bytes]:
    """The words in a snapshot during which one was added."""
    driver.do(word(b"a"))
    records = driver.machine.snapshot_records()
    first = next(records)
    driver.do(word(b"b"))
    return words_of(Machine.from_records([first, *records], Words)).words


def test_a_failing_snapshot_is_told_as_such(driver: Driver) -> None:
    driver.do(word())
    words_of(driver.machine).words.append("text")  # type: ignore[arg-type]
    with pytest.raises(MachineFailed, match="a snapshot"):
        list(driver.machine.snapshot_records())


def test_a_failing_restore_is_told_as_such(driver: Driver) -> None:
    class Broken(Words):
        def restore(self, chunks: object) -> None:
            raise KeyError("nothing fits")

    driver.do(word())
    driver.host = Broken
    with pytest.raises(MachineFailed, match="restoring"):
        driver.restored()


def test_until_its_first_command_it_leaves_no_trace(driver: Driver) -> None:
    """So the nodes of a cluster of daemons may become nodes of a program, one after the other."""
    kinds = [kind for kind, _ in driver.machine.snapshot_records()]
    assert kinds == ["counters"]
    assert words_of(driver.restored()).words == []
    driver.host = None
    assert driver.restored().digest() == driver.machine.digest() == Machine().digest()


def test_the_digest_notices_another_answer(driver: Driver) -> None:
    """Of a machine that goes by something else than its commands."""
    other = Driver.of(Words)
    for each in (driver, other):
        each.do(word(b"a"))
    assert driver.machine.digest() == other.machine.digest()
    words_of(other.machine).words.append(b"by chance")
    for each in (driver, other):
        each.do(word(b"b"))
    assert driver.machine.digest() != other.machine.digest()


def test_the_chain_stands_for_all_that_came(driver: Driver) -> None:
    driver.do(word(b"a"))
    first = state_of(driver.machine)
    driver.do(word(b""))
    second = state_of(driver.machine)
    assert (first.applied, second.applied) == (1, 2)
    assert first.chain != second.chain


def state_of(machine: Machine) -> ApplicationState:
    found: list[Record] = [r for kind, r in machine.snapshot_records() if kind == "application"]
    assert isinstance(found[0], ApplicationState)
    return found[0]
