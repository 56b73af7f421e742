"""nefia: active-passive high availability for an operator's daemon, built on Raft.

Importing this package is cheap on purpose: the command line answers within 0.3 s (SPEC 3), so
everything heavier is imported where it is used.
"""

__version__ = "0.1.0"
