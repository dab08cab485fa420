# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fetching images from servers that behave, break off, stall, lie and redirect."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ApplyError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import disk_images, image_source
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.image_source import ChecksumMismatch

CONTENT = bytes(range(256)) * 20000 + b"\0" * 3_000_000
CHECKSUM = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"

Behaviour = Callable[[http.server.BaseHTTPRequestHandler], None]


class Server:
    """A web server whose answers are functions, one a request; the last one answers all that follow."""

    def __init__(self) -> None:
        self.answers: list[Behaviour] = []
        self.requests: list[dict[str, str]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append({key.lower(): value for key, value in self.headers.items()})
                number = min(len(outer.requests), len(outer.answers)) - 1
                outer.answers[number](self)

            def log_message(self, *_arguments: Any) -> None:
                return None

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/image"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(image_source, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(image_source, "STALL_SECONDS", 1)
    made = Server()
    yield made
    made.server.shutdown()
    made.server.server_close()


def whole(handler: Any, content: bytes = CONTENT, length: int | None = None, etag: str = '"v1"') -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(CONTENT) if length is None else length))
    handler.send_header("ETag", etag)
    handler.end_headers()
    handler.wfile.write(content)


def half(handler: Any) -> None:
    whole(handler, CONTENT[: len(CONTENT) // 2])
    handler.wfile.flush()
    handler.connection.close()


def rest(handler: Any) -> None:
    start = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
    handler.send_header("Content-Length", str(len(CONTENT) - start))
    handler.end_headers()
    handler.wfile.write(CONTENT[start:])


def status(code: int, **headers: str) -> Behaviour:
    def answer(handler: Any) -> None:
        handler.send_response(code)
        for name, value in {"Content-Length": "0", **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()

    return answer


def stall(handler: Any) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(CONTENT)))
    handler.end_headers()
    handler.wfile.write(CONTENT[:1000])
    handler.wfile.flush()
    threading.Event().wait(3)


def fetch(server: Server, tmp_path: Path, checksum: str | None = CHECKSUM) -> bytes:
    seen: list[int] = []
    target = tmp_path / "fetched"
    image_source.fetch(server.url, str(target), checksum, "template['t']", lambda done, _total: seen.append(done))
    assert seen[-1] == len(CONTENT)
    return target.read_bytes()


def test_an_image_is_fetched_with_holes_for_its_zeros(server: Server, tmp_path: Path) -> None:
    server.answers = [whole]
    assert fetch(server, tmp_path) == CONTENT
    assert (tmp_path / "fetched").stat().st_blocks * 512 < len(CONTENT)


def test_a_download_that_broke_off_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    server.answers = [half, rest]
    assert fetch(server, tmp_path) == CONTENT
    assert server.requests[1]["if-range"] == '"v1"'


def test_a_file_that_has_changed_meanwhile_is_fetched_from_its_beginning(server: Server, tmp_path: Path) -> None:
    server.answers = [half, whole]
    assert fetch(server, tmp_path) == CONTENT
    assert "range" in server.requests[1]


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.answers = [status(503), status(429), whole]
    assert fetch(server, tmp_path) == CONTENT


def test_a_server_that_never_gives_is_given_up(server: Server, tmp_path: Path) -> None:
    server.answers = [status(503)]
    with pytest.raises(ApplyError, match="given up after 5 attempts"):
        fetch(server, tmp_path)
    assert len(server.requests) == image_source.ATTEMPTS


def test_a_connection_that_stalls_is_cut(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_source, "STALL_SECONDS", 0.3)
    server.answers = [stall, whole]
    assert fetch(server, tmp_path) == CONTENT
    assert len(server.requests) == 2


@pytest.mark.parametrize("code", [403, 404, 410])
def test_what_is_not_there_is_said_at_once(server: Server, tmp_path: Path, code: int) -> None:
    server.answers = [status(code)]
    with pytest.raises(ApplyError, match=rf"template\['t'\] cannot be fetched from http://127.*: {code} "):
        fetch(server, tmp_path)
    assert len(server.requests) == 1


def test_other_content_is_not_taken(server: Server, tmp_path: Path) -> None:
    server.answers = [lambda handler: whole(handler, b"x" + CONTENT[1:])]
    with pytest.raises(
        ChecksumMismatch, match=r"template\['t'\]\.checksum: .* asked was sha256:.*; nothing was imported"
    ):
        fetch(server, tmp_path)


def test_more_than_fits_is_refused_before_it_is_fetched(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_images, "free_bytes", lambda _path: 1000)
    server.answers = [whole]
    with pytest.raises(ApplyError, match=r"template\['t'\] needs 7 MiB in .*, and there are 0 MiB left"):
        fetch(server, tmp_path)
    assert (tmp_path / "fetched").stat().st_size == 0


def test_a_redirection_is_followed(server: Server, tmp_path: Path) -> None:
    server.answers = [status(302, Location="/elsewhere"), whole]
    assert fetch(server, tmp_path) == CONTENT


@pytest.mark.parametrize("location", ["file:///etc/shadow", "ftp://127.0.0.1/x"])
def test_a_redirection_out_of_http_is_not(server: Server, tmp_path: Path, location: str) -> None:
    server.answers = [status(302, Location=location)]
    with pytest.raises(ApplyError, match="302"):
        fetch(server, tmp_path)


def test_a_server_whose_certificate_nobody_vouches_for_is_not_trusted(tmp_path: Path) -> None:
    import ssl
    import subprocess

    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    made = Server()
    made.answers = [whole]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    made.server.socket = context.wrap_socket(made.server.socket, server_side=True)
    try:
        url = made.url.replace("http:", "https:")
        with pytest.raises(ApplyError, match="the server's certificate is not trusted"):
            image_source.fetch(url, str(tmp_path / "x"), CHECKSUM, "template['t']", lambda *_arguments: None)
        assert made.requests == []
    finally:
        made.server.shutdown()
        made.server.server_close()


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_file_of_the_host_is_copied(tmp_path: Path, form: str) -> None:
    source = tmp_path / "an image é.raw"
    source.write_bytes(CONTENT)
    target = tmp_path / "fetched"
    address = form.format(str(source).replace(" ", "%20") if "file" in form else source)
    image_source.fetch(address, str(target), CHECKSUM, "template['t']", lambda *_arguments: None)
    assert target.read_bytes() == CONTENT


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ApplyError, match="cannot be fetched from /nowhere/image: No such file"):
        image_source.fetch("/nowhere/image", str(tmp_path / "x"), None, "template['t']", lambda *_arguments: None)
