"""Stands in for Tempo: takes spans where its configuration says, and knows which traces they belong to."""

import gzip
import os
import signal
import sys
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import yaml

config = yaml.safe_load(Path(sys.argv[1].removeprefix("-config.file=")).read_text())
kept = config["storage"]["trace"]
for folder in (kept["wal"]["path"], kept[kept["backend"]]["path"]):
    Path(folder).mkdir(parents=True)
host, port = config["distributor"]["receivers"]["otlp"]["protocols"]["http"]["endpoint"].split(":")
received: deque[bytes] = deque(maxlen=10_000)


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        received.append(gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
        reply(self, 200 if self.path == "/v1/traces" else 404)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        trace = bytes.fromhex(self.path.removeprefix("/api/traces/"))
        reply(self, 200 if any(trace in body for body in list(received)) else 404)


def reply(handler: BaseHTTPRequestHandler, status: int) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


# The first process of a container ends only on signals that it handles.
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
Thread(target=ThreadingHTTPServer((host, int(port)), Receiver).serve_forever).start()
ThreadingHTTPServer(("", config["server"]["http_listen_port"]), Handler).serve_forever()
