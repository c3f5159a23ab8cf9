"""A small HTTP service for tests of fleets, of the standard library alone.

GET /slow?ms=N answers after so long, /env?NAME the variable, /crash ends the process, /hang stops answering,
/leak?mb=N takes memory; everything else answers the process number. BEHAVE: `crash` at start, `refuse` to
end, `unready` answers /readyz with 503, `bind` never listens. SIGTERM finishes what is under way and takes
nothing new.
"""

import os
import signal
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BEHAVE = os.environ.get("BEHAVE", "")
hanging = threading.Event()
leaked: list[bytes] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if hanging.is_set() or path == "/hang":
            hanging.set()
            time.sleep(3600)
        if path == "/crash":
            os._exit(3)
        if path == "/leak":
            leaked.append(os.urandom(int(query.removeprefix("mb=")) << 20))
        if path == "/slow":
            time.sleep(int(query.removeprefix("ms=")) / 1000)
        body = os.environ.get(query, "") if path == "/env" else str(os.getpid())
        status = 503 if path == "/readyz" and BEHAVE == "unready" else 200
        self.send_response(status)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        pass


class Server(ThreadingHTTPServer):
    # Threads are joined at the end: requests under way are finished.
    daemon_threads = False
    request_queue_size = 128

    def server_bind(self) -> None:
        # The base class would look its own name up.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]


def main() -> None:
    if BEHAVE == "crash":
        sys.exit("it does not start")
    if BEHAVE == "bind":
        time.sleep(3600)
    server = Server(("127.0.0.1", int(os.environ["PORT"])), Handler)

    def stop(*_: object) -> None:
        if BEHAVE != "refuse":
            threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    server.serve_forever(poll_interval=0.05)
    server.server_close()


if __name__ == "__main__":
    main()
