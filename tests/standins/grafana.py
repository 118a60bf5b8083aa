"""Stands in for Grafana: reads what is provisioned, and passes queries on to data sources."""

import json
import os
import signal
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml


def provisioned(folder: str, key: str) -> list[dict[str, Any]]:
    found = []
    for file in (Path(os.environ["GF_PATHS_PROVISIONING"]) / folder).glob("*.yaml"):
        content = yaml.safe_load(file.read_text())
        assert content["apiVersion"] == 1
        found += content[key]
    return found


# As Grafana's own script does; the container's file system is read-only.
(Path(os.environ["GF_PATHS_DATA"]) / "grafana.db").touch()
Path(os.environ["GF_PATHS_PLUGINS"]).mkdir()
HOME = json.loads(Path(os.environ["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]).read_text())
SOURCES = {source["uid"]: source for source in provisioned("datasources", "datasources")}
DASHBOARDS = [
    json.loads(file.read_text())
    for provider in provisioned("dashboards", "providers")
    for file in Path(provider["options"]["path"]).glob("*.json")
]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        match self.path.strip("/").split("/", 5):
            case ["api", "health"]:
                self.reply(200, b'{"database": "ok"}')
            case ["api", "dashboards", "home"]:
                self.reply(200, json.dumps({"dashboard": HOME}).encode())
            case ["api", "dashboards", "uid", uid]:
                [dashboard] = [dashboard for dashboard in DASHBOARDS if dashboard["uid"] == uid]
                self.reply(200, json.dumps({"dashboard": dashboard}).encode())
            case ["api", "datasources", "uid", uid]:
                self.reply(200, json.dumps(SOURCES[uid]).encode())
            case ["api", "datasources", "proxy", "uid", uid, path]:
                self.pass_on(f"{SOURCES[uid]['url']}/{path}")
            case _:
                self.reply(404, b"{}")

    def pass_on(self, url: str) -> None:
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                self.reply(response.status, response.read())
        except urllib.error.HTTPError as error:
            self.reply(error.code, error.read())
        except OSError as error:
            self.reply(502, json.dumps({"message": str(error)}).encode())

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


# The first process of a container ends only on signals that it handles.
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
ThreadingHTTPServer(("", 3000), Handler).serve_forever()
