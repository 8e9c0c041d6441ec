"""The limit: the least that an ASGI app on uvicorn can do, which is to answer a small JSON body."""

import sys

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

BODY = b'{"valid":false,"reason":"incorrect","attempts_left":4}'
_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())],
}
_BODY = {"type": "http.response.body", "body": BODY}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await send(_START)
    await send(_BODY)


def serve(app: ASGIApp, port: int) -> None:
    """Serve with the settings of `server.main`."""
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
    )
    uvicorn.Server(config).run()


if __name__ == "__main__":
    serve(app, int(sys.argv[1]))
