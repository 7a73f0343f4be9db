"""An HTTP server in a thread of its own, with TLS where the operator gave a certificate."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Sequence

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from tunewright.errors import ServiceError
from tunewright.service.envelope import envelope
from tunewright.service.faults import ApiError
from tunewright.service.settings import Tls
from tunewright.service.wire import http_config


class HttpServer:
    """Answers on a socket from its making until `stop`. lifespan: whether it runs the application's start
    and end, which only one of several servers of one application may."""

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        *,
        tls: Tls | None = None,
        proxies: Sequence[str] = (),
        lifespan: bool = True,
    ) -> None:
        self.url = _url(listener, "https" if tls else "http")
        config = http_config(app, proxies)
        config.lifespan = "auto" if lifespan else "off"
        if tls is not None:
            config.ssl_certfile, config.ssl_keyfile = str(tls.certificate), str(tls.key)
        self._server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self._server.run, args=([listener],), daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Answer what has come, and end."""
        self._server.should_exit = True
        self.thread.join()


class OnlyWorkers:
    """ASGI wrapper for the socket of the workers that the server started itself, which speaks no TLS: nothing
    but their calls is answered there."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "http" and not str(scope["path"]).startswith("/worker/"):
            await envelope(ApiError(404, "Only workers are answered here"))(scope, receive, send)
            return
        await self.app(scope, receive, send)


def check_tls(tls: Tls) -> None:
    """Raise ServiceError (`service.tls`) unless the two files are a certificate and its key."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.certificate, tls.key)
    except (OSError, ValueError) as error:
        raise ServiceError(
            "cannot serve with this certificate and key",
            where=f"{tls.certificate}, {tls.key}",
            got=getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error),
            expected="two PEM files: the certificate with its chain, and its private key without a password",
            code="service.tls",
        ) from error


def _url(listener: socket.socket, scheme: str) -> str:
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
