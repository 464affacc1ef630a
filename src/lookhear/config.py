"""Frozen dataclasses to and from plain JSON values, and `a.b=value` overrides.

A configuration is a tree of frozen dataclasses whose leaves are None, bool, int, float, str, or tuples of these. A
name that does not exist is an error that names the nearest one that does; nothing is dropped or filled in silently.
"""

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from lookhear.errors import ConfigError

T = TypeVar("T")


def to_dict(config: Any) -> Any:
    """`config` as JSON values: dataclasses become dicts, tuples become lists."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, (tuple, list)):
        return [to_dict(item) for item in config]
    if isinstance(config, Mapping):
        return {str(key): to_dict(value) for key, value in config.items()}
    return config


def finite(value: Any) -> Any:
    """JSON values with None for every number in them that JSON cannot write: infinite, or not a number."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_dict(cls: type[T], data: Mapping[str, Any], *, where: str = "") -> T:
    """Builds the dataclass `cls` from `data` (the inverse of `to_dict`).

    Raises ConfigError for an unknown name (with the nearest known one), a missing name that has no default, or a
    value of the wrong type. `where` is put before names in messages.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in data:
        if name not in fields:
            raise ConfigError(_unknown(where + name, name, fields))
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _convert(hints[name], data[name], where + name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"setting '{where}{name}' is missing")
    return cls(**values)


def override(config: T, assignments: Iterable[str]) -> T:
    """A copy of `config` with every `a.b=value` of `assignments` applied, later ones last.

    Values are read as JSON where they are JSON (`0.5`, `true`, `null`, `[1,2]`) and as plain strings elsewhere, then
    checked against the type of the field. Raises ConfigError naming every assignment that is wrong, not only the
    first.
    """
    problems: list[str] = []
    changes: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            problems.append(f"'{assignment}' is not of the form name=value")
            continue
        *parents, name = path.strip().split(".")
        branch = changes
        for parent in parents:
            inner = branch.get(parent)
            branch[parent] = inner if isinstance(inner, dict) else {}
            branch = branch[parent]
        branch[name] = text.strip()
    changed = _apply(config, changes, "", problems)
    if problems:
        raise ConfigError("; ".join(problems))
    return changed


def difference(old: Any, new: Any, *, names: tuple[str, str] = ("saved", "asked")) -> list[str]:
    """One line for every leaf in which two configurations differ: `a.b: saved 1, asked 2`."""
    before, after = leaves(to_dict(old)), leaves(to_dict(new))
    missing = object()
    lines = []
    for path in sorted(before.keys() | after.keys()):
        left, right = before.get(path, missing), after.get(path, missing)
        if left != right:
            shown = ["nothing" if value is missing else json.dumps(value) for value in (left, right)]
            lines.append(f"{path}: {names[0]} {shown[0]}, {names[1]} {shown[1]}")
    return lines


def leaves(data: Any, path: str = "") -> dict[str, Any]:
    """JSON values by where they are: `{"a": {"b": 1}}` is `{"a.b": 1}`. A list, or a dict without entries, is one."""
    if isinstance(data, dict) and data:
        found: dict[str, Any] = {}
        for key, value in data.items():
            found |= leaves(value, f"{path}.{key}" if path else str(key))
        return found
    return {path: data}


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known name nearest to `name`, or the known names, nearest first, if none is near.

    Letters in another order (tyni) are near, which the ratio of matching runs does not see in short names.
    """
    known = sorted(known)
    swapped = [own for own in known if sorted(own) == sorted(name)]
    close = swapped or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    known.sort(key=lambda own: -difflib.SequenceMatcher(None, name, own).ratio())
    return f"; known: {', '.join(known)}" if known else ""


def _unknown(path: str, name: str, fields: Iterable[str]) -> str:
    return f"no setting '{path}'{nearest(name, fields)}"


def _apply(config: T, changes: Mapping[str, Any], prefix: str, problems: list[str]) -> T:
    """`config` with all changes made at once, so that settings that must fit together may change together."""
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        problems.append(f"'{prefix.rstrip('.')}' has no settings of its own")
        return config
    known = {field.name for field in dataclasses.fields(config)}
    hints = typing.get_type_hints(type(config))
    values = {}
    for name, change in changes.items():
        where = prefix + name
        try:
            if name not in known:
                raise ConfigError(_unknown(where, name, known))
            if isinstance(change, dict):
                values[name] = _apply(getattr(config, name), change, f"{where}.", problems)
            else:
                values[name] = _parse(hints[name], change, where)
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        return config
    try:
        return dataclasses.replace(config, **values)
    except ConfigError as error:  # the config's own cross-checks
        problems.append(str(error))
        return config


def _parse(hint: Any, text: str, where: str) -> Any:
    """`text` as JSON if that fits the type, otherwise as it stands (a string may look like a number)."""
    try:
        parsed = json.loads(text)
    except ValueError:
        return _convert(hint, text, where)
    try:
        return _convert(hint, parsed, where)
    except ConfigError as error:
        try:
            return _convert(hint, text, where)
        except ConfigError:
            raise error from None


def _convert(hint: Any, value: Any, where: str) -> Any:
    """`value` (a JSON value) as the type `hint`; ConfigError if it is not one."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(hint, value, where)
    if origin is typing.Literal:
        choices = typing.get_args(hint)
        if value in choices:
            return value
        raise ConfigError(f"'{where}' must be one of {', '.join(map(repr, choices))}, not {value!r}")
    if origin is tuple and isinstance(value, (list, tuple)):
        arguments = typing.get_args(hint)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
        if len(arguments) == len(value):
            items = zip(arguments, value, strict=True)
            return tuple(_convert(item_hint, item, f"{where}[{i}]") for i, (item_hint, item) in enumerate(items))
        raise ConfigError(f"'{where}' must have {len(arguments)} values, not {len(value)}")
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_dict(hint, value, where=f"{where}.")  # type: ignore[arg-type]
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint in (bool, str) and isinstance(value, hint):
        return value
    if (hint is type(None) and value is None) or hint is Any:
        return value
    if origin is dict and isinstance(value, Mapping):
        return dict(value)
    raise ConfigError(f"'{where}' must be {_describe(hint)}, not {value!r}")


def _convert_union(hint: Any, value: Any, where: str) -> Any:
    problems = []
    for option in typing.get_args(hint):
        try:
            return _convert(option, value, where)
        except ConfigError as error:
            problems.append(error)
    if isinstance(value, Mapping):
        raise problems[0]  # the message of the dataclass is more use than "must be A or B"
    raise ConfigError(f"'{where}' must be {_describe(hint)}, not {value!r}")


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_describe(option) for option in typing.get_args(hint))
    if hint is type(None):
        return "null"
    return getattr(hint, "__name__", str(hint)) if typing.get_origin(hint) is None else str(hint)
