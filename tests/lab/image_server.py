# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""HTTP server for the guest images: 127.0.0.1 only, which servers behind user-mode networking see as 10.0.2.2."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _Handler(BaseHTTPRequestHandler):
    """Serves exactly the files named in the catalogue (JSON: name to path), read anew for every request."""

    catalogue: Path
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        name = self.path.split("?", 1)[0].lstrip("/")
        with contextlib.ExitStack() as stack:
            try:
                handle = stack.enter_context(Path(json.loads(self.catalogue.read_text())[name]).open("rb"))
            except (OSError, ValueError, KeyError):
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(os.fstat(handle.fileno()).st_size))
            self.end_headers()
            if with_body:
                shutil.copyfileobj(handle, self.wfile, 1 << 20)


def serve(catalogue: Path, port: int) -> None:
    """Serve the files of ``catalogue`` on 127.0.0.1:``port`` until the process is ended."""
    _Handler.catalogue = catalogue
    ThreadingHTTPServer(("127.0.0.1", port), _Handler).serve_forever()


if __name__ == "__main__":
    # argv[3] is the pid file: it is there so that the process can be known again by its command line.
    serve(Path(sys.argv[1]), int(sys.argv[2]))
