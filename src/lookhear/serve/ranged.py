"""`RangedFile`: a file as an answer, whole or the ranges of it that a player asks for."""

import re

from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from starlette.types import Receive, Scope, Send

from lookhear.serve.catalogue import status_of

# No file is longer than eighteen digits say, and Python refuses to read numbers of thousands.
_RANGE = r"(?:(\d{1,18})-(\d{0,18})|-\d{1,18})"
_RANGES = re.compile(rf"\s*bytes\s*=\s*{_RANGE}(?:\s*,\s*{_RANGE})*\s*", re.IGNORECASE | re.ASCII)


class RangedFile(FileResponse):
    """A `Range` that is none, or of another unit, is ignored, as RFC 9110 (14.2) asks for: the answer is all of it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises UnknownFileError where the file has gone since it was looked up."""
        asked = [value.decode("latin-1") for name, value in scope["headers"] if name == b"range"]
        if len(asked) != 1 or not is_range(asked[0]):
            scope = {**scope, "headers": [each for each in scope["headers"] if each[0] != b"range"]}
        self.stat_result = await run_in_threadpool(status_of, str(self.path))
        self.set_stat_headers(self.stat_result)
        await super().__call__(scope, receive, send)


def is_range(text: str) -> bool:
    """Whether this is a value of the header `Range`, in bytes."""
    if not _RANGES.fullmatch(text):
        return False
    spans = (match.groups() for match in re.finditer(_RANGE, text))
    return all(not last or int(first) <= int(last) for first, last in spans)
