"""A server that stands in for the hub: it serves the folder of each model, or answers as it is told to."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NOT_FOUND = (404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
NO_REPO = (401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Invalid username or password."})


@dataclass
class LocalHub:
    """`models` has a folder for each id; `faults` an answer (status, headers) for paths that match a pattern."""

    models: dict[str, Path] = field(default_factory=dict)
    faults: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(path)
        for pattern, (status, headers) in self.faults.items():
            if re.search(pattern, path):
                return status, headers, json.dumps({"error": headers.get("X-Error-Message", "")}).encode()
        if found := re.match(r"^/api/models/([^/]+/[^/?]+)(?:/revision/([^/?]+))?(?:\?.*)?$", path):
            return self._about(found[1])
        if found := re.match(r"^/api/models/([^/]+/[^/]+)/tree/[^/?]+(?:\?.*)?$", path):
            return self._tree(found[1])
        if found := re.match(r"^/([^/]+/[^/]+)/resolve/([^/]+)/([^?]+)", path):
            return self._file(found[1], found[3])
        return (*NOT_FOUND, b"")

    def _about(self, model: str) -> tuple[int, dict[str, str], bytes]:
        if model not in self.models:
            return (*NO_REPO, b"")
        folder = self.models[model]
        files = [{"rfilename": p.relative_to(folder).as_posix()} for p in sorted(folder.rglob("*")) if p.is_file()]
        return 200, {}, json.dumps({"id": model, "sha": COMMIT, "siblings": files}).encode()

    def _tree(self, model: str) -> tuple[int, dict[str, str], bytes]:
        if model not in self.models:
            return (*NO_REPO, b"")
        folder = self.models[model]
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        rows = [{"type": "file", "path": p.relative_to(folder).as_posix(), "size": p.stat().st_size} for p in paths]
        return 200, {}, json.dumps([row | {"oid": str(n)} for n, row in enumerate(rows)]).encode()

    def _file(self, model: str, name: str) -> tuple[int, dict[str, str], bytes]:
        if model not in self.models:
            return (*NO_REPO, b"")
        path = self.models[model] / name
        if not path.is_file():
            return NOT_FOUND[0], NOT_FOUND[1] | {"X-Repo-Commit": COMMIT}, b""
        content = path.read_bytes()
        return 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}, content


@contextmanager
def local_hub() -> Iterator[LocalHub]:
    """Within, a hub without models listens at its `url`."""
    hub = LocalHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, headers, body = hub.answer(self.path)
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
