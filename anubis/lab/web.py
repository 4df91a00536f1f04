"""The web server of a lab host: one page, which also tells who asked.

Owns the page; refuses to know what it is served for.
"""

from __future__ import annotations

import socket
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer

__all__ = ["web_server"]


class _DualStackServer(ThreadingTCPServer):
    """Listens on IPv4 and IPv6 with one socket."""

    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def web_server(page: str, port: int = 80) -> ThreadingTCPServer:
    """Return a server that listens already; `serve_forever()` answers. Raises OSError."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            client = str(self.client_address[0]).removeprefix("::ffff:")
            body = f"{page}\nyou are {client}\n".encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  its name there
            """Keep quiet."""

    return _DualStackServer(("::", port), Page)
