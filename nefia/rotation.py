"""The certificates of a running daemon: taken up when their files change, and called due in time.

Files that cannot be used change nothing: the connections and the certificates of before go on, and
log and status say what is wrong. Otherwise every connection is made anew, one after the other and
only where the other side accepts it, so that no lease is lost (SPEC 7).
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import structlog
import trio
from attrs import frozen

from nefia.credentials import Credentials, TlsFiles, load_credentials, trust_store
from nefia.errors import TLSFailed
from nefia.net.network import Network
from nefia.net.tls import TlsNetwork, tls_context
from nefia.openssl import SSL, crypto

POLL_SECONDS = 2.0
"""How often the files are looked at. What has changed must have stayed so for one period, since the
three are not replaced in one instant."""
REMINDER_SECONDS = 24 * 3600.0
"""How often the log repeats that a certificate is due."""

_log = structlog.get_logger("nefia.certificates")


@frozen
class _Loaded:
    credentials: Credentials
    context: SSL.Context
    store: crypto.X509Store


def _load(files: TlsFiles, node_id: str) -> _Loaded:
    credentials = load_credentials(files, node_id)
    return _Loaded(credentials, tls_context(credentials), trust_store(credentials.authorities))


_Stamp = tuple[tuple[int, ...] | None, ...]


def _stamp(files: TlsFiles) -> _Stamp:
    """Changes whenever a file does, also one that a link leads to."""

    def of(path: os.PathLike[str]) -> tuple[int, ...] | None:
        try:
            found = os.stat(path)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size

    return of(files.cert), of(files.key), of(files.ca)


class Rotation:
    """`network` is what a node uses. `renew` has it make its connections anew."""

    def __init__(
        self,
        files: TlsFiles,
        node_id: str,
        inner: Network,
        renew: Callable[[], Awaitable[None]],
    ) -> None:
        """Raises TLSFailed."""
        self._files = files
        self._node_id = node_id
        self._renew = renew
        self._stamp = _stamp(files)
        loaded = _load(files, node_id)
        self._credentials = loaded.credentials
        self._refused = ""
        self._reloading = trio.Lock()
        self.network = TlsNetwork(inner, loaded.context)

    async def run(self) -> None:
        """Look at the files, and at the calendar, for ever."""
        changed: _Stamp | None = None
        reminded = -REMINDER_SECONDS
        while True:
            stamp = await trio.to_thread.run_sync(_stamp, self._files, abandon_on_cancel=True)
            if stamp == self._stamp:
                changed = None
            elif stamp == changed:
                await self.reload("the files have changed")
            else:
                changed = stamp
            if trio.current_time() - reminded >= REMINDER_SECONDS and (due := self._due()):
                reminded = trio.current_time()
                _log.warning("certificate_due", reason=due)
            await trio.sleep(POLL_SECONDS)

    async def reload(self, reason: str) -> None:
        """Take up what the files hold now."""
        if self._reloading.statistics().tasks_waiting:
            return  # whoever waits already will see the same
        async with self._reloading:
            # In a thread, since a hung file system must not cost the lease.
            stamp = await trio.to_thread.run_sync(_stamp, self._files, abandon_on_cancel=True)
            try:
                loaded = await trio.to_thread.run_sync(
                    _load, self._files, self._node_id, abandon_on_cancel=True
                )
            except TLSFailed as error:
                self._stamp, self._refused = stamp, error.message
                _log.warning("certificates_refused", reason=error.message, meaning="as before")
                return
            self._stamp, self._refused = stamp, ""
            self._credentials = loaded.credentials
            cut = await self.network.replace(loaded.context, loaded.store)
            _log.info(
                "certificates_loaded",
                reason=reason,
                subject=loaded.credentials.path[0].subject,
                expires_at=self._expires_at(),
                no_longer_trusted=cut,
            )
            await self._renew()

    def annotate(self, status: dict[str, Any]) -> None:
        """Add to the object of `status` when the certificate expires, and what is wrong."""
        status["certificate_expires_at"] = self._expires_at()
        remarks = [status["warning"]] if "warning" in status else []
        remarks += [due] if (due := self._due()) else []
        if self._refused:
            remarks.append(f"{self._refused}; the certificates of before are still in use")
        if remarks:
            status["warning"] = "; ".join(remarks)

    def _due(self) -> str | None:
        return self._credentials.warning(datetime.now(UTC))

    def _expires_at(self) -> str:
        return self._credentials.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ")
