"""Where an index lies: a folder, or a place in an S3 bucket (`s3://bucket/archive`), which is used like one.

`place_of` gives a `Path` or a `BucketPath`, which has of a path what an index asks of one: a dozen operations on two
JSON objects and on whole folders of tables. The tables themselves lie in a bucket as they do in a folder (LanceDB), and
`lease.py` says who may write. The S3 client is that of pyarrow, which LanceDB needs anyway; universal_pathlib would
bring s3fs, aiobotocore and aiohttp, hold botocore at one version, and still need sentences for what goes wrong.

Access is taken from the environment, as other programs do: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, and
AWS_ENDPOINT_URL for a server of one's own. It must honour If-None-Match (AWS, MinIO and moto do): without, two writers
could both believe that their commit is the next one.
"""

import contextlib
import functools
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lookhear.cache import cache_folder
from lookhear.errors import IndexStateError

_SCHEME = "s3://"
ENDPOINT_VARIABLE = "AWS_ENDPOINT_URL"
# What every server takes in a key, and no program on the way reads as something else.
_KEY = re.compile(r"[\w.=-]+(/[\w.=-]+)*", re.ASCII)
# What clients say (pyarrow in capitals, LanceDB as the server does), and what it means.
_NO_BUCKET = re.compile("NO_SUCH_BUCKET|NoSuchBucket")
_NO_ACCESS = re.compile(
    "ACCESS_DENIED|INVALID_ACCESS_KEY|INVALID_CLIENT_TOKEN|SIGNATURE_DOES_NOT_MATCH|TOKEN_EXPIRED|ExpiredToken"
    "|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|MISSING_AUTHENTICATION|CredentialsNotLoaded"
    "|Failed to get AWS credentials|status: 40[13]"
)
_NO_WAY = re.compile("NETWORK_CONNECTION|REQUEST_TIMEOUT|kind: (?:Connect|Timeout|Request)|dns error|error sending")


@dataclass(frozen=True)
class BucketPath:
    """An object, or all objects below it as if it were a folder. The names are those of `pathlib.Path`.

    Every method raises IndexStateError where there is no such bucket, no access, or no way to the server.
    """

    key: str  # BUCKET/FOLDER/NAME

    def __str__(self) -> str:
        return _SCHEME + self.key

    def __truediv__(self, name: str) -> "BucketPath":
        return BucketPath(f"{self.key}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return self.key.rpartition("/")[2]

    def exists(self) -> bool:
        """Whether there is such an object, or one below."""
        with self._asked() as system:
            if system.get_file_info(self.key).type.name != "NotFound":
                return True
            if system.get_file_info(_bucket_of(self.key)).type.name == "NotFound":
                raise IndexStateError(_sentence(self, "NoSuchBucket"))
            return False

    def is_dir(self) -> bool:
        """Whether there are objects below."""
        with self._asked() as system:
            return bool(system.get_file_info(self.key).type.name == "Directory")

    def iterdir(self) -> "Iterator[BucketPath]":
        """What lies directly below."""
        from pyarrow import fs

        with self._asked() as system:
            found = system.get_file_info(fs.FileSelector(self.key, allow_not_found=True))
        return (BucketPath(info.path) for info in found)

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a bucket has no folders."""

    def read_text(self, encoding: str = "utf-8") -> str:
        """The object. Raises FileNotFoundError where there is none."""
        with self._asked() as system, system.open_input_stream(self.key) as stream:
            return str(stream.read().decode(encoding))

    def write_bytes(self, data: bytes) -> None:
        """Makes the object, whole or not at all."""
        with self._asked() as system, system.open_output_stream(self.key) as stream:
            stream.write(data)

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Deletes the object. Raises FileNotFoundError where there is none."""
        with contextlib.suppress(*([FileNotFoundError] if missing_ok else [])), self._asked() as system:
            system.delete_file(self.key)

    @contextlib.contextmanager
    def _asked(self) -> Iterator[Any]:
        """The client; what the server or the way to it says against what is asked becomes one sentence."""
        try:
            yield _client(_bucket_of(self.key), os.environ.get(ENDPOINT_VARIABLE))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise IndexStateError(_sentence(self, str(error))) from error


Place = Path | BucketPath


@functools.cache
def _client(bucket: str, endpoint: str | None) -> Any:
    """pyarrow reads the endpoint, as all else, from the environment, and finds out where AWS keeps the bucket."""
    from pyarrow import fs

    return fs.FileSystem.from_uri(_SCHEME + bucket)[0]


def _bucket_of(key: str) -> str:
    return key.partition("/")[0]


def refusal(said: str) -> str:
    """Why a bucket cannot be used, by what LanceDB's or pyarrow's client said; empty where that says nothing of it."""
    if _NO_BUCKET.search(said):
        return "there is no such bucket; make it, or name another one"
    if _NO_ACCESS.search(said):
        return (
            "the server refuses access; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of somebody who may list, "
            "read, write and delete there (to search: list and read)"
        )
    if _NO_WAY.search(said):
        endpoint = os.environ.get(ENDPOINT_VARIABLE)
        server = f"the server {endpoint}" if endpoint else "the server"
        return f"{server} cannot be reached; check the network and {ENDPOINT_VARIABLE}"
    return ""


def _sentence(path: BucketPath, said: str) -> str:
    return f"cannot use {path}: {refusal(said) or ' '.join(said.split()) + '; mend that and run the command again'}"


def place_of(path: "str | Place") -> Place:
    """Where an index lies that is named so. Raises IndexStateError for a name that no bucket and key can have."""
    if isinstance(path, BucketPath):
        return path
    text = path.as_posix() if isinstance(path, Path) else path
    if not text.startswith("s3:/"):  # a `Path` makes one slash of two
        return Path(path)
    key = "/".join(part for part in text.removeprefix("s3:").split("/") if part)
    if not _KEY.fullmatch(key) or {".", ".."} & set(key.split("/")):
        raise IndexStateError(f"{text} names no place in a bucket; write s3://BUCKET/FOLDER, in letters, digits, -_.=")
    return BucketPath(key)


def write_whole(place: Place, data: bytes) -> None:
    """Makes or replaces a file or object in one step. Raises OSError, IndexStateError."""
    if isinstance(place, BucketPath):
        place.write_bytes(data)
        return
    new = place.with_name(f"{place.name}.{os.getpid()}.tmp")
    try:
        new.write_bytes(data)
        new.replace(place)
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)


def replace(place: Place, target: Place) -> None:
    """Puts a file or object in the place of another one. In a bucket these are two steps, and killed between them both
    are there. Raises OSError, IndexStateError."""
    if isinstance(place, BucketPath):
        assert isinstance(target, BucketPath)
        with place._asked() as system:
            system.copy_file(place.key, target.key)
        place.unlink()
    else:
        assert isinstance(target, Path)
        place.replace(target)


def remove_all(place: Place) -> None:
    """Deletes a folder and all that is in it. Raises OSError, IndexStateError."""
    if isinstance(place, BucketPath):
        with place._asked() as system:
            system.delete_dir(place.key)
    else:
        shutil.rmtree(place)


def kept_folders(index: Place, tables: str) -> list[Path]:
    """Where on this machine what searches need of these tables may be kept, the best first.

    Beside the tables, or where that is not possible (a bucket, a folder that cannot be written) in the cache. What is
    in the cache of other tables of this index is deleted: they were replaced.
    """
    cached = _cached(index)
    with contextlib.suppress(OSError):
        for folder in cached.iterdir():
            if folder.name != tables:
                shutil.rmtree(folder, ignore_errors=True)
    beside = [] if isinstance(index, BucketPath) else [index / tables / "matrix"]
    return [*beside, cached / tables]


def drop_kept(index: Place, tables: str) -> None:
    """Deletes what the cache has of these tables of an index."""
    shutil.rmtree(_cached(index) / tables, ignore_errors=True)


def _cached(index: Place) -> Path:
    place = str(index) if isinstance(index, BucketPath) else str(index.resolve())
    return cache_folder() / "indexes" / hashlib.sha256(place.encode("utf-8", "surrogatepass")).hexdigest()[:16]
