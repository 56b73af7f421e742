"""Writes that the kernel carries out while the event loop goes on: io_submit(2) of Linux.

To hand a write to a thread and to hear of its end takes as long as the write: two threads are
woken, and each waits for the other to give up the interpreter. Without that, a change that is alone
takes a fifth less time, on the clock and of the processors (docs/performance.md).

The file is opened with O_DIRECT and O_DSYNC, so a write that has ended is durable, and none has to
wait for room in the kernel's cache. Of file systems only those are asked that carry such a write
out without blocking whoever submits it, as long as they themselves are not stopped: one that is
frozen, or whose own journal waits for a disk that hangs, blocks it (docs/guarantees.md).

By ctypes, since Python has no such call and no library fits: caio takes no aligned buffers, and to
import it holds the interpreter for 30 ms at every start. What it costs: a process with such a
context is gone some 30 ms later when it is killed (measured; exit_aio waits for a grace period).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import struct
import sys
from contextlib import ExitStack
from pathlib import Path

import outcome
import trio

from nefia.storage.io_thread import Then

_IOCB = struct.Struct("=16xHhIQQq8xII")
"""struct iocb of linux/aio_abi.h: opcode, priority, fd, buffer, bytes, offset, flags, eventfd.

The bytes before are for those who have several under way."""
_PWRITE = 1
_TELL_EVENTFD = 1
_EVENT = struct.Struct("=16xq8x")
"""struct io_event: what the write has returned, or an errno below zero."""

_X86_64 = (206, 207, 209, 208)
_GENERIC = (0, 1, 2, 4)
_CALLS = {"x86_64": _X86_64, "aarch64": _GENERIC, "riscv64": _GENERIC, "loongarch64": _GENERIC}
"""By machine: the numbers of io_setup, io_destroy, io_submit, io_getevents. libc has no names."""

_FILE_SYSTEMS = ("ext4", "xfs")

_quick = ctypes.PyDLL(None, use_errno=True).syscall
_waiting = ctypes.CDLL(None, use_errno=True).syscall
"""The same call, but other threads run meanwhile."""
_ONE = ctypes.c_long(1)


class DirectWriter:
    """Durable writes to blocks that a file already has, one at a time, for one event loop."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        """Raises OSError where the kernel, the file system or whoever confines us allows none."""
        calls = _CALLS.get(platform.machine())
        if calls is None or sys.maxsize < 2**32 or _file_system(path) not in _FILE_SYSTEMS:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
        setup, self._destroy, self._submit, self._get_events = calls
        with ExitStack() as opened:
            self._fd = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_DSYNC | os.O_CLOEXEC)
            opened.callback(os.close, self._fd)
            self._ended = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            opened.callback(os.close, self._ended)
            self._buffer = mmap.mmap(-1, max_bytes)
            self._context = ctypes.c_ulong()
            if _waiting(setup, 1, ctypes.byref(self._context)) < 0:
                raise _last_error()
            opened.callback(_waiting, self._destroy, self._context)
            self._opened = opened.pop_all()
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))
        self._block = ctypes.create_string_buffer(_IOCB.size)
        self._blocks = (ctypes.c_void_p * 1)(ctypes.addressof(self._block))
        self._event = ctypes.create_string_buffer(_EVENT.size)
        self._size_bytes = 0
        self._then: Then[None] | None = None

    def begin(self, offset: int, data: bytes, then: Then[None]) -> bool:
        """Write `data`, whole blocks, and have `run` tell `then` how that has ended.

        False if the kernel cannot take it now.
        """
        assert self._then is None, "one at a time"
        self._size_bytes = len(data)
        self._buffer[: len(data)] = data
        to = (self._fd, self._address, len(data), offset)
        _IOCB.pack_into(self._block, 0, _PWRITE, 0, *to, _TELL_EVENTFD, self._ended)
        if _quick(self._submit, self._context, _ONE, self._blocks) < 0:
            return False
        self._then = then
        return True

    async def run(self) -> None:
        """Wait for each and tell, until cancelled. `then` must not raise."""
        while True:
            await trio.lowlevel.wait_readable(self._ended)
            os.eventfd_read(self._ended)
            if _quick(self._get_events, self._context, _ONE, _ONE, self._event, None) < 0:
                raise _last_error()
            then, self._then = self._then, None
            assert then is not None
            then(outcome.capture(self._result))

    def _result(self) -> None:
        (result,) = _EVENT.unpack(self._event)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        if result < self._size_bytes:
            raise OSError(errno.EIO, f"{result} of {self._size_bytes} bytes were written")

    def close(self) -> None:
        """Waits for a write that is out, and some 30 ms for the kernel."""
        self._opened.close()


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _file_system(path: Path) -> str:
    """Its type, as in proc(5), or nothing."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    # Of somebody's mount point any byte may be there as it is, line feeds and blanks excepted.
    mounts = Path("/proc/self/mountinfo").read_bytes().decode("ascii", "replace")
    return _type_of(number, mounts)


def _type_of(device: str, mounts: str) -> str:
    for line in mounts.split("\n"):
        mount, _, source = line.partition(" - ")
        if mount.split(" ")[2:3] == [device]:
            kind, *_, options = source.split(" ")
            # Then ext4 goes through its journal, and whoever submits waits.
            return "" if "data=journal" in options.split(",") else kind
    return ""
