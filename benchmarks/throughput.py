"""What a request costs: the generated service against a bare FastAPI application.

The same route, one process each, the same container limits, 32 kept connections
of `wrk`. The bare one has uvloop and uvicorn's access log, ours everything that
it has: a JSON line a request, metrics, request ids, security headers. The
services take turns, each in each round; what counts is the ratio of the medians.
"""

import contextlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("svg")
from common import ROOT, add_route, build, container, docker, projects, report  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402

ROUNDS = 9
LOAD = ["wrk", "--threads=1", "--connections=32", "--duration=4s", "--latency"]
PERCENTILES = ("50", "75", "90", "99")
PLOT = ROOT / "benchmarks/throughput.svg"


class Seen(NamedTuple):
    requests: float
    """Requests per second."""
    cpu: float
    """Processor time of the service's process per request, in microseconds."""
    latency: tuple[float, ...]
    """Milliseconds, one for each of `PERCENTILES`."""


class Collector(BaseHTTPRequestHandler):
    """Takes spans as an OTLP collector does, and forgets them."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:  # noqa: N802
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


def processor_seconds(container: str) -> float:
    process = docker("inspect", "--format={{.State.Pid}}", container)
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def load(container: str, port: int) -> Seen:
    before = processor_seconds(container)
    done = subprocess.run(
        [*LOAD, f"http://127.0.0.1:{port}/v1/hello/world"], capture_output=True, text=True, check=True
    )
    spent = processor_seconds(container) - before
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        sys.exit(f"not every request got a response:\n{done.stdout}")
    latency = dict(re.findall(r"(\d+)% +([\d.]+[mu]?s)", done.stdout))
    return Seen(
        float(re.findall(r"Requests/sec: +([\d.]+)", done.stdout)[0]),
        spent / int(re.findall(r"(\d+) requests in", done.stdout)[0]) * 1e6,
        tuple(milliseconds(latency[percentile]) for percentile in PERCENTILES),
    )


def milliseconds(text: str) -> float:
    units = {"us": 0.001, "ms": 1, "s": 1000}
    number, unit = re.findall(r"([\d.]+)(\w+)", text)[0]
    return float(number) * units[unit]


def measure(work: Path, collector: int) -> dict[str, list[Seen]]:
    folders = projects(work)
    add_route(folders["ours"])
    tags = {name: f"copier-fastapi-bench-{name}" for name in folders}
    for name, folder in folders.items():
        build(folder, tags[name])
    gateway = docker("network", "inspect", "bridge", "--format={{(index .IPAM.Config 0).Gateway}}")
    traced = [
        f"--env=OTEL_EXPORTER_OTLP_ENDPOINT=http://{gateway}:{collector}",
        "--env=OTEL_TRACES_SAMPLER=parentbased_traceidratio",
        "--env=OTEL_TRACES_SAMPLER_ARG=0.1",
    ]
    seen: dict[str, list[Seen]] = {"generated": [], "generated, 10 % traced": [], "bare": []}
    with contextlib.ExitStack() as stack:
        services = {
            "generated": stack.enter_context(container(tags["ours"])),
            "generated, 10 % traced": stack.enter_context(container(tags["ours"], *traced)),
            "bare": stack.enter_context(container(tags["bare"])),
        }
        for service in services.values():
            load(*service)
        for _ in range(ROUNDS):
            for name, service in services.items():
                seen[name].append(load(*service))
    for tag in tags.values():
        docker("rmi", "--force", tag)
    return seen


def rows(seen: dict[str, list[Seen]]) -> list[tuple[str, ...]]:
    asked = {"generated": "1.0", "generated, 10 % traced": "0.6", "bare": ""}
    middle = {
        name: Seen(
            statistics.median(one.requests for one in all_),
            statistics.median(one.cpu for one in all_),
            tuple(statistics.median(one.latency[i] for one in all_) for i in range(len(PERCENTILES))),
        )
        for name, all_ in seen.items()
    }
    bare = middle["bare"]
    return [
        ("", "requests/s", "ratio", "at least", "processor time", "ratio", "p50", "p99"),
        *(
            (
                name,
                f"{one.requests:.0f}",
                f"{one.requests / bare.requests:.2f}",
                asked[name],
                f"{one.cpu:.0f} µs",
                f"{one.cpu / bare.cpu:.2f}",
                f"{one.latency[0]:.1f} ms",
                f"{one.latency[-1]:.1f} ms",
            )
            for name, one in middle.items()
        ),
    ]


def plot(seen: dict[str, list[Seen]]) -> None:
    plt.rcParams["svg.hashsalt"] = "copier-fastapi"
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for index, (name, all_) in enumerate(seen.items()):
        left.scatter([one.requests for one in all_], [index] * len(all_), label=name)
        right.plot(
            [f"p{percentile}" for percentile in PERCENTILES],
            [statistics.median(one.latency[i] for one in all_) for i in range(len(PERCENTILES))],
            marker="o",
            label=name,
        )
    left.set(title="Throughput, a dot a round", xlabel="requests per second", yticks=range(len(seen)))
    left.set_yticklabels(list(seen))
    left.set_xlim(left=0)
    left.invert_yaxis()
    right.set(title="Latency, median of the rounds", ylabel="ms")
    right.set_ylim(bottom=0)
    right.legend()
    figure.savefig(PLOT, metadata={"Date": None})
    # The writer leaves spaces at the ends of lines.
    PLOT.write_text("\n".join(line.rstrip() for line in PLOT.read_text().splitlines()) + "\n")


def main() -> None:
    if not shutil.which("wrk"):
        sys.exit("wrk is missing: on Debian, apt-get install wrk")
    collector = ThreadingHTTPServer(("0.0.0.0", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as work:
        seen = measure(Path(work), collector.server_port)
    plot(seen)
    report("throughput", rows(seen), "\n![Throughput and latency](throughput.svg)\n")


if __name__ == "__main__":
    main()
