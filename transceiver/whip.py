# SPDX-License-Identifier: Apache-2.0
"""The HTTP side: WHIP (RFC 9725), metrics and health.

    POST /whip                    an SDP offer; 201 with the answer, Location and ETag
    OPTIONS /whip                 what may be posted (Accept-Post), and CORS
    PATCH /whip/sessions/NAME/ID  an ICE restart: 200 with our new credentials and ETag; or trickled
                                  candidates: 204, and not used, since the client alone sends checks
    DELETE /whip/sessions/NAME/ID ends the call
    OPTIONS /whip/sessions/...    what may be patched (Accept-Patch), and CORS
    GET /metrics                  for Prometheus
    GET /healthz                  200 when it is attached to a relay
    GET /readyz                   200 when it would take a call now, else 503 and why: for load balancers
    GET /, /page/...              a page to call from

A session's address names the transceiver that has it: a load balancer may go by that. What arrives here and
is another one's is handed on (`peers`).

The query of the address that is posted to goes to the speech backend, as metadata. Where there are tokens,
POST, PATCH and DELETE need one.

Media is negotiated once: a method that a resource does not know is answered 405 (RFC 9110, 15.5.6), a PATCH
that is not of ICE alone 415 or 422. Errors are problem details.
"""

from __future__ import annotations

from ipaddress import ip_address

from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from telemetry.tracing import TRACEPARENT
from transceiver.calls import Calls
from transceiver.cross_origin import cors
from transceiver.errors import BusyError, OfferError, PatchError, RelayError
from transceiver.hops import PEER
from transceiver.ingresses import FORWARDED_FOR, Ingresses
from transceiver.media import IPAddress
from transceiver.page import add_page
from transceiver.peers import Peers
from transceiver.problem import Handler, problem, problems
from transceiver.relays import Relays
from transceiver.settings import Web
from transceiver.tokens import Tokens

MAX_OFFER = 65536  # bytes; a browser's offer has 2,000 to 8,000
RETRY_AFTER = {"Retry-After": "1"}
SESSION = "/whip/sessions/{owner}/{id}"
SDP = "application/sdp"
SDPFRAG = "application/trickle-ice-sdpfrag"
MAX_METADATA = 16  # entries
MAX_METADATA_CHARS = 256  # of each name and value


def make_app(
    calls: Calls, relays: Relays, ingresses: Ingresses, registry: CollectorRegistry, how: Web, peers: Peers
) -> web.Application:
    """The HTTP application; it holds no state of its own."""
    tokens = Tokens(how.tokens) if how.tokens is not None else None

    def let_in(handler: Handler) -> Handler:
        async def checked(request: web.Request) -> web.StreamResponse:
            if tokens is not None and not tokens.allow(request.headers.get(hdrs.AUTHORIZATION)):
                return problem(401, "a bearer token is needed", {hdrs.WWW_AUTHENTICATE: "Bearer"})
            return await handler(request)

        return checked

    def ours(handler: Handler) -> Handler:
        """Another's sessions are that one's to let in, too."""
        checked = let_in(handler)

        async def owned(request: web.Request) -> web.StreamResponse:
            owner = request.match_info["owner"]
            return await (checked(request) if peers.is_own(owner) else peers.hand_on(request, owner))

        return owned

    async def post(request: web.Request) -> web.Response:
        if request.content_type != SDP:
            return problem(415, f"an offer is {SDP}", {"Accept-Post": SDP})
        try:
            offer = (await request.read()).decode()
        except UnicodeDecodeError:
            return problem(400, "the offer is not UTF-8")
        try:
            metadata = _metadata(request)
            region = ingresses.place(
                peer_of(request), request.headers, request.headers.getall(FORWARDED_FOR, ())
            )
            call, answer = await calls.set_up(offer, metadata, request.headers.get(TRACEPARENT, ""), region)
        except OfferError as error:
            return problem(error.status, str(error))
        except (BusyError, RelayError) as error:
            return problem(503, str(error), RETRY_AFTER)
        location = how.public_url + SESSION.format(owner=peers.own, id=call.id)
        headers = {hdrs.LOCATION: location, hdrs.ETAG: call.etag, "Accept-Patch": SDPFRAG}
        return web.Response(status=201, text=answer, content_type=SDP, headers=headers)

    async def patch(request: web.Request) -> web.Response:
        if request.content_type != SDPFRAG:
            return problem(415, f"what may change is ICE, by {SDPFRAG}", {"Accept-Patch": SDPFRAG})
        if_match = ", ".join(request.headers.getall(hdrs.IF_MATCH, ())) or None
        try:
            fragment = (await request.read()).decode()
        except UnicodeDecodeError:
            return problem(400, "the fragment is not UTF-8")
        try:
            restarted = await calls.patch(request.match_info["id"], if_match, fragment)
        except PatchError as error:
            return problem(error.status, str(error))
        except RelayError as error:
            return problem(503, str(error), RETRY_AFTER)
        if restarted is None:
            return web.Response(status=204)
        call, answer = restarted
        return web.Response(text=answer, content_type=SDPFRAG, headers={hdrs.ETAG: call.etag})

    async def delete(request: web.Request) -> web.Response:
        if not await calls.delete(request.match_info["id"]):
            return problem(404, "there is no such session; it may have ended")
        return web.Response()

    async def options(request: web.Request) -> web.Response:
        endpoint = request.path == "/whip"
        methods = "POST, OPTIONS" if endpoint else "PATCH, DELETE, OPTIONS"
        accepted = {"Accept-Post": SDP} if endpoint else {"Accept-Patch": SDPFRAG}
        headers = {
            hdrs.ALLOW: methods,
            "Access-Control-Allow-Methods": methods,
            "Access-Control-Allow-Headers": "Authorization, Content-Type, If-Match",
            "Access-Control-Max-Age": "86400",
        }
        return web.Response(status=204, headers=headers | accepted)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={hdrs.CONTENT_TYPE: CONTENT_TYPE_LATEST})

    async def health(_: web.Request) -> web.Response:
        return web.Response(text="attached\n") if relays.attached else problem(503, "not attached to a relay")

    async def ready(_: web.Request) -> web.Response:
        missing = "not attached to a relay" if not relays.attached else calls.obstacle()
        return web.Response(text="ready\n") if missing is None else problem(503, missing, RETRY_AFTER)

    app = web.Application(middlewares=[cors(how.origins), problems], client_max_size=MAX_OFFER)
    app.cleanup_ctx.append(peers.opened)
    app.router.add_post("/whip", let_in(post))
    app.router.add_options("/whip", options)
    app.router.add_patch(SESSION, ours(patch))
    app.router.add_delete(SESSION, ours(delete))
    app.router.add_options(SESSION, options)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", health)
    app.router.add_get("/readyz", ready)
    if how.page:
        add_page(app)
    return app


def peer_of(request: web.Request) -> IPAddress | None:
    """Who the request came from, also of a worker's; None if that is not known."""
    name = request.transport.get_extra_info("peername") if request.transport else None
    host = name[0] if isinstance(name, tuple) else request.headers.get(PEER, "")
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _metadata(request: web.Request) -> dict[str, str]:
    """What the address says beside the path. Raises `OfferError`."""
    metadata = dict(request.query)
    if len(metadata) > MAX_METADATA or any(
        len(text) > MAX_METADATA_CHARS for pair in metadata.items() for text in pair
    ):
        raise OfferError(400, f"the query has more than {MAX_METADATA} entries, or a long one")
    return metadata
