"""Every error that an operator or a caller can meet: one root, stable codes, exit codes.

An error says what happened (its message), whether anything was changed (`changed`), and what to do
next (`hint`). Its `code` is part of the admin API and never changes its meaning; `EXIT_CODES` is
the one table from codes to the exit codes of the command line (SPEC 3).

Our own mistakes are not here: they are assertions, and a daemon that meets one stops, so that
another node takes over.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

Changed = bool | Literal["unknown"]

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_DEGRADED = 3
EXIT_NO_LEADER = 4
EXIT_REFUSED = 5
EXIT_PERMISSION = 6
EXIT_UNKNOWN_OUTCOME = 7
EXIT_NO_DAEMON = 8
EXIT_INTERRUPTED = 130

EXIT_CODES: dict[str, int] = {
    "invalid_argument": EXIT_USAGE,
    "invalid_configuration": EXIT_USAGE,
    "unknown_action": EXIT_USAGE,
    "no_leader": EXIT_NO_LEADER,
    "no_quorum": EXIT_NO_LEADER,
    "not_initialized": EXIT_NO_LEADER,
    "already_initialized": EXIT_REFUSED,
    "would_lose_quorum": EXIT_REFUSED,
    "recovery_refused": EXIT_REFUSED,
    "drill_refused": EXIT_REFUSED,
    "other_cluster": EXIT_REFUSED,
    "other_node": EXIT_REFUSED,
    "change_in_progress": EXIT_REFUSED,
    "data_in_use": EXIT_REFUSED,
    "newer_format": EXIT_REFUSED,
    "other_machine": EXIT_REFUSED,
    "permission": EXIT_PERMISSION,
    "tls": EXIT_PERMISSION,
    "timeout": EXIT_UNKNOWN_OUTCOME,
    "no_daemon": EXIT_NO_DAEMON,
}
"""Codes that are not listed exit with `EXIT_FAILED`."""


class NefiaError(Exception):
    """The root. `message` is one or more clear sentences; `details` are extra JSON fields."""

    code: ClassVar[str] = "internal"

    def __init__(
        self, message: str, /, *, changed: Changed = False, hint: str = "", **details: Any
    ) -> None:
        super().__init__(message)
        self.message = message
        self.changed: Changed = changed
        self.hint = hint
        self.details = details

    @property
    def exit_code(self) -> int:
        return EXIT_CODES.get(self.code, EXIT_FAILED)

    def to_json(self) -> dict[str, Any]:
        """The `error` object of the admin API (SPEC 4)."""
        answer: dict[str, Any] = {
            "code": self.code,
            "message": self.message,
            "changed": self.changed,
        }
        if self.hint:
            answer["hint"] = self.hint
        return answer | self.details

    @staticmethod
    def from_json(error: dict[str, Any]) -> NefiaError:
        """The error that an `error` object of the admin API stands for."""
        fields = dict(error)
        kind = BY_CODE.get(str(fields.pop("code", "internal")), Internal)
        message = str(fields.pop("message", "the daemon gave no message"))
        changed: Changed = fields.pop("changed", "unknown")
        return kind(message, changed=changed, hint=str(fields.pop("hint", "")), **fields)


class Internal(NefiaError):
    code = "internal"


# Who leads, and whether anyone does.


class NotLeader(NefiaError):
    """Details: `leader_id`, `leader_addr`, each a string or None."""

    code = "not_leader"


class NoLeader(NefiaError):
    code = "no_leader"


class NoQuorum(NefiaError):
    code = "no_quorum"


# The life of a cluster and its members.


class NotInitialized(NefiaError):
    code = "not_initialized"


class AlreadyInitialized(NefiaError):
    """Details: `cluster_id`."""

    code = "already_initialized"


class OtherCluster(NefiaError):
    code = "other_cluster"


class AlreadyMember(NefiaError):
    code = "already_member"


class NotMember(NefiaError):
    code = "not_member"


class ChangeInProgress(NefiaError):
    code = "change_in_progress"


class PeerUnreachable(NefiaError):
    code = "peer_unreachable"


class WouldLoseQuorum(NefiaError):
    code = "would_lose_quorum"


class RecoveryRefused(NefiaError):
    """`cluster recover` would do harm, or there is nothing to recover."""

    code = "recovery_refused"


class DrillRefused(NefiaError):
    """A fire drill would do harm now, could not be watched, or was not agreed to."""

    code = "drill_refused"


# Requests.


class InvalidArgument(NefiaError):
    code = "invalid_argument"


class UnknownAction(NefiaError):
    code = "unknown_action"


class TooLarge(NefiaError):
    code = "too_large"


class OutcomeUnknown(NefiaError):
    """The change was proposed and may still happen. Details: `request_id`, safe to repeat."""

    code = "timeout"

    def __init__(
        self, message: str, /, *, changed: Changed = "unknown", hint: str = "", **details: Any
    ) -> None:
        super().__init__(message, changed=changed, hint=hint, **details)


class Conflict(NefiaError):
    code = "conflict"


class NotFound(NefiaError):
    code = "not_found"


class LeaseLost(NefiaError):
    code = "lease_lost"


class Overloaded(NefiaError):
    code = "overloaded"


class ShuttingDown(NefiaError):
    code = "shutting_down"


# This node: its configuration, its disk, its daemon.


class InvalidConfiguration(NefiaError):
    """One message a line; details: `mistakes`, the list of them."""

    code = "invalid_configuration"


class DiskFailed(NefiaError):
    """Details: `full`, whether the file system has no room left."""

    code = "disk_failed"


class DataDamaged(NefiaError):
    """A checksum or a length is wrong. Details: `index` of the first bad entry, if known."""

    code = "data_damaged"


class DataInUse(NefiaError):
    code = "data_in_use"


class OtherNode(NefiaError):
    """A data directory, or an answering node, that belongs to another node id."""

    code = "other_node"


class NewerFormat(NefiaError):
    code = "newer_format"


class Permission(NefiaError):
    code = "permission"


class TLSFailed(NefiaError):
    code = "tls"


class Refused(NefiaError):
    """A program's own state machine does not want a command, and has changed nothing."""

    code = "refused"


class OtherMachine(NefiaError):
    """The changes are for a state machine that this node, or too few of the others, have."""

    code = "other_machine"


class MachineFailed(NefiaError):
    """A program's own state machine has raised what is no refusal. Details: `machine`, its name."""

    code = "machine_failed"


class ServiceFailed(NefiaError):
    """A service did not start, or ended by itself."""

    code = "service_failed"


class GuardLost(NefiaError):
    """The guard has gone, or refuses: without it nothing external may run."""

    code = "guard_lost"


class NoDaemon(NefiaError):
    """Details: `socket`, the path that was tried."""

    code = "no_daemon"


BY_CODE: dict[str, type[NefiaError]] = {kind.code: kind for kind in NefiaError.__subclasses__()}
