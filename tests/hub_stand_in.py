"""A stand-in for the Hub on this machine: what ``huggingface_hub`` asks for a model, and a record of all it asked.

The paths and headers are those of the Hub: ``/api/models/NAME/revision/REV`` and ``.../tree/REV`` list a model, and
``/NAME/resolve/REV/FILE`` gives a file.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


def files_of(directory: Path) -> Files:
    """Every file below a directory, by its path there."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


@dataclass
class StandIn:
    """What the stand-in serves and what was asked of it.

    Args:
        endpoint: Its address.
        commits: By model and commit, the files.
        branches: By model and branch, the commit.
        refused: Error codes of the Hub by model, and the status that comes with each.
        cut: Files that end in the middle whenever they are fetched.
        answer: What every question for a model gets instead, where it is set.
        asked: ``METHOD /path`` of every request.
    """

    endpoint: str
    commits: dict[str, dict[str, Files]] = field(default_factory=dict)
    branches: dict[str, dict[str, str]] = field(default_factory=dict)
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    answer: bytes | None = None
    asked: list[str] = field(default_factory=list)

    def push(self, model: str, files: Files, branch: str = "main") -> str:
        """A new commit on a branch; its hash."""
        text = json.dumps([len(self.commits.get(model, {})), sorted(files)])
        commit = hashlib.sha1(text.encode()).hexdigest()
        self.commits.setdefault(model, {})[commit] = files
        self.branches.setdefault(model, {})[branch] = commit
        return commit

    def fetched(self) -> list[str]:
        """The files whose content was asked for since the last call, sorted."""
        names = [re.sub(r"^GET /[^/]+/[^/]+/resolve/[^/]+/", "", line) for line in self.asked if "/resolve/" in line]
        found = sorted(name for name in names if not name.startswith("HEAD "))
        self.asked.clear()
        return found

    def commit(self, model: str, revision: str) -> str | None:
        """The commit that a revision is."""
        known = self.branches.get(model, {}).get(revision, revision)
        return known if known in self.commits.get(model, {}) else None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stand_in: StandIn

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.stand_in.asked.append(f"{self.command} {path}")
        listing = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/(.+)", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = listing or file
        model, revision = (match[1], match[3] if listing else match[2]) if match else ("", "")
        if listing and self.stand_in.answer is not None:
            self.send(200, self.stand_in.answer)
        elif model in self.stand_in.refused and (file or self.stand_in.refused[model][1] != "GatedRepo"):
            self.refuse(*self.stand_in.refused[model])  # anyone may list a gated model
        elif model not in self.stand_in.commits:
            self.refuse(404, "RepoNotFound")
        elif (commit := self.stand_in.commit(model, revision)) is None:
            self.refuse(404, "RevisionNotFound")
        elif listing:
            self.list(model, commit, whole=listing[2] == "tree")
        else:
            assert file
            self.file(self.stand_in.commits[model][commit].get(file[3]), commit, file[3], body=body)

    def list(self, model: str, commit: str, *, whole: bool) -> None:
        files = self.stand_in.commits[model][commit]
        if whole:
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in files.items()
            ]
            self.send(200, json.dumps(tree).encode())
        else:
            info = {"id": model, "sha": commit, "siblings": [{"rfilename": name} for name in files]}
            self.send(200, json.dumps(info).encode())

    def file(self, data: bytes | None, commit: str, name: str, *, body: bool) -> None:
        headers = {"X-Repo-Commit": commit}
        if data is None:
            self.refuse(404, "EntryNotFound", headers)
            return
        headers["ETag"] = f'"{hashlib.sha1(data).hexdigest()}"'
        if body and name in self.stand_in.cut:
            self.send(200, data, headers, part=len(data) // 2)
        else:
            self.send(200, data, headers)

    def refuse(self, status: int, code: str, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        self.send(status, b"{}", {**headers, **({"X-Error-Code": code} if code else {})})

    def send(
        self, status: int, data: bytes, headers: Mapping[str, str] = MappingProxyType({}), *, part: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:part])
            self.close_connection = self.close_connection or part is not None

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed; ``asked`` has it."""


@contextmanager
def serving() -> Iterator[StandIn]:
    """The stand-in, while the block runs."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        stand_in = StandIn(f"http://127.0.0.1:{server.server_address[1]}")
        server.RequestHandlerClass = type("Handler", (_Handler,), {"stand_in": stand_in})
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield stand_in
        finally:
            server.shutdown()
            thread.join()
