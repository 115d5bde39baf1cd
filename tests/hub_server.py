"""A local server that speaks the Hugging Face Hub's protocol, as far as a download goes."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REVISION = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves files of one repository at `address`; attributes say what goes wrong.

    Attributes:
      files: contents by name.
      cuts: how many responses still break off in the middle of what they send.
      status: of every response.
      checksum: what it says that files have, None for the true one.
      is_hub: whether responses name a revision, as no other server's do.
      requests: method, file and range of all so far.
    """

    def __init__(self, repository, port=0):
        self.repository, self.files, self.requests = repository, {}, []
        self.cuts, self.status, self.checksum, self.is_hub = 0, 200, None, True
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self._respond(with_content=False)

    def do_GET(self):
        self._respond(with_content=True)

    def _respond(self, with_content):
        hub = self.hub
        name = self.path.removeprefix(f"/{hub.repository}/resolve/main/")
        asked = self.headers.get("Range", "")
        hub.requests.append((self.command, name, asked))
        content = hub.files.get(name)
        first = int(asked.removeprefix("bytes=").partition("-")[0] or 0)
        status = 404 if content is None and hub.status == 200 else hub.status
        self.send_response(206 if status == 200 and first else status)
        if hub.is_hub:
            self.send_header("X-Repo-Commit", REVISION)
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
