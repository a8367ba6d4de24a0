"""One frozen dataclass per entry point; its fields are the command's flags and its config file.

Standard library only. A field is declared with ``setting(default, "what it is, unit; source")``;
``parse`` turns command-line flags, optionally on top of ``--config FILE``, into the dataclass.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

C = TypeVar("C")
REQUIRED: Any = dataclasses.MISSING


class Allowed(NamedTuple):
    """The numbers that a setting may have, in words and as a test."""

    words: str
    fits: Callable[[float], bool]


AT_LEAST_1 = Allowed("1 or more", lambda value: 1 <= value < math.inf)
AT_LEAST_2 = Allowed("2 or more", lambda value: 2 <= value < math.inf)
NOT_NEGATIVE = Allowed("0 or more", lambda value: 0 <= value < math.inf)
POSITIVE = Allowed("above 0", lambda value: 0 < value < math.inf)
SHARE = Allowed("between 0 and 1", lambda value: 0 <= value <= 1)
POSITIVE_SHARE = Allowed("above 0 and up to 1", lambda value: 0 < value <= 1)
BELOW_1 = Allowed("0 or more and below 1", lambda value: 0 <= value < 1)
SMOOTHING = Allowed("0 or more and below 0.5", lambda value: 0 <= value < 0.5)
PORT = Allowed("a number from 0 to 65535", lambda value: 0 <= value <= 65_535)
INSIDE_0_1 = Allowed("above 0 and below 1", lambda value: 0 < value < 1)


class Needs(NamedTuple):
    """What else must be set for a setting to have an effect, in words and as a test."""

    words: str
    is_met: Callable[[Any], bool]


Values = Mapping[str, Any]


class How(NamedTuple):
    """Of a setting that says how something is computed, and changes nothing but rounding."""

    may_change: Callable[[Values, Values], bool] = lambda was, now: True
    """Whether a run that was started with the first settings may go on with the second."""


HOW = How()


class WithoutEffect(ValueError):
    """A setting that changes nothing as the others are."""

    def __init__(self, name: str, value: object, words: str) -> None:
        super().__init__(f"{name} is {value}, which changes nothing: it needs {words}")
        self.name = name


def setting(
    default: Any,
    help: str,
    allowed: Allowed | None = None,
    needs: Needs | None = None,
    how: How | None = None,
) -> Any:
    """A dataclass field with its one-line description (unit and source included)."""
    metadata = {"help": help, "allowed": allowed, "needs": needs, "how": how}
    if default is REQUIRED:
        return dataclasses.field(metadata=metadata)
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The base of every entry point's settings: numbers out of their range are refused, and what
    would silently change nothing."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            allowed: Allowed | None = field.metadata.get("allowed")
            value = getattr(self, field.name)
            for number in value if isinstance(value, tuple) else (value,):
                if allowed and number is not None and not allowed.fits(number):
                    raise ValueError(f"{field.name} is {number}, allowed is {allowed.words}")
        for field in dataclasses.fields(self):
            needs: Needs | None = field.metadata.get("needs")
            value = getattr(self, field.name)
            if needs and value != field.default and not needs.is_met(self):
                said = value if isinstance(value, tuple) else (value,)
                raise WithoutEffect(field.name, " ".join(map(_word, said)), needs.words)


def parse(config_class: type[C], program: str, argv: Sequence[str] | None = None) -> C:
    """Build the configuration of one command from its flags.

    A value that does not fit ends the program with one sentence, as argparse does.
    """
    summary = (config_class.__doc__ or "").split("\n\n")[0]
    fields = dataclasses.fields(config_class)  # type: ignore[arg-type]
    required = [field.name for field in fields if _is_required(field)]
    words = [f"--{n.replace('_', '-')} {n.rpartition('_')[2].upper()}" for n in required]
    parser = argparse.ArgumentParser(
        prog=f"python -m {program}",
        usage=" ".join(["%(prog)s [--help] [--config FILE]", *words, "[…]"]),
        description=summary,
    )
    parser.add_argument("--config", type=Path, help="JSON file with any of the settings below")
    hints = typing.get_type_hints(config_class)
    for field in sorted(fields, key=_is_required, reverse=True):
        _add_flag(parser, field, hints[field.name])
    flags = vars(parser.parse_args(argv))
    file = flags.pop("config")
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        stored = json.loads(file.read_text()) if file else {}
        return from_mapping(config_class, {**stored, **given})
    except (OSError, ValueError) as error:
        parser.error(str(error))


def from_mapping(config_class: type[C], values: Mapping[str, Any]) -> C:
    """The configuration that a JSON object holds.

    Raises ValueError naming an unknown field, a missing one, or a value of the wrong type.
    """
    fields = {field.name: field for field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    unknown = sorted(values.keys() - fields.keys())
    if unknown:
        raise ValueError(f"unknown setting {unknown[0]!r}, allowed are {', '.join(fields)}")
    missing = [n for n, f in fields.items() if _is_required(f) and n not in values]
    if missing:
        raise ValueError(f"setting {missing[0]!r} is missing: --{missing[0].replace('_', '-')}")
    hints = typing.get_type_hints(config_class)
    return config_class(**{n: _convert(n, v, hints[n]) for n, v in values.items()})


def to_mapping(config: Any) -> dict[str, Any]:
    """The JSON object of a configuration: what ``from_mapping`` reads back."""
    mapping: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    return mapping


def how_of(config: Settings) -> dict[str, Any]:
    """Of the JSON object what says how is computed, and not what."""
    names = {field.name for field in dataclasses.fields(config) if field.metadata.get("how")}
    return {name: value for name, value in to_mapping(config).items() if name in names}


def other_setting(kind: type[Settings], was: Values, now: Values) -> str | None:
    """The first setting, by name, that keeps a run that was started with some settings from going
    on with others; None where nothing does."""
    hows = {field.name: field.metadata.get("how") for field in dataclasses.fields(kind)}
    for name in sorted(was.keys() | now.keys()):
        how: How | None = hows.get(name)
        if was.get(name) != now.get(name) and not (how and how.may_change(was, now)):
            return name
    return None


def to_flags(values: Mapping[str, Any]) -> list[str]:
    """The same settings as command-line flags; None is left out."""
    flags: list[str] = []
    for name, value in values.items():
        if value is None:
            continue
        items = value if isinstance(value, list | tuple) else [value]
        if not items:
            continue
        flags += [f"--{name.replace('_', '-')}", *(_word(item) for item in items)]
    return flags


def _word(value: Any) -> str:
    if isinstance(value, Mapping):
        return json.dumps(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is REQUIRED and field.default_factory is dataclasses.MISSING


def _add_flag(parser: argparse.ArgumentParser, field: dataclasses.Field[Any], hint: Any) -> None:
    kind, many = _scalar(hint)
    default = {} if field.default is REQUIRED else field.default
    shown = "required" if _is_required(field) else f"default {_word(default)}"
    remark = "" if default is None or default == () else f" ({shown})"
    choices = ("true", "false") if kind is bool else _choices(kind)
    extra = {"nargs": "+"} if many else {}
    parser.add_argument(
        "--" + field.name.replace("_", "-"),
        metavar="|".join(map(str, choices)) if choices else field.name.rpartition("_")[2].upper(),
        help=f"{field.metadata.get('help', '')}{remark}".replace("%", "%%"),
        **extra,  # type: ignore[arg-type]
    )


def _scalar(hint: Any) -> tuple[Any, bool]:
    """(element type, is it a tuple of them) of a field's type, ``| None`` taken off."""
    if isinstance(hint, types.UnionType):
        hint = next(a for a in typing.get_args(hint) if a is not type(None))
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], True
    return hint, False


def _choices(kind: Any) -> tuple[Any, ...]:
    if typing.get_origin(kind) is typing.Literal:
        return typing.get_args(kind)
    return tuple(kind) if isinstance(kind, type) and issubclass(kind, StrEnum) else ()


def _convert(name: str, value: Any, hint: Any) -> Any:
    if value is None and isinstance(hint, types.UnionType):
        return None
    kind, many = _scalar(hint)
    if many:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_convert_one(name, item, kind) for item in items)
    return _convert_one(name, value, kind)


def _convert_one(name: str, value: Any, kind: Any) -> Any:
    choices = _choices(kind)
    if choices:
        if value not in choices:
            raise ValueError(f"{name} is {value!r}, allowed are {', '.join(map(str, choices))}")
        return kind(value) if isinstance(kind, type) else value
    if typing.get_origin(kind) is dict:
        return _convert_object(name, value)
    if kind is bool:
        if str(value).lower() not in ("true", "false"):
            raise ValueError(f"{name} is {value!r}, allowed are true, false")
        return str(value).lower() == "true"
    allowed = {int: "a whole number", float: "a number", str: "a text", Path: "a path"}[kind]
    if isinstance(value, bool) or not isinstance(value, str | int | float | Path):
        raise ValueError(f"{name} is {value!r}, allowed is {allowed}")
    if kind is int and isinstance(value, float):
        raise ValueError(f"{name} is {value!r}, allowed is {allowed}")
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"{name} is {value!r}, allowed is {allowed}") from None


def _convert_object(name: str, value: Any) -> dict[str, Any]:
    """A JSON object, given as one or as its text on the command line."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        found = None
    if not isinstance(found, Mapping):
        raise ValueError(f"{name} is {value!r}, allowed is a JSON object")
    return dict(found)
