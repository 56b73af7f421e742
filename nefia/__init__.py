"""nefia: active-passive high availability for an operator's daemon, built on Raft.

Importing this package is cheap on purpose: the command line answers within 0.3 s (SPEC 3), so
everything heavier is imported where it is used. The names for programs that embed a node
(docs/embedding.md) are imported when they are asked for; type checkers go by `__init__.pyi`.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "BootClock": "nefia.clock",
    "Config": "nefia.config",
    "EmbeddedNode": "nefia.embedding",
    "MachineFailed": "nefia.errors",
    "NefiaError": "nefia.errors",
    "OtherMachine": "nefia.errors",
    "Refused": "nefia.errors",
    "StateMachine": "nefia.state.application",
    "Tenure": "nefia.services.interface",
    "load_config": "nefia.embedding",
    "open_node": "nefia.embedding",
}
"""By name: the module that has it."""


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
