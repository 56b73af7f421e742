"""The paths of the listener. All of them only read."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cache
from importlib.resources import files
from typing import Any

from attrs import asdict
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from nefia.errors import NefiaError
from nefia.http.health import not_following, not_leading, not_ready
from nefia.http.metrics import Meters
from nefia.http.source import Source

UNAVAILABLE = 503
UNCACHED = {"Cache-Control": "no-store"}

Endpoint = Callable[[Request], Awaitable[Response]]


def make_app(source: Source, meters: Meters) -> Starlette:
    return Starlette(
        routes=[
            Route("/", page),
            Route("/livez", livez),
            Route("/readyz", _judged(source, not_ready)),
            Route("/leader", _judged(source, not_leading)),
            Route("/replica", _judged(source, not_following)),
            Route("/metrics", _metrics(source, meters)),
            Route("/api/overview", _overview(source)),
        ]
    )


async def livez(_: Request) -> Response:
    """The process goes round. It depends on nobody else, so that nobody is restarted for others."""
    return JSONResponse({"ok": True}, headers=UNCACHED)


def _judged(source: Source, judge: Callable[[dict[str, Any]], list[str]]) -> Endpoint:
    """200, or 503 with the reasons; with the leader either way, where it is known."""

    async def judged(_: Request) -> Response:
        try:
            status = await source.status()
        except NefiaError as error:
            shown: dict[str, Any] = {"ok": False, "reasons": [f"{error.code}: {error.message}"]}
        else:
            reasons = judge(status)
            shown = {"ok": not reasons, "reasons": reasons}
            shown |= {key: status[key] for key in ("node_id", "leader_id", "leader_addr", "term")}
        return JSONResponse(shown, 200 if shown["ok"] else UNAVAILABLE, headers=UNCACHED)

    return judged


def _metrics(source: Source, meters: Meters) -> Endpoint:
    async def metrics(_: Request) -> Response:
        status, members, queues = None, (), {}
        with suppress(NefiaError):  # what is not known now is not shown
            status = await source.status()
            queues = (await source.ask("queue_stats", consistency="local"))["queues"]
            if status["is_leader"]:  # else it would ask another node
                members = (await source.ask("members"))["members"]
        text = meters.exposition(status, members, queues)
        return Response(text, media_type=CONTENT_TYPE_LATEST, headers=UNCACHED)

    return metrics


def _overview(source: Source) -> Endpoint:
    async def overview(_: Request) -> Response:
        return JSONResponse(asdict(await source.overview()), headers=UNCACHED)

    return overview


async def page(_: Request) -> Response:
    html, policy = _page()
    headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"}
    return Response(html, media_type="text/html", headers=headers)


@cache
def _page() -> tuple[str, str]:
    """The page, and the policy that lets it run its own script and style and load nothing else."""
    html = files("nefia.http").joinpath("page.html").read_text()
    script, style = (_hash_of(html, tag) for tag in ("script", "style"))
    policy = (
        f"default-src 'none'; script-src '{script}'; style-src '{style}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return html, policy


def _hash_of(html: str, tag: str) -> str:
    found = re.search(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    assert found is not None, tag
    digest = hashlib.sha256(found[1].encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
