"""Who comes in: the secret first, then the protocol's version, then the run. One middleware.

Must never say anything to somebody without the secret but that it is missing, never compare it in
a time that depends on it, and never log a header. Refusals leave as `{code, sentence}` and are
counted. Keeps invariant 9.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from atoll.access.tokens import Role, Secret, role_of
from atoll.syncer.errors import RefusedError
from atoll.syncer.surroundings import Counts
from atoll.wire.errors import WireError
from atoll.wire.protocol import PROTOCOL, PROTOCOL_HEADER, ROOT, check_protocol

HEALTH = "/healthz"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Middleware = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]


def refusal(error: RefusedError) -> web.Response:
    """A refusal as an answer."""
    response = web.json_response(
        {"code": error.code, "sentence": error.sentence}, status=error.status
    )
    if error.retry_s > 0:
        response.headers["Retry-After"] = str(error.retry_s)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if error.status == 426:
        response.headers["Upgrade"] = f"{PROTOCOL_HEADER}/{PROTOCOL}"
    return response


def guard(secret: Secret, run: str, counts: Counts) -> Middleware:
    """Lets those in who may, and turns refusals into answers."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if request.path != HEALTH:
                _check(request, secret, run)
            return await handler(request)
        except RefusedError as error:
            counts.refuse(error.code)
            return refusal(error)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            known = {404: "unknown_path", 405: "unknown_method"}
            text = f"{request.method} {request.path}: {error.reason}"
            return refusal(RefusedError(error.status, known.get(error.status, "http"), text))

    return middleware


def _check(request: web.Request, secret: Secret, run: str) -> None:
    role = role_of(request.headers.get("Authorization", ""), secret)
    if role is None:
        raise RefusedError(401, "unauthorized", "the secret of the run's invite is asked for here")
    if not request.path.startswith("/atoll/"):
        return
    if request.path != ROOT and not request.path.startswith(f"{ROOT}/"):
        text = f"this side speaks protocol {PROTOCOL}, under {ROOT}: use the same version of Atoll"
        raise RefusedError(426, "protocol", text)
    try:
        check_protocol(request.headers.get(PROTOCOL_HEADER))
    except WireError as error:
        raise RefusedError(426, error.code, error.sentence) from error
    asked = request.match_info.get("run", run)
    if asked != run:
        raise RefusedError(404, "run", f"run {asked[:80]!r} is not here, this is {run!r}")
    only_looks = request.method == "GET" and not request.path.endswith("/control")
    if role is Role.OBSERVER and not only_looks:
        raise RefusedError(403, "observer", "an observer's token is for looking only")


async def read_body(request: web.Request, limit_bytes: int) -> bytes:
    """A small body; RefusedError before more than the limit is taken."""
    length = request.content_length
    if length is None:
        raise RefusedError(411, "length", "a body carries its exact Content-Length")
    if length > limit_bytes:
        raise RefusedError(413, "size", f"{length} bytes, at most {limit_bytes} are taken here")
    return await request.content.readexactly(length) if length else b""
