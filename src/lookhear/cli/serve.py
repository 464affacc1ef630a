"""An index in a browser, and for assistants."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from lookhear.cli.arguments import IndexPlace, bytes_of
from lookhear.cli.signals import stop_on_signals
from lookhear.console import out, say
from lookhear.errors import UserError

TOKEN_VARIABLE = "LOOKHEAR_TOKEN"


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Search an index in the browser, and by a JSON API. Prints the address; Ctrl-C ends it."""

    index: IndexPlace = "lookhear.index"
    """Where the index lies: a folder, or s3://BUCKET/FOLDER."""
    model: str | None = None
    """The checkpoint that made the index, where it does not lie as it did on the machine that made it."""
    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 is every one, and then a token is wanted."""
    port: int = 8710
    """The port to listen on; 0 takes a free one."""
    token_file: Path | None = None
    """A file with the token that visitors must have; also the environment variable LOOKHEAR_TOKEN. For a host that
    others can reach one is made and shown, if there is neither."""
    allow_host: tuple[str, ...] = ()
    """Further names under which the server is reached, such as that of a proxy before it."""
    workers: int = 2
    """Decoding processes for previews and pictures."""
    max_upload: float = 256.0
    """MiB of an example that is uploaded."""
    time_limit: float = 60.0
    """Seconds that decoding an upload, a preview or a picture may take."""

    def run(self) -> int:
        """Serves until a signal comes."""
        try:
            from lookhear.serve.security import access_of, is_local
            from lookhear.serve.server import make_token, read_token, serving
            from lookhear.serve.settings import ServeSettings
        except ImportError as error:
            if error.name not in ("fastapi", "starlette", "uvicorn", "pydantic"):
                raise
            raise UserError(
                f"the web page needs {error.name}, which is not installed; run `pip install 'lookhear[web]'`"
            ) from error
        if self.workers < 1:
            raise UserError(f"--workers is {self.workers}; decoding needs at least one process")
        token, is_made = None, False
        if self.token_file is not None:
            token = read_token(self.token_file)
        elif os.environ.get(TOKEN_VARIABLE):
            token = os.environ.pop(TOKEN_VARIABLE)  # decoding processes have no use for it
        elif not is_local(self.host):
            token, is_made = make_token(), True
            if not sys.stdout.isatty():
                raise UserError(
                    f"a server on {self.host} needs a token, and one that is made now would be written to wherever "
                    f"this is printed; name a file that holds one with --token-file, or set {TOKEN_VARIABLE}"
                )
        access = access_of(self.host, token=token, names=self.allow_host)
        settings = ServeSettings(
            workers=self.workers,
            max_upload_bytes=bytes_of(self.max_upload, 2**20, "--max-upload"),
            decode_seconds=self.time_limit,
        )
        with (
            stop_on_signals() as stop,
            serving(self.index, access, host=self.host, port=self.port, settings=settings, model=self.model) as port,
        ):
            name = f"[{self.host}]" if ":" in self.host else self.host
            # Behind the #, where browsers keep it to themselves.
            out(f"http://{name}:{port}/" + (f"#token={token}" if is_made else ""))
            sys.stdout.flush()
            say(f"lookhear: {self.index} is served; Ctrl-C ends it")
            while not stop.event.wait(1.0):  # short waits, because Windows delivers Ctrl-C only between them
                pass
        say("lookhear: the server has stopped")
        return stop.exit_code


@dataclass(frozen=True, kw_only=True)
class Mcp:
    """Let an assistant search an index, by the Model Context Protocol on stdin and stdout."""

    index: IndexPlace = "lookhear.index"
    """Where the index lies: a folder, or s3://BUCKET/FOLDER."""
    model: str | None = None
    """The checkpoint that made the index, where it does not lie as it did on the machine that made it."""
    examples: tuple[Path, ...] = ()
    """Folders whose files the assistant may search by, besides the library's own."""
    calibration: Path | None = None
    """A file from `evaluate localization --library`: says "no visible source" where sound and picture do not fit."""
    workers: int = 2
    """Decoding processes."""
    time_limit: float = 60.0
    """Seconds that decoding an example or a moment may take."""

    def run(self) -> None:
        """Serves until stdin ends."""
        try:
            from lookhear import mcp_server
            from lookhear.serve.settings import ServeSettings
        except ImportError as error:
            if (error.name or "").partition(".")[0] not in ("mcp", "mcp_types", "pydantic"):
                raise
            raise UserError(
                f"assistants need {error.name}, which is not installed; run `pip install 'lookhear[mcp]'`"
            ) from error
        if self.workers < 1:
            raise UserError(f"--workers is {self.workers}; decoding needs at least one process")
        mcp_server.run(
            self.index,
            model=self.model,
            folders=self.examples,
            calibration=self.calibration,
            settings=ServeSettings(workers=self.workers, decode_seconds=self.time_limit),
        )
