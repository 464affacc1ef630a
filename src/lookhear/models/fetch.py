"""Downloads weights: resumed where they broke off, verified before they are used.

While a file comes in it is NAME.part; NAME.part.json says of which version it is a part, so that parts of two
versions are never joined. NAME.sha256 is written beside the whole file, in the format of sha256sum, with the address
it came from in a comment: files of other addresses have the same name, and one is not to pass for the other.
"""

import errno
import hashlib
import http.client
import json
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from lookhear import __version__
from lookhear.cache import cache_folder
from lookhear.errors import CheckpointError
from lookhear.models.weights import WEIGHTS, Weights, file_of, known_weights
from lookhear.progress import Progress, quiet

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30.0
ATTEMPTS = 5  # in a row that bring nothing new, before a download is given up
BUSY = (408, 429)  # refusals that pass: the server waited too long, or was asked too often
PAUSE_SECONDS = 1.0  # before the second attempt; twice as long before each further one


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A file that is whole."""

    path: Path
    size_bytes: int
    sha256: str
    verified: bool
    """whether `sha256` is one that was stated: by the caller, or in the table of weights"""
    downloaded: bool
    """False if it was here already"""


@dataclass(frozen=True)
class _Wanted:
    """What is asked of a server, and what must come."""

    url: str
    path: Path
    size_bytes: int | None
    sha256: str | None

    @property
    def part(self) -> Path:
        return self.path.with_name(self.path.name + ".part")

    @property
    def about_part(self) -> Path:
        return self.path.with_name(self.path.name + ".part.json")

    @property
    def record(self) -> Path:
        return self.path.with_name(self.path.name + ".sha256")


def fetch(
    name_or_url: str,
    folder: Path | None = None,
    *,
    sha256: str | None = None,
    accept_unverified: bool = False,
    progress: Progress = quiet,
) -> Fetched:
    """Downloads the weights of a name in WEIGHTS, or of an http(s) URL, into `folder` (None: `cache_folder()`).

    What is there already is verified and not downloaded again; what broke off goes on where it was. `sha256` is for
    URLs. Without a known sha256 the download is refused unless `accept_unverified`; then the hash is kept beside the
    file, and is what later downloads to the same place must have. Progress is counted in bytes.

    Raises CheckpointError, in one sentence, where there is no network, no such file, a web page instead of it, no
    room on the disk, or where size or sha256 are not those that were expected.
    """
    wanted = _wanted(name_or_url, folder, sha256)
    try:
        expected = wanted.sha256 or _recorded(wanted)
        if wanted.path.exists():
            return _check_present(wanted, expected)
    except OSError as error:
        raise CheckpointError(
            f"cannot read {error.filename or wanted.path} ({error.strerror or error}); make it readable, remove it, "
            "or name another folder"
        ) from None
    if expected is None and not accept_unverified:
        raise CheckpointError(
            f"the sha256 of '{name_or_url}' is not known, so a download could not be verified; pass "
            "--accept-unverified (accept_unverified=True) to download it all the same, and its hash is kept"
        )
    try:
        wanted.path.parent.mkdir(parents=True, exist_ok=True)
        size = _download(wanted, progress)
        if wanted.size_bytes not in (None, size):
            _forget(wanted)
            raise CheckpointError(f"{wanted.url} sent {size:,} bytes where {wanted.size_bytes:,} are expected")
        digest = _sha256(wanted.part)
        if expected is not None and digest != expected:
            _forget(wanted)
            raise CheckpointError(
                f"what {wanted.url} sent has sha256 {digest}, not {expected}: it was removed; the file there was "
                "changed or damaged on its way"
            )
        wanted.record.write_text(f"# {wanted.url}\n{digest}  {wanted.path.name}\n", encoding="utf-8")
        wanted.part.replace(wanted.path)
        wanted.about_part.unlink(missing_ok=True)
    except OSError as error:
        raise _disk_error(error, wanted) from None
    return _fetched(wanted, size, digest, downloaded=True)


def _wanted(name_or_url: str, folder: Path | None, sha256: str | None) -> _Wanted:
    parts = urllib.parse.urlsplit(name_or_url)
    if parts.scheme in ("http", "https"):
        file = Path(urllib.parse.unquote(parts.path)).name
        if file in ("", "..") or not file.isprintable():
            raise CheckpointError(f"{name_or_url} does not end in the name of a file")
        if not name_or_url.isascii() or " " in name_or_url:
            raise CheckpointError(
                f"{name_or_url} is no address as servers read it; write spaces and letters beyond ASCII as %XX, as a "
                "browser copies them"
            )
        path = (cache_folder() if folder is None else folder) / file
        return _Wanted(name_or_url, path, None, sha256.lower() if sha256 else None)
    if name_or_url not in WEIGHTS and parts.scheme:
        raise CheckpointError(f"{name_or_url} cannot be downloaded: only names of weights, http:// and https://")
    weights: Weights = known_weights(name_or_url)
    if weights.url is None:
        raise CheckpointError(
            f"where to download '{weights.name}' from is not known here; get {weights.file} from {weights.source} "
            "and give its path to lookhear"
        )
    return _Wanted(weights.url, file_of(weights, folder), weights.size_bytes, weights.sha256)


def _check_present(wanted: _Wanted, expected: str | None) -> Fetched:
    digest = _sha256(wanted.path)
    if expected is not None and digest != expected:
        raise CheckpointError(
            f"{wanted.path} has sha256 {digest}, not {expected}: it was changed or damaged; remove it to fetch it again"
        )
    return _fetched(wanted, wanted.path.stat().st_size, digest, downloaded=False)


def _fetched(wanted: _Wanted, size: int, digest: str, *, downloaded: bool) -> Fetched:
    stated = wanted.sha256 is not None  # a hash of our own record only says that the file is still the same
    return Fetched(path=wanted.path, size_bytes=size, sha256=digest, verified=stated, downloaded=downloaded)


def _download(wanted: _Wanted, progress: Progress) -> int:
    """Brings `wanted.part` to its full length, over as many connections as that takes; returns the length."""
    failures, moved = 0, False
    while True:
        before, reached, advice = _size(wanted.part), True, "try again later"
        try:
            total = _receive(wanted, progress)
            done = _size(wanted.part)
            if total is None or done == total:
                return done
            problem = f"the connection broke after {done:,} of {total:,} bytes"
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in BUSY:
                raise CheckpointError(_refusal(wanted.url, error.code)) from None
            problem = f"the server answered {error.code} ({error.reason})"
        except urllib.error.URLError as error:
            problem = getattr(error.reason, "strerror", None) or str(error.reason)  # without the number of the error
            reached, advice = False, "is there a network here?"
        except http.client.InvalidURL as error:
            raise CheckpointError(f"{wanted.url} is no address as servers read it ({error})") from None
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            problem = str(error) or type(error).__name__
        kept = _size(wanted.part)
        moved = moved or kept > before
        failures = 0 if kept > before else failures + 1
        if failures == ATTEMPTS or not (reached or moved):
            if kept:
                advice = f"{kept:,} bytes are kept: run the same command again to go on"
            raise CheckpointError(f"cannot download {wanted.url}: {problem}; {advice}")
        time.sleep(PAUSE_SECONDS * 2**failures / 2)


def _receive(wanted: _Wanted, progress: Progress) -> int | None:
    """One connection: appends to `wanted.part` what comes. Returns how long the file must become, if that is known."""
    have, about = _size(wanted.part), _read_json(wanted.about_part)
    if about.get("url") == wanted.url and about.get("total") == have > 0:
        return have  # it was whole, and only not yet checked
    version = about.get("version")
    headers = {"User-Agent": f"lookhear/{__version__}", "Accept-Encoding": "identity"}
    if have and version and about.get("url") == wanted.url:
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    else:
        have = 0
    request = urllib.request.Request(wanted.url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            _forget(wanted)
            raise ConnectionError("the part that was kept does not fit the file") from None
        raise
    with response:
        if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
            raise CheckpointError(
                f"{wanted.url} sent a web page instead of the file (a login, a quota, or a link that moved?); "
                "open it in a browser, and give the path of what that saves"
            )
        goes_on = response.status == http.client.PARTIAL_CONTENT
        have = have if goes_on else 0
        total = _total(response.headers, have=have, goes_on=goes_on)
        _check_total(wanted, total, have)
        chunks = _chunks(response)
        first = next(chunks, b"")
        if not have and first.lstrip()[:5].lower() in (b"<!doc", b"<html"):
            raise CheckpointError(f"{wanted.url} sent a web page instead of the file; open it in a browser to see why")
        values = {"url": wanted.url, "version": _version(response.headers), "total": total}
        wanted.about_part.write_text(json.dumps(values), encoding="utf-8")
        with wanted.part.open("ab" if goes_on else "wb") as file:
            for chunk in chain((first,), chunks):
                file.write(chunk)
                have += len(chunk)
                progress(have, total, wanted.path.name)
    return total


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := response.read(CHUNK_BYTES):
            yield chunk
    except OSError as error:  # of the network, not of the disk
        raise ConnectionError(f"the connection broke ({error})") from None


def _total(headers: Mapping[str, str], *, have: int, goes_on: bool) -> int | None:
    """Bytes of the whole file, as the server says."""
    if goes_on:
        span, _, whole = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        if span.partition("-")[0] != str(have):
            raise ConnectionError(f"the server sent bytes {span or 'of no range'} where those from {have} were asked")
        return int(whole) if whole.isdecimal() else None
    length = headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _check_total(wanted: _Wanted, total: int | None, have: int) -> None:
    if total is None:
        return
    if wanted.size_bytes is not None and total != wanted.size_bytes:
        raise CheckpointError(
            f"{wanted.url} holds {total:,} bytes where {wanted.size_bytes:,} are expected: it is another file, or a "
            "part of it; nothing was downloaded"
        )
    free = shutil.disk_usage(wanted.path.parent).free
    if total - have > free:
        raise CheckpointError(
            f"no room for {wanted.path.name}: {total - have:,} more bytes are needed in {wanted.path.parent} and "
            f"{free:,} are free; name another folder"
        )


def _version(headers: Mapping[str, str]) -> str | None:
    """What tells this version of the file from another, in a form that If-Range may carry (no weak tag)."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified")


def _refusal(url: str, code: int) -> str:
    reasons = {401: "it wants a login", 403: "it is not allowed", 404: "there is no such file", 410: "it was removed"}
    return f"cannot download {url}: {reasons.get(code, 'the server refused')} (HTTP {code})"


def _disk_error(error: OSError, wanted: _Wanted) -> CheckpointError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CheckpointError(
            f"no room left in {wanted.path.parent} after {_size(wanted.part):,} bytes, which are kept; make room and "
            "run the same command again"
        )
    return CheckpointError(f"cannot write to {wanted.path.parent} ({error.strerror or error}); name another folder")


def _forget(wanted: _Wanted) -> None:
    wanted.part.unlink(missing_ok=True)
    wanted.about_part.unlink(missing_ok=True)


def _recorded(wanted: _Wanted) -> str | None:
    """The sha256 that was kept when the file came first. Raises CheckpointError where it came from another address."""
    if not wanted.record.is_file():
        return None
    lines = wanted.record.read_text(encoding="utf-8").splitlines()
    source = next((line.removeprefix("# ") for line in lines if line.startswith("# ")), wanted.url)
    if source != wanted.url and wanted.sha256 is None:
        raise CheckpointError(
            f"{wanted.path} is of another address, {source}; name another folder for {wanted.url}, or remove the file "
            f"and {wanted.record.name}"
        )
    words = next((line.split() for line in lines if line and not line.startswith("#")), [])
    return words[0] if words else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
