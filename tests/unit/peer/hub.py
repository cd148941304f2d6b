"""A hub in this process, with the part of the hub's interface that looking at models and datasets uses."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TABLE = b'{"text": "a"}\n'


@dataclass
class Repository:
    """The only commit of a repository on the hub."""

    commit: str
    files: dict[str, bytes]
    card: dict[str, Any] = field(default_factory=dict)
    said: dict[str, Any] = field(default_factory=dict)
    """What the hub says of it besides."""
    gated: bool = False


class Hub(ThreadingHTTPServer):
    """Serves `repositories`, by 'models/owner/name' and 'datasets/owner/name'; asked for a path
    with `silent` in it, it answers nothing."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.repositories: dict[str, Repository] = {}
        self.asked: list[str] = []
        self.silent: str | None = None
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> Hub:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()
        self.shutdown()
        self.server_close()
        self.thread.join()


class _Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        if self.server.silent is not None and self.server.silent in path:
            self.server.closed.wait(30)
        if found := re.fullmatch(
            r"/api/((?:models|datasets)/[^/]+/[^/]+)(?:/(revision|tree)/([^/]+)(?:/(.*))?)?", path
        ):
            self._describe(found[1], found[2] or "revision", found[3] or "main", found[4] or "")
        elif found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(f"{found[1] or 'models/'}{found[2]}", found[3], found[4])
        else:
            self._refuse(404, "EntryNotFound")

    def _repository(self, name: str, revision: str) -> Repository | None:
        repository = self.server.repositories.get(name)
        if repository is None:
            self._refuse(404, "RepoNotFound")
        elif revision not in ("main", "v1", repository.commit):
            self._refuse(404, "RevisionNotFound")
        else:
            return repository
        return None

    def _describe(self, name: str, what: str, revision: str, folder: str) -> None:
        if (repository := self._repository(name, revision)) is None:
            return
        if what == "revision":
            siblings = [{"rfilename": file} for file in repository.files]
            about = {"id": name.partition("/")[2], "sha": repository.commit, "siblings": siblings}
            self._send(200, json.dumps(about | {"cardData": repository.card} | repository.said).encode())
            return
        start = f"{folder}/" if folder else ""
        below = [file for file in repository.files if file.startswith(start)]
        if not urlsplit(self.path).query.lower().startswith("recursive=true"):
            below = list(dict.fromkeys(start + file.removeprefix(start).partition("/")[0] for file in below))
        self._send(200, json.dumps([self._entry(repository, path) for path in below]).encode())

    def _entry(self, repository: Repository, path: str) -> dict[str, Any]:
        content = repository.files.get(path)
        kind, size = ("directory", 0) if content is None else ("file", len(content))
        return {"type": kind, "path": path, "size": size, "oid": "0" * 40}

    def _file(self, name: str, revision: str, file: str) -> None:
        if (repository := self._repository(name, revision)) is None:
            return
        if repository.gated:
            self._refuse(403, "GatedRepo")
        elif (content := repository.files.get(file)) is None:
            self._refuse(404, "EntryNotFound", {"X-Repo-Commit": repository.commit})
        else:
            headers = {"X-Repo-Commit": repository.commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
            self._send(200, content, headers)

    def _refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, **(headers or {})})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass
