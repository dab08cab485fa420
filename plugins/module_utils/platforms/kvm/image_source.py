# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fetching an image: from a URL or from a file of the host, with its checksum computed on the way."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, BinaryIO, Callable, Optional

from ...errors import ApplyError
from . import disk_images

BLOCK = 1024 * 1024
STALL_SECONDS = 60  # without a byte, after which a connection is given up
ATTEMPTS = 5  # in a row that brought nothing
PAUSE_SECONDS = 2.0
USER_AGENT = "bareforge"

Progress = Callable[[int, Optional[int]], None]


class ChecksumMismatch(ApplyError):
    """What was fetched is not what was asked for."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections to http and https only, and never from https to http."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme != "https"):
            raise urllib.error.HTTPError(
                req.full_url, code, f"redirected to {scheme}, which is not followed", headers, fp
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    # Without the handlers for ftp, file and data that build_opener() adds.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def local_path(url: str) -> Optional[str]:
    """Return the path that a file URL stands for, or None for another URL (RFC 8089)."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.unquote(parts.path) if parts.scheme == "file" else None


def fetch(source: str, target: str, checksum: Optional[str], what: str, progress: Progress) -> None:
    """Bring an image into a file and compare it with its checksum.

    source: an http, https or file URL, or an absolute path on the host.
    target: the path of the new file, which is left where the checksum is not right, for the caller to remove.
    checksum: the algorithm and the digest, such as sha256:…; None where none is asked for.
    what: the object, for messages, such as `template['debian']`.
    progress: called with (bytes there, bytes in all or None).
    Raises ApplyError, ChecksumMismatch.
    """
    algorithm, _colon, expected = (checksum or "sha256:").partition(":")
    digest = hashlib.new(algorithm)
    path = source if source.startswith("/") else local_path(source)
    try:
        with open(target, "wb") as output:
            if path is not None:
                _copy(path, output, digest, what, progress)
            else:
                digest = _Download(source, output, digest, what, progress).run()
            output.truncate()
            output.flush()
            os.fsync(output.fileno())
    except OSError as error:
        raise ApplyError(f"{what} cannot be fetched from {source}: {error.strerror or error}") from error
    if checksum and digest.hexdigest() != expected:
        raise ChecksumMismatch(
            f"{what}.checksum: what {source} gives has the checksum {algorithm}:{digest.hexdigest()}, and asked was "
            f"{algorithm}:{expected}; nothing was imported"
        )


def _copy(path: str, output: BinaryIO, digest: Any, what: str, progress: Progress) -> None:
    with open(path, "rb") as reading:
        size = os.fstat(reading.fileno()).st_size
        disk_images.require_space(os.path.dirname(str(output.name)), os.fstat(reading.fileno()).st_blocks * 512, what)
        done = 0
        while True:
            data = reading.read(BLOCK)
            if not data:
                return
            digest.update(data)
            disk_images.write_sparse(output, data)
            done += len(data)
            progress(done, size)


class _Download:
    """One download, which goes on where it broke off as long as the server still has the same file."""

    def __init__(self, url: str, output: BinaryIO, digest: Any, what: str, progress: Progress) -> None:
        self.url = url
        self.output = output
        self.digest = digest
        self.what = what
        self.progress = progress
        self.done = 0
        self.total: Optional[int] = None
        self.validator: Optional[str] = None

    def run(self) -> Any:
        """Fetch all of it and return the digest of what was written."""
        failures = 0
        while True:
            before = self.done
            try:
                if self._attempt():
                    return self.digest
                reason = f"the connection ended after {self.done} of {self.total} bytes"
            except urllib.error.HTTPError as error:
                if error.code < 500 and error.code not in (408, 429):
                    raise ApplyError(
                        f"{self.what} cannot be fetched from {self.url}: {error.code} {error.reason}"
                    ) from error
                reason = f"{error.code} {error.reason}"
            except ssl.SSLCertVerificationError as error:
                raise self._untrusted(error) from error
            except urllib.error.URLError as error:
                if isinstance(error.reason, ssl.SSLCertVerificationError):
                    raise self._untrusted(error.reason) from error
                reason = str(error.reason)
            # Python 3.9's socket.timeout is no TimeoutError yet.
            except (ConnectionError, TimeoutError, socket.timeout, ssl.SSLError) as error:
                reason = str(error) or type(error).__name__
            failures = 1 if self.done > before else failures + 1
            if failures >= ATTEMPTS:
                raise ApplyError(
                    f"{self.what} cannot be fetched from {self.url}: {reason}; given up after {ATTEMPTS} attempts "
                    f"without a byte, with at most {STALL_SECONDS} s for each"
                )
            time.sleep(PAUSE_SECONDS)

    def _untrusted(self, error: ssl.SSLCertVerificationError) -> ApplyError:
        return ApplyError(
            f"{self.what} cannot be fetched from {self.url}: the server's certificate is not trusted "
            f"({error.verify_message or error})",
            "Add the authority to the host's /usr/local/share/ca-certificates and run update-ca-certificates",
        )

    def _attempt(self) -> bool:
        """Fetch what is still missing; return whether all is there."""
        # The model lets no other scheme through, and the opener knows no other.
        request = urllib.request.Request(  # noqa: S310
            self.url, headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        )
        if self.done:
            request.add_header("Range", f"bytes={self.done}-")
            if self.validator:
                request.add_header("If-Range", self.validator)
        with _opener().open(request, timeout=STALL_SECONDS) as answer:
            if self.done and not self._continues(answer):
                self._start_again()
            if not self.done:
                length = answer.headers.get("Content-Length")
                self.total = int(length) if length and length.isdigit() else None
                self.validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
                if self.validator and self.validator.startswith("W/"):
                    self.validator = answer.headers.get("Last-Modified")
                if self.total is not None:
                    disk_images.require_space(os.path.dirname(str(self.output.name)), self.total, self.what)
            while True:
                data = answer.read(BLOCK)
                if not data:
                    break
                self.digest.update(data)
                disk_images.write_sparse(self.output, data)
                self.done += len(data)
                self.progress(self.done, self.total)
        return self.total is None or self.done >= self.total

    def _continues(self, answer: Any) -> bool:
        # 206 with the range that was asked for (RFC 9110, 15.3.7); a 200 is the whole file, or a new one.
        content = answer.headers.get("Content-Range", "")
        return bool(self.validator) and answer.status == 206 and content.startswith(f"bytes {self.done}-")

    def _start_again(self) -> None:
        self.output.seek(0)
        self.output.truncate()
        self.done = 0
        self.digest = hashlib.new(self.digest.name)
