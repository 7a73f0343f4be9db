"""A hub on this machine: the few addresses that huggingface_hub asks, over real HTTP.

Run as a script in a process of its own, because the library reads its settings when it is imported:
`python fake_hub.py ROOT NAME [REVISION]` serves the folders below ROOT as repositories `org/FOLDER` and
prints what resolve_model makes of NAME.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROOT = Path()
asked: list[str] = []


class Hub(BaseHTTPRequestHandler):
    """Repositories whose name starts with `gated` need a login; revision `main` and its commit exist."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: object) -> None:
        return

    def _answer(self, *, body: bool) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        folder = ROOT / (parts[3] if api else parts[1])
        revision = (parts[5:6] or ["main"])[0] if api else parts[3]
        if not folder.is_dir():
            return self._send(401, b"{}", body, {"X-Error-Code": "RepoNotFound"})
        if folder.name.startswith("gated") and (not api or "tree" in parts):
            return self._send(403, b"{}", body, {"X-Error-Code": "GatedRepo"})
        if revision not in ("main", COMMIT):
            return self._send(404, b"{}", body, {"X-Error-Code": "RevisionNotFound"})
        if api:
            return self._send(200, json.dumps(self._listing(folder, "tree" in parts)).encode(), body, {})
        asked.append(f"{self.command} {parts[-1]}")
        path = folder / parts[-1]
        if not path.is_file():
            return self._send(404, b"", body, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        content = path.read_bytes()
        tag = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        return self._send(200, content, body, tag)

    def _listing(self, folder: Path, tree: bool) -> object:
        names = sorted(path.name for path in folder.iterdir())
        if tree:
            return [
                {"type": "file", "path": name, "size": (folder / name).stat().st_size, "oid": "0" * 40}
                for name in names
            ]
        return {
            "id": f"org/{folder.name}",
            "sha": COMMIT,
            "siblings": [{"rfilename": name} for name in names],
        }

    def _send(self, status: int, content: bytes, body: bool, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)


def main(root: str, name: str, revision: str | None = None) -> None:
    global ROOT
    ROOT = Path(root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
    from tunewright.errors import ModelError
    from tunewright.models.resolve import resolve_model

    try:
        found = sorted(path.name for path in resolve_model(name, revision).folder.iterdir())
        sys.stdout.write(json.dumps({"files": found, "asked": asked}))
    except ModelError as error:
        sys.stdout.write(json.dumps({"code": error.code, "text": str(error), "asked": asked}))


if __name__ == "__main__":
    main(*sys.argv[1:])
