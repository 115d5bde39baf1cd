"""A local server that speaks the Hugging Face Hub's protocol, as far as one repository goes."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REVISION = "0123456789abcdef0123456789abcdef01234567"  # until the first commit


class Hub:
    """Serves one repository at `address`; attributes say what goes wrong.

    Attributes:
      files: contents by name.
      cuts: how many responses still break off in the middle of what they send.
      status: of every response.
      read_only: whether commits are refused.
      checksum: what it says that files have, None for the true one.
      is_hub: whether responses name a revision, as no other server's do.
      is_there: whether the repository has been created.
      is_private: its visibility.
      revision: of the newest commit.
      older: contents by name, of older revisions.
      commits: the names that each commit added and deleted.
      requests: method, file and range of all so far.
    """

    def __init__(self, repository, port=0):
        self.repository, self.files, self.requests = repository, {}, []
        self.cuts, self.status, self.checksum, self.is_hub = 0, 200, None, True
        self.read_only, self.is_there, self.is_private = False, True, False
        self.revision, self.commits, self.large_files = REVISION, [], {}
        self.older = {}
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def create(self, asked):
        """The answer to a client that creates a repository: status and JSON."""
        wanted = f"{asked['organization']}/{asked['name']}"
        assert wanted == self.repository, "another repository"
        status = 409 if self.is_there else 200
        if not self.is_there:
            self.is_there, self.is_private = True, asked.get("visibility") == "private"
            self.files[".gitattributes"] = b""
        return status, {"url": f"{self.address}/{self.repository}"}

    def info(self):
        """What it says of the repository."""
        names = [{"rfilename": name} for name in self.files]
        state = {"sha": self.revision, "private": self.is_private, "siblings": names}
        return 200, {"id": self.repository, "tags": [], **state}

    def modes(self, asked):
        """Safetensors go apart from the commit, as large files."""
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for file in asked["files"]
        ]
        return 200, {"files": modes}

    def large(self, asked):
        """Where to put large files."""
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.address}/large/{each['oid']}"}}}
            for each in asked["objects"]
        ]
        return 200, {"transfer": "basic", "objects": objects}

    def commit(self, lines):
        """Makes the changes of a commit, one a line."""
        if self.read_only:
            return 403, {"error": "no write access"}
        (_, header), *changes = ((line["key"], line["value"]) for line in lines)
        assert header["parentCommit"] == self.revision
        added, deleted = [], []
        for kind, value in changes:
            name = value["path"]
            (deleted if kind == "deletedFile" else added).append(name)
            if kind == "deletedFile":
                del self.files[name]
            elif kind == "lfsFile":
                self.files[name] = self.large_files[value["oid"]]
            else:
                self.files[name] = base64.b64decode(value["content"])
        self.commits.append((sorted(added), sorted(deleted)))
        self.revision = f"{len(self.commits):040x}"
        url = f"{self.address}/{self.repository}/commit/{self.revision}"
        return 200, {"commitUrl": url, "commitOid": self.revision}


class _Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self._serve(with_content=False)

    def do_GET(self):
        if self.path == f"/api/models/{self.hub.repository}":
            self._answer(self.hub.info())
        else:
            self._serve(with_content=True)

    def do_POST(self):
        hub, content = self.hub, self._content()
        models = f"/api/models/{hub.repository}"
        hub.requests.append(("POST", self.path, ""))
        if self.path == f"{models}/commit/main":
            self._answer(hub.commit([json.loads(line) for line in content.splitlines()]))
            return
        answers = {
            "/api/repos/create": hub.create,
            "/api/validate-yaml": lambda _: (200, {"errors": [], "warnings": []}),
            f"{models}/preupload/main": hub.modes,
            f"/{hub.repository}.git/info/lfs/objects/batch": hub.large,
        }
        self._answer(answers[self.path](json.loads(content)))

    def do_PUT(self):
        name, content = self.path.removeprefix("/large/"), self._content()
        assert hashlib.sha256(content).hexdigest() == name
        self.hub.large_files[name] = content
        self._answer((200, {}))

    def _content(self):
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _answer(self, answer):
        """Sends a status and JSON, or nothing but the status that all responses have."""
        status, value = answer
        status = status if self.hub.status == 200 else self.hub.status
        content = json.dumps(value).encode()
        self.send_response(status)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _serve(self, with_content):
        hub = self.hub
        revisions = "|".join(["main", hub.revision, *hub.older])
        name = re.sub(f"^/{hub.repository}/resolve/({revisions})/", "", self.path)
        (revision,) = [each for each in hub.older if f"/{each}/" in self.path] or [hub.revision]
        asked = self.headers.get("Range", "")
        hub.requests.append((self.command, name, asked))
        content = hub.older.get(revision, hub.files).get(name)
        first = int(asked.removeprefix("bytes=").partition("-")[0] or 0)
        status = 404 if content is None and hub.status == 200 else hub.status
        self.send_response(206 if status == 200 and first else status)
        if hub.is_hub:
            self.send_header("X-Repo-Commit", revision)
        if status != 200:
            self.send_header("X-Error-Code", {404: "EntryNotFound"}.get(status, "RepoNotFound"))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_header("ETag", f'"{hub.checksum or hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content) - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if with_content:
            rest = content[first:]
            if hub.cuts:
                hub.cuts -= 1
                rest = rest[: len(rest) // 2]
            self.wfile.write(rest)

    def log_message(self, *_):
        pass
