"""A service that has nothing to do with banking: notes over HTTP, in memory. `python notes.py [PORT]`."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NOTES: dict[str, dict[str, str]] = {}
ANSWERED = 0


class Notes(BaseHTTPRequestHandler):
    """GET /health, POST /notes, GET and DELETE /notes/ID, GET /metrics."""

    def do_GET(self) -> None:
        if self.path == "/health":
            self.answer(200, {"status": "ok", "notes": len(NOTES)})
        elif self.path == "/metrics":
            self.answer(200, f"notes_answered_total {ANSWERED}\n")
        elif (note := NOTES.get(self.path.removeprefix("/notes/"))) is not None:
            self.answer(200, note)
        else:
            self.answer(404, {"error": "there is no such note"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        # The key names the intent: whoever sends it twice gets the note that is there.
        key = self.headers["Idempotency-Key"]
        NOTES.setdefault(key, {"id": key, "text": body["text"]})
        self.answer(201, NOTES[key])

    def do_DELETE(self) -> None:
        self.answer(200, NOTES.pop(self.path.removeprefix("/notes/"), {}))

    def answer(self, status: int, body: object) -> None:
        global ANSWERED
        ANSWERED += 1
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 8500), Notes)
    print(f"Notes at http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
