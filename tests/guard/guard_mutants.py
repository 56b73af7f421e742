"""The safety rules of the guard's machine, each taken away by a change of its source."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from attrs import frozen

from nefia.guard import lives, machine
from nefia.guard.machine import Machine

_MODULES = {"machine": machine, "lives": lives}


@frozen
class Mutant:
    """In `module` every `old` becomes `new`."""

    rule: str
    module: str
    old: str
    new: str


MUTANTS = (
    Mutant(
        "the end of the lease ends the tenure",
        "machine",
        "if tenure and not tenure.has_ended and now >= tenure.lease_end:",
        "if False:",
    ),
    Mutant(
        "the end of the connection ends the tenure",
        "machine",
        'self._end("the daemon has gone")',
        "pass",
    ),
    Mutant(
        "the daemon's word ends the tenure",
        "machine",
        "        self._end(reason)\n        if self.is_idle:",
        "        if self.is_idle:",
    ),
    Mutant(
        "what is left at half of the budget is ended by force",
        "machine",
        "if tenure and not tenure.is_fenced and now >= tenure.fence_at:",
        "if False:",
    ),
    Mutant(
        "the time for manners counts from the lease's end, not from when it is noticed",
        "machine",
        "ended_at = min(self._out.now, tenure.lease_end)",
        "ended_at = self._out.now + 0.1",
    ),
    Mutant(
        "at the end by force, strangers die too",
        "machine",
        "self._out.add(KillAll())",
        "pass",
    ),
    Mutant("a term never begins again", "machine", "if term <= self.newest_term:", "if False:"),
    Mutant(
        "a term begins only when the one before is over",
        "machine",
        "if self._tenure is not None:\n            return f",
        "if False:\n            return f",
    ),
    Mutant(
        "a term begins only with a lease",
        "machine",
        "if not 0.0 < ahead <= MAX_LEASE_SECONDS:",
        "if False:",
    ),
    Mutant(
        "only a census ends a tenure",
        "machine",
        "elif not self._lives and census.is_empty:",
        "elif not self._lives:",
    ),
    Mutant("one daemon at a time", "machine", "if self._out.connected:", "if False:"),
    Mutant("nothing starts without a lease", "lives", "self._out.now >= self.lease_end", "False"),
    Mutant(
        "the last look before a step is at the clock",
        "lives",
        "return math.inf if is_ending else self.lease_end",
        "return math.inf",
    ),
    Mutant(
        "a start that the tenure's end breaks off goes no further",
        "lives",
        "                life.steps.clear()\n            case Phase.RUNNING:\n"
        "                self._answer_reload(life, f",
        "                pass\n            case Phase.RUNNING:\n"
        "                self._answer_reload(life, f",
    ),
    Mutant(
        "ready commands end with the start",
        "lives",
        "        life.poll_at = math.inf\n        life.step = life.poll = None\n"
        "        self._advance(life)",
        "        self._advance(life)",
    ),
    Mutant(
        "a service is gone only when nothing is left of it",
        "lives",
        "case Phase.FENCED | Phase.CLEANING if census.has(life.run):",
        "case Phase.FENCED | Phase.CLEANING if False:",
    ),
    Mutant(
        "what is no process is ended by force too",
        "lives",
        "Kill(life.run), FenceOff(life.run, life.plan)",
        "Kill(life.run)",
    ),
)


def mutated(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> type[Machine]:
    """The machine without that rule."""
    broken = _compiled(mutant.module, (mutant.old, mutant.new))
    if mutant.module == "machine":
        return _machine(broken)
    monkeypatch.setitem(sys.modules, "nefia.guard.lives", broken)
    return _machine(_compiled("machine", ("", "")))


def _machine(module: ModuleType) -> type[Machine]:
    kind: type[Machine] = module.Machine
    return kind


def _compiled(name: str, change: tuple[str, str]) -> ModuleType:
    original = _MODULES[name]
    assert original.__file__
    source = Path(original.__file__).read_text()
    if change[0]:
        assert change[0] in source
    module = ModuleType(original.__name__)
    monkey = sys.modules.get(original.__name__)
    sys.modules[original.__name__] = module  # attrs looks its classes' module up
    try:
        exec(compile(source.replace(*change), f"<{name} without a rule>", "exec"), module.__dict__)
    finally:
        if monkey is not None:
            sys.modules[original.__name__] = monkey
    return module
