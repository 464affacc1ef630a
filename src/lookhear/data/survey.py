"""What there is to prepare: a folder, one file, or a list -> every file as it is now."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from lookhear.config import to_dict
from lookhear.data.lists import FOLDER_FORMATS, ListOptions, read_list
from lookhear.data.manifest import FileLabels
from lookhear.data.pictures import PictureFiles, count_frame_folders
from lookhear.errors import UserError
from lookhear.media.probe import MEDIA_SUFFIXES, find_media

_MISSING = "the file does not exist"


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One media file, or one clip whose sound and pictures are files of their own, as it was when it was looked at."""

    path: Path
    name: str
    # of all its files together
    size_bytes: int = 0
    # of the file that changed last
    changed_nanoseconds: int = 0
    labels: FileLabels = field(default_factory=FileLabels)
    # why `path` must not be opened
    problem: str = ""
    pictures: PictureFiles | None = None

    def journal_entry(self) -> dict[str, Any]:
        """What a store remembers of it, to know it again. Weights of 1 are left out, as before lists had weights."""
        entry = {"path": self.name, "size": self.size_bytes, "changed": self.changed_nanoseconds}
        about = to_dict(self.labels)
        if self.labels.weight == 1.0:
            del about["weight"]
        if self.pictures is not None:
            entry["pictures"] = {"numbers": list(self.pictures.numbers), "of": self.pictures.count}
        return entry | about


def survey(
    source: Path, labels: Mapping[str, FileLabels] | None = None, options: ListOptions | None = None
) -> list[SourceFile]:
    """Every file to prepare, in order of name; those of a list that do not exist have a `problem`.

    `labels` adds to what a list says. Raises UserError if there is no file, none of a list exists, or `labels` fit
    none.
    """
    options = options or ListOptions()
    if not source.exists():
        raise UserError(f"{source} does not exist; name a folder of media or a list of files")
    is_list = options.format in FOLDER_FORMATS if source.is_dir() else source.suffix.lower() not in MEDIA_SUFFIXES
    named = {"root": options.root, "format": options.format, "classes": options.classes if labels is None else None}
    unused = [f"--{name}" for name, value in named.items() if value is not None]
    if unused and not is_list:
        raise UserError(f"{source} is no list of files, so {', '.join(unused)} would do nothing; leave it out")
    if is_list:
        files = _survey_list(source, options)
    elif source.is_dir():
        files = {item.relative: _look_at(item.path, item.relative, item.problem) for item in find_media(source)}
        if not files:
            raise UserError(f"no media files in {source}; looked for {', '.join(sorted(MEDIA_SUFFIXES))}")
    else:
        files = {source.name: _look_at(source, source.name)}
    if labels is not None:
        if not labels.keys() & files.keys():
            raise UserError(
                f"none of the {len(labels)} labelled paths is in {source}: labels say '{next(iter(labels), '')}', "
                f"the source has '{next(iter(files))}'; write paths relative to the source"
            )
        files |= {name: _labelled(file, labels[name]) for name, file in files.items() if name in labels}
    return [files[name] for name in sorted(files)]


def _survey_list(source: Path, options: ListOptions) -> dict[str, SourceFile]:
    listed = read_list(source, options)
    if not listed:
        raise UserError(f"the list {source} names no files")
    if options.moved_from and not any(options.is_moved(entry.path) for entry in listed.values()):
        first = next(iter(listed.values()))
        raise UserError(f"no file that {source} names is below {options.moved_from}; the first is {first.path}")
    count_folders: Callable[[Path], int] = cache(count_frame_folders)
    files_by_stem: Callable[[Path], dict[str, list[str]]] = cache(_files_by_stem)
    found: dict[str, SourceFile] = {}
    beside = source if source.is_dir() else source.parent
    for name, entry in listed.items():
        path = options.place(entry.path, beside)
        if entry.picture_folder is not None:
            folder = options.place(entry.picture_folder, beside)
            file = _look_at_parts(path, name, folder, count_folders(folder))
        elif entry.any_suffix:
            file = _look_for_stem(path, name, files_by_stem(path.parent).get(path.name, []))
        else:
            file = _look_at(path, name)
        found[file.name] = replace(file, labels=entry.labels)
    if all(file.size_bytes == 0 and file.problem == _MISSING for file in found.values()):
        first = next(iter(listed.values()))
        raise UserError(
            f"none of the {len(listed)} files that {source} names is there; the first would be "
            f"{options.place(first.path, beside)}; say with --root where they are: FOLDER for names that are "
            "relative, OLD=FOLDER for a folder OLD of another machine"
        )
    return found


def _labelled(file: SourceFile, labels: FileLabels) -> SourceFile:
    """`file` with what `labels` say in place of what was known; what they do not say stays."""
    known = file.labels
    changed = replace(known, labels=labels.labels or known.labels, split=labels.split or known.split)
    return replace(file, labels=changed if labels.weight == 1.0 else replace(changed, weight=labels.weight))


def _look_at(path: Path, name: str, problem: str = "") -> SourceFile:
    """`problem` is why the file must not be opened, where the walk knows."""
    if problem:
        return SourceFile(path=path, name=name, problem=problem)
    try:
        status = path.stat()
    except OSError as error:
        problem = _MISSING if isinstance(error, FileNotFoundError) else str(error.strerror)
        return SourceFile(path=path, name=name, problem=problem)
    if path.is_dir():
        return SourceFile(path=path, name=name, problem="it is a folder, not a file")
    return SourceFile(path=path, name=name, size_bytes=status.st_size, changed_nanoseconds=status.st_mtime_ns)


def _look_for_stem(path: Path, name: str, names: list[str]) -> SourceFile:
    """The one media file of `names` in the folder of `path`; in the store its name has its suffix."""
    if len(names) == 1:
        return _look_at(path.with_name(names[0]), name + Path(names[0]).suffix)
    problem = f"several files have this name: {', '.join(names)}" if names else _MISSING
    return SourceFile(path=path, name=name, problem=problem)


def _files_by_stem(folder: Path) -> dict[str, list[str]]:
    """The media files of `folder` by their names without suffix."""
    by_stem: dict[str, list[str]] = {}
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError:
        return {}
    for name in names:
        if Path(name).suffix.lower() in MEDIA_SUFFIXES:
            by_stem.setdefault(Path(name).stem, []).append(name)
    return by_stem


def _look_at_parts(sound_path: Path, name: str, folder: Path, count: int) -> SourceFile:
    """A clip: its sound (`problem` is why it has none) and those of its pictures that are there."""
    sound = _look_at(sound_path, name)
    numbers, size, changed = [], sound.size_bytes, sound.changed_nanoseconds
    files = PictureFiles(folder=str(folder), name=name, numbers=(), count=count)
    for number in range(count):
        try:
            status = files.path(number).stat()
        except OSError:
            continue
        numbers.append(number)
        size, changed = size + status.st_size, max(changed, status.st_mtime_ns)
    pictures = replace(files, numbers=tuple(numbers))
    return replace(sound, size_bytes=size, changed_nanoseconds=changed, pictures=pictures)
