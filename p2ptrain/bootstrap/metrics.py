"""/metrics for Prometheus and /healthz for supervisors, over HTTP, from a thread of their own.

    /healthz   200 and "ok" if p2pd runs and the DHT has answered lately, else 503 and what is wrong
    /metrics   the result of the last check; memory, processor time and bytes of this process and of p2pd; and what p2pd
               itself counts: its relay, its connections and its reachability

These pages change nothing and show no secret. Still, only the operator needs them: serve them at an address that others
can't reach.
"""

from __future__ import annotations

import http.server
import logging
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.parser import text_string_to_metric_families

from p2ptrain.bootstrap.health import Look
from p2ptrain.errors import NetworkError, UsageError
from p2ptrain.swarm import Swarm, monotonic, version
from p2ptrain.text import reason_of

CLIENT_SECONDS = 5.0
DAEMON_SECONDS = 2.0
PLAIN = "text/plain; charset=utf-8"
FROM_DAEMON = ("libp2p_rcmgr_connections", "libp2p_swarm_connections_", "libp2p_autonat_reach")
"""The beginnings of the names of those figures of p2pd that help an operator, out of hundreds."""

log = logging.getLogger(__name__)


class NodeCollector:
    """Collects the node's figures for Prometheus."""

    def __init__(self, swarm: Swarm, look: Callable[[], Look], daemon_port: int) -> None:
        """`look` returns the last check; p2pd serves metrics of its own at the port `daemon_port` of 127.0.0.1."""
        self.look, self.daemon, self._relay = look, swarm.node.daemon_pid, swarm.node.relay
        self._peer, self._daemon_port, self._started = swarm.peer_id, daemon_port, monotonic()

    def collect(self) -> Iterator[Metric]:
        look, now = self.look(), monotonic()
        tunnels = self._relay.tunnels if self._relay else 0
        yield InfoMetricFamily("p2ptrain", "Who this is", {"version": version(), "peer": self._peer})
        for name, about, value in (
            ("healthy", "1 if /healthz says ok", float(not look.verdict(now))),
            ("uptime_seconds", "Seconds since the node has started", now - self._started),
            ("peers_connected", "Peers with a connection to this node", len(look.peers)),
            ("dht_neighbours", "Nodes of the DHT that this one knows", look.neighbours),
            ("dht_records", "Records of peers and runs that this node keeps for the DHT", look.records),
            ("relay_tunnels", "Tunnels between others that lead through this node", tunnels),
            ("dht_answer_seconds", "How long the DHT took to look something up, the last time", look.answer_seconds),
        ):
            yield GaugeMetricFamily(f"p2ptrain_{name}", about, value)
        sent = CounterMetricFamily("p2ptrain_sent_bytes", "Bytes that this process has sent to peers", labels=["what"])
        for what, count in look.sent:
            sent.add_metric([what], count)
        yield sent
        yield from self._daemon_bytes()
        yield from self._daemon_figures()

    def _daemon_bytes(self) -> Iterator[Metric]:
        """Bytes that p2pd has read and written by system calls: over TCP and to this process, but not over QUIC."""
        try:
            lines = Path(f"/proc/{self.daemon}/io").read_text().splitlines()
        except OSError:  # this is not Linux, or p2pd has just ended: then /healthz says so
            return
        counted = {key: float(value) for key, _, value in (line.partition(": ") for line in lines)}
        yield CounterMetricFamily("p2pd_read_bytes", "Bytes that p2pd has read, without QUIC", counted["rchar"])
        yield CounterMetricFamily("p2pd_written_bytes", "Bytes that p2pd has written, without QUIC", counted["wchar"])

    def _daemon_figures(self) -> Iterator[Metric]:
        try:
            address = f"http://127.0.0.1:{self._daemon_port}/metrics"
            with urllib.request.urlopen(address, timeout=DAEMON_SECONDS) as answer:
                families = list(text_string_to_metric_families(answer.read().decode()))
        except Exception as error:  # of the system, of HTTP, or of the text
            log.warning("can't read p2pd's own metrics now: %s", error)
            return
        yield from (family for family in families if family.name.startswith(FROM_DAEMON))


class MetricsServer:
    """Serves the two pages over HTTP. Use it in a `with` block."""

    def __init__(self, address: tuple[str, int], node: NodeCollector) -> None:
        """Raises NetworkError if this machine can't listen at the address."""
        registry = CollectorRegistry()
        registry.register(node)
        ProcessCollector(registry=registry)
        ProcessCollector(namespace="p2pd", pid=lambda: node.daemon, registry=registry)

        class Handler(http.server.BaseHTTPRequestHandler):
            timeout = CLIENT_SECONDS

            def do_GET(self) -> None:
                if self.path == "/healthz":
                    problem = node.look().verdict(monotonic())
                    self._answer(503 if problem else 200, PLAIN, f"{problem or 'ok'}\n".encode())
                elif self.path == "/metrics":
                    self._answer(200, CONTENT_TYPE_LATEST, generate_latest(registry))
                else:
                    self._answer(404, PLAIN, b"the pages are /healthz and /metrics\n")

            def _answer(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        try:
            self._server = _Server(address, Handler)
        except Exception as error:  # of the system, or of a host's name that can't be encoded
            what = f"can't serve metrics at {address[0]}:{address[1]}"
            raise NetworkError(what, reason_of(error), "choose another address with --metrics") from None
        self._thread = threading.Thread(target=self._server.serve_forever, name="p2ptrain-metrics", daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def __enter__(self) -> MetricsServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[http.server.BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)

    def handle_error(self, _request: object, address: object) -> None:
        log.debug("a question for metrics from %s broke off", address)


def parse_address(text: str) -> tuple[str, int]:
    """The host and the port of a text HOST:PORT; an IPv6 host stands in brackets. Raises UsageError if the text is
    malformed."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not host or not port.isdecimal() or int(port) >= 2**16 or (":" in host) != text.startswith("["):
        step = "write it like --metrics 127.0.0.1:9090 or [::1]:9090"
        raise UsageError(f"can't serve metrics at {text!r}", "it is not HOST:PORT", step)
    return host, int(port)


def free_port() -> int:
    """A TCP port of 127.0.0.1 where no program listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
