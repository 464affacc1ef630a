"""Where an index lies: a folder, or a place in an S3 bucket (`s3://bucket/archive`), which is used like one.

`place_of` gives a `Path` or a `BucketPath`, which has what an index asks of a path. Tables lie in a bucket as they do
in a folder (LanceDB), and `lease.py` says who may write.

Access is taken from the environment, as other programs do: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, and
AWS_ENDPOINT_URL for a server of one's own. It must honour If-None-Match (AWS, MinIO and moto do): without, two writers
could both believe that their commit is the next one.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

from lookhear.cache import cache_folder
from lookhear.errors import IndexStateError

_SCHEME = "s3://"


class BucketPath:
    """A key, or all keys below it as if it were a folder. The names are those of `pathlib.Path`."""

    def __init__(self, text: str) -> None:
        """`text` is `s3://bucket/key`; a slash at the end does not matter."""
        bucket, _, key = text.removeprefix(_SCHEME).partition("/")
        if not bucket:
            raise IndexStateError(f"{text} names no bucket; write s3://BUCKET/FOLDER")
        self._key = "/".join([bucket, *(part for part in key.split("/") if part)])

    def __str__(self) -> str:
        return _SCHEME + self._key

    def __repr__(self) -> str:
        return f"BucketPath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BucketPath) and other._key == self._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __truediv__(self, name: str) -> "BucketPath":
        return BucketPath(f"{self}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return self._key.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The end of the name, from its last dot on."""
        return Path(self.name).suffix

    @cached_property
    def _system(self) -> Any:
        from pyarrow import fs

        system, _ = fs.FileSystem.from_uri(str(self))
        return system

    def _kind(self) -> Any:
        return self._system.get_file_info(self._key).type.name

    def exists(self) -> bool:
        """Whether there is such a key, or one below."""
        return bool(self._kind() != "NotFound")

    def is_dir(self) -> bool:
        """Whether there are keys below."""
        return bool(self._kind() == "Directory")

    def iterdir(self) -> "Iterator[BucketPath]":
        """What lies directly below."""
        from pyarrow import fs

        for found in self._system.get_file_info(fs.FileSelector(self._key, allow_not_found=True)):
            yield BucketPath(_SCHEME + found.path)

    def glob(self, pattern: str) -> "Iterator[BucketPath]":
        """What lies directly below and is named so."""
        return (path for path in self.iterdir() if fnmatch(path.name, pattern))

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a bucket has no folders."""

    def read_text(self, encoding: str = "utf-8") -> str:
        """The object. Raises FileNotFoundError where there is none."""
        with self._system.open_input_stream(self._key) as stream:
            return str(stream.read().decode(encoding))

    def write_bytes(self, data: bytes) -> None:
        """Makes the object, whole or not at all."""
        with self._system.open_output_stream(self._key) as stream:
            stream.write(data)

    def replace(self, target: "BucketPath") -> None:
        """Puts the object in the place of another one."""
        self._system.copy_file(self._key, target._key)
        self._system.delete_file(self._key)

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Deletes the object."""
        try:
            self._system.delete_file(self._key)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_all(self) -> None:
        """Deletes all that lies below."""
        self._system.delete_dir(self._key)


Place = Path | BucketPath


def place_of(path: "str | Place") -> Place:
    """Where an index lies that is named so."""
    if isinstance(path, BucketPath):
        return path
    text = path.as_posix() if isinstance(path, Path) else path
    if text.startswith("s3:/"):  # a `Path` makes one slash of two
        return BucketPath(_SCHEME + text.removeprefix("s3:").lstrip("/"))
    return Path(path)


def replace(place: Place, target: Place) -> None:
    """Puts a file or object in the place of another one. Raises OSError."""
    if isinstance(place, BucketPath):
        assert isinstance(target, BucketPath)
        place.replace(target)
    else:
        assert isinstance(target, Path)
        place.replace(target)


def remove_all(place: Place) -> None:
    """Deletes a folder and all that is in it. Raises OSError."""
    if isinstance(place, BucketPath):
        place.remove_all()
    else:
        shutil.rmtree(place)


def kept_folders(index: Place, tables: str) -> list[Path]:
    """Where on this machine what searches need of these tables may be kept, the best first.

    Beside the tables, or where that is not possible (a bucket, a folder that cannot be written) in the cache. What is
    in the cache of other tables of this index is deleted: they were replaced.
    """
    place = str(index) if isinstance(index, BucketPath) else str(index.resolve())
    cached = cache_folder() / "indexes" / hashlib.sha256(place.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    with contextlib.suppress(OSError):
        for folder in cached.iterdir():
            if folder.name != tables:
                shutil.rmtree(folder, ignore_errors=True)
    beside = [] if isinstance(index, BucketPath) else [index / tables / "matrix"]
    return [*beside, cached / tables]
