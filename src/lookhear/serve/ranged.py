"""`RangedFile`: a file as an answer, whole or the ranges of it that a player asks for."""

import re

from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from lookhear.serve.catalogue import status_of

# No file is longer than eighteen digits say, and Python refuses to read numbers of thousands.
_RANGE = r"(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))"
_RANGES = re.compile(rf"\s*bytes\s*=\s*{_RANGE}(?:\s*,\s*{_RANGE})*\s*", re.IGNORECASE | re.ASCII)


class RangedFile(FileResponse):
    """A file by RFC 9110 (13.1.2, 14.2), and what Starlette does otherwise.

    - A `Range` that is none, of another unit, of a HEAD or of another version of the file is ignored: all is sent.
    - Of several ranges, those that the file does not reach are left out; where it reaches none, 416 says so in JSON.
    - `If-None-Match` of what is there answers 304.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises UnknownFileError where the file has gone since it was looked up."""
        self.stat_result = await run_in_threadpool(status_of, str(self.path))
        self.set_stat_headers(self.stat_result)
        answer, scope = self._answer(scope)
        if answer is None:
            await super().__call__(scope, receive, send)
        else:
            await answer(scope, receive, send)

    def _answer(self, scope: Scope) -> tuple[Response | None, Scope]:
        """An answer without bytes of the file, if that is right; and the request with the ranges that can be sent."""
        assert self.stat_result is not None
        size, headers = self.stat_result.st_size, Headers(scope=scope)
        tag, asked, condition = self.headers["etag"], headers.getlist("range"), headers.get("if-range")
        known = [each.strip().removeprefix("W/") for each in headers.get("if-none-match", "").split(",")]
        if tag in known or known == ["*"]:
            kept = {name: self.headers[name] for name in ("etag", "cache-control") if name in self.headers}
            return Response(status_code=304, headers=kept), scope
        others = [each for each in scope["headers"] if each[0] not in (b"range", b"if-range")]
        whole = {**scope, "headers": others}
        is_other = condition is not None and condition not in (tag, self.headers["last-modified"])
        if scope["method"] == "HEAD" or len(asked) != 1 or not is_range(asked[0]) or is_other:
            return None, whole
        reached = [match[0] for match in re.finditer(_RANGE, asked[0]) if _reaches(match, size)]
        if not reached:
            error = {"error": f"the file has {size} bytes, and none of them is in the range that was asked for"}
            return JSONResponse(error, status_code=416, headers={"content-range": f"bytes */{size}"}), scope
        return None, {**scope, "headers": [*others, (b"range", f"bytes={','.join(reached)}".encode())]}


def is_range(text: str) -> bool:
    """Whether this is a value of the header `Range`, in bytes."""
    if not _RANGES.fullmatch(text):
        return False
    spans = (match.groups() for match in re.finditer(_RANGE, text))
    return all(not last or int(first) <= int(last) for first, last, _ in spans)


def _reaches(match: re.Match[str], size: int) -> bool:
    """Whether a file of this size has a byte of the range."""
    first, _, tail = match.groups()
    return int(first) < size if tail is None else int(tail) > 0 and size > 0
