"""Performs one plan on a host of a test, step by step as it is told: a guard without judgement.

python -m tests.guard.plan_runner '{"kind": "address", ...}' reads words from its input and writes
one JSON value for each. The kinds' own values stand where the network of a test is.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nefia.config.services import AddressConfig, WireguardConfig
from nefia.config.wg_quick import read_hub
from nefia.guard import address, wireguard
from nefia.guard.plan import Do, Plan, Step
from tests.hosts import Host

RENEWAL_SECONDS = 0.1


def boot_time() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Runner:
    """A plan on a host, in a process there. A context manager."""

    def __init__(self, host: Host, **values: Any) -> None:
        self.process = host.start(
            sys.executable, "-m", "tests.guard.plan_runner", json.dumps(values)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.communicate()

    def __call__(self, *words: str) -> Any:
        """What the word gave; for steps, the seconds they took."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the runner has died"
        answer = json.loads(line)
        assert not isinstance(answer, str), answer
        return answer


def _perform(steps: Iterable[Step]) -> float:
    began = time.monotonic()
    for step in steps:
        try:
            if isinstance(step, Do):
                step.action()
            else:
                done = subprocess.run(step.argv, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise OSError(f"{step.argv}: {done.stdout}{done.stderr}")
        except OSError:
            if not step.may_fail:
                raise
    return time.monotonic() - began


def _plan(values: dict[str, Any]) -> Plan:
    kind = values.pop("kind")
    if kind == "address":
        return address.plan_of(AddressConfig(name="floating", **values))
    endpoints = values.pop("endpoints", {})
    config = Path(values.pop("config"))
    facts = wireguard.facts_of(read_hub(config), endpoints)
    return wireguard.plan_of(WireguardConfig(name="tunnel", config=config, **values), facts)


def _obey(plan: Plan, words: list[str]) -> Any:
    match words:
        case ["renew", seconds]:
            return plan.renew(boot_time() + float(seconds))
        case ["status"]:
            return plan.status()
        case ["present"]:
            return plan.is_present()
        case ["fence"]:
            return _perform([Do("fence", plan.fence)])
        case [name]:
            return _perform(getattr(plan, name))
    raise OSError(f"what is {words}?")


def main() -> None:
    """`lease SECONDS` renews by itself from then on; `lease 0` no more."""
    plan = _plan(json.loads(sys.argv[1]))
    lease = 0.0
    while True:
        if lease:
            plan.renew(boot_time() + lease)
        readable, _, _ = select.select([0], [], [], RENEWAL_SECONDS)
        if readable:
            words = sys.stdin.readline().split()
            if not words:
                return
            try:
                if words[0] == "lease":
                    lease = float(words[1])
                    answer = None
                else:
                    answer = _obey(plan, words)
            except OSError as error:
                answer = str(error)
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
