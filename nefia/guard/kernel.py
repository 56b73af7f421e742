"""What Linux gives and Python 3.11 does not: timers on CLOCK_BOOTTIME, prctl, locked memory."""

from __future__ import annotations

import ctypes
import math
import os
import signal
import struct
import time
from contextlib import suppress

# linux/prctl.h, linux/timerfd.h, linux/time.h, sys/mman.h, linux/sched.h, asm-generic/siginfo.h
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_TFD_TIMER_ABSTIME = _TIMER_ABSTIME = 1
_TFD_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_SIGEV_SIGNAL = 0
_MCL_CURRENT, _MCL_FUTURE = 1, 2
_SCHED_RESET_ON_FORK = 0x40000000

URGENT_NICENESS = -20
NANOSECONDS = 1_000_000_000
_ITIMERSPEC = struct.Struct("qqqq")
_SIGEVENT = struct.Struct("Pii48x")

_libc = ctypes.CDLL(None, use_errno=True)


def boottime() -> float:
    """Seconds on CLOCK_BOOTTIME, which goes on during suspend."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class BootTimer:
    """`fd` is readable from the time set on; also right after a suspend that it ran out in."""

    def __init__(self) -> None:
        self.fd = _checked(_libc.timerfd_create(time.CLOCK_BOOTTIME, _TFD_FLAGS))
        self._set_to = math.inf

    def set(self, when: float) -> None:
        """Infinity: never."""
        if when == self._set_to:
            return
        self._set_to = when
        _checked(_libc.timerfd_settime(self.fd, _TFD_TIMER_ABSTIME, _once_at(when), None))

    def clear(self) -> None:
        """To be called once `fd` was readable."""
        self._set_to = math.inf
        with suppress(BlockingIOError):
            os.read(self.fd, 8)


class KillTimer:
    """The kernel ends this process by SIGKILL at the time set on, whatever its threads do then:
    one that is stopped, or that holds the interpreter's lock, dies too.

    Raises OSError. It is no child's.
    """

    def __init__(self) -> None:
        self._timer = ctypes.c_void_p()
        event = _SIGEVENT.pack(0, signal.SIGKILL, _SIGEV_SIGNAL)
        _checked(_libc.timer_create(time.CLOCK_BOOTTIME, event, ctypes.byref(self._timer)))

    def set(self, when: float) -> None:
        """Infinity: never."""
        _checked(_libc.timer_settime(self._timer, _TIMER_ABSTIME, _once_at(when), None))

    def close(self) -> None:
        _checked(_libc.timer_delete(self._timer))


def _once_at(when: float) -> bytes:
    # 0 would mean never.
    at = 0 if when == math.inf else math.ceil(max(when * NANOSECONDS, 1))
    return _ITIMERSPEC.pack(0, 0, *divmod(at, NANOSECONDS))


def become_subreaper() -> None:
    """Orphaned descendants become children of this process and not of init."""
    _checked(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def die_with(parent: int) -> None:
    """In a child: be killed when the parent dies, however it dies."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    if os.getppid() != parent:
        os._exit(1)  # it died before the kernel knew


def lock_memory() -> None:
    """A page on a hung disk must not keep the guard from acting. Raises OSError."""
    _checked(_libc.mlockall(_MCL_CURRENT | _MCL_FUTURE))


def become_urgent() -> None:
    """First in line for the processor; children are ordinary again. Raises OSError."""
    policy = os.SCHED_OTHER | _SCHED_RESET_ON_FORK
    os.sched_setscheduler(0, policy, os.sched_param(0))
    os.setpriority(os.PRIO_PROCESS, 0, URGENT_NICENESS)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
