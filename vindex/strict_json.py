"""JSON from files that may be damaged or hostile: no duplicate keys, no NaN, exact types, bounds.

``json.loads`` keeps the last of two equal keys, accepts ``NaN`` and ``1e999``, and answers deep
nesting with a ``RecursionError``. Every file of a vindex goes through ``load`` instead, and typed
access to an object goes through ``Fields``, whose messages name the place.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from vindex.errors import VindexInvalid

EnumT = TypeVar("EnumT", bound=Enum)

#: Largest JSON document that is read at all. A tokenizer of 262,144 entries is 33 MB.
MAX_BYTES = 256 << 20

#: Largest integer a field may hold: what a double represents exactly.
MAX_INTEGER = (1 << 53) - 1


#: transformers writes ``int(1e30)`` for "no limit" into ``tokenizer_config.json``.
_MAX_DIGITS = 40


class _Refused(ValueError):
    """Carries the reason out of a ``json`` hook."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise _Refused(f"the key {key!r} stands twice")
        result[key] = value
    return result


def _constant(text: str) -> NoReturn:
    raise _Refused(f"{text} is not JSON")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Refused(f"the number {text[:40]} is too large")
    return value


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise _Refused(f"the integer {text[:20]}… is too large")
    return int(text)


def load(data: bytes, path: Path) -> Any:
    """Parse one strict JSON document.

    Args:
        data: the bytes of the file.
        path: the file, for messages.

    Raises:
        VindexInvalid: the bytes are not UTF-8 JSON, or hold a duplicate key, NaN, infinity, an
            integer of too many digits, or nesting beyond what the parser takes.
    """
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_integer,
        )
    except _Refused as error:
        reason = str(error)
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is not UTF-8"
    except json.JSONDecodeError as error:
        reason = f"{error.msg}, line {error.lineno} column {error.colno}"
    except RecursionError:
        reason = "it is nested too deeply"
    raise VindexInvalid(f"{path.name} is not valid JSON: {reason}", path=path)


def load_file(path: Path, limit: int = MAX_BYTES) -> Any:
    """Read and parse a JSON file of at most ``limit`` bytes.

    Raises:
        VindexInvalid: as ``load``, or the file is not readable or too large.
    """
    try:
        size = path.stat().st_size
        if size > limit:
            raise VindexInvalid(
                f"{path.name} is {size:,} bytes; at most {limit:,} are read", path=path
            )
        data = path.read_bytes()
    except OSError as error:
        raise VindexInvalid(f"{path.name} cannot be read: {error.strerror}", path=path) from error
    return load(data, path)


class Fields:
    """Typed access to one JSON object. Every mistake is a ``VindexInvalid`` that names the place.

    Keys that no call asked for remain in ``rest``.

    Args:
        value: a parsed JSON value; anything but an object is refused.
        path: the file, for messages.
        place: where in the file the object stands, e.g. ``layers[3]``; empty for the top.
    """

    def __init__(self, value: Any, path: Path, place: str = "") -> None:
        self._path = path
        self._place = place
        if type(value) is not dict:
            self.refuse(None, f"expected an object, found {_kind(value)}")
        self._values: dict[str, Any] = value
        self._asked: set[str] = set()

    def refuse(self, key: str | None, reason: str) -> NoReturn:
        """Raise ``VindexInvalid`` for a key of this object, or for the object itself."""
        place = ".".join(part for part in (self._place, key) if part)
        where = f"{self._path.name}: {place}: " if place else f"{self._path.name}: "
        raise VindexInvalid(where + reason, path=self._path)

    def place(self, key: str) -> str:
        """The place of a key, for nested ``Fields``."""
        return f"{self._place}.{key}" if self._place else key

    def rest(self) -> dict[str, Any]:
        """Keys that were never asked for, with their values."""
        return {key: value for key, value in self._values.items() if key not in self._asked}

    def names(self) -> list[str]:
        """All keys, in file order."""
        return list(self._values)

    def present(self, key: str) -> bool:
        """Whether the key stands there, even as null. Does not count as asking."""
        return key in self._values

    def _get(self, key: str, required: bool) -> Any:
        self._asked.add(key)
        if key not in self._values:
            if required:
                self.refuse(None, f"the key {key!r} is missing")
            return None
        value = self._values[key]
        if value is None and required:
            self.refuse(key, "must not be null")
        return value

    def raw(self, key: str) -> Any:
        """The value as parsed, ``None`` when absent."""
        return self._get(key, required=False)

    def integer(self, key: str, low: int = 0, high: int = MAX_INTEGER) -> int:
        """A required integer in ``low..high``."""
        return self._integer(key, self._get(key, required=True), low, high)

    def integer_or_none(self, key: str, low: int = 0, high: int = MAX_INTEGER) -> int | None:
        """An integer in ``low..high``; ``None`` when absent or null."""
        value = self._get(key, required=False)
        return None if value is None else self._integer(key, value, low, high)

    def _integer(self, key: str, value: Any, low: int, high: int) -> int:
        if type(value) is not int:
            self.refuse(key, f"expected an integer, found {_kind(value)}")
        number: int = value
        if not low <= number <= high:
            self.refuse(key, f"{number} is outside {low}..{high}")
        return number

    def number(self, key: str) -> float:
        """A required finite number; an integer counts."""
        return self._number(key, self._get(key, required=True))

    def number_or_none(self, key: str) -> float | None:
        """A finite number; ``None`` when absent or null."""
        value = self._get(key, required=False)
        return None if value is None else self._number(key, value)

    def _number(self, key: str, value: Any) -> float:
        if type(value) not in (int, float):
            self.refuse(key, f"expected a number, found {_kind(value)}")
        return float(value)

    def text(self, key: str) -> str:
        """A required string."""
        return self._text(key, self._get(key, required=True))

    def text_or_none(self, key: str) -> str | None:
        """A string; ``None`` when absent or null."""
        value = self._get(key, required=False)
        return None if value is None else self._text(key, value)

    def _text(self, key: str, value: Any) -> str:
        if type(value) is not str:
            self.refuse(key, f"expected a string, found {_kind(value)}")
        text: str = value
        return text

    def boolean(self, key: str, default: bool) -> bool:
        """A boolean; ``default`` when absent. Null is refused, as larql refuses it."""
        if not self.present(key):
            return default
        value = self._get(key, required=True)
        if type(value) is not bool:
            self.refuse(key, f"expected true or false, found {_kind(value)}")
        flag: bool = value
        return flag

    def choice(self, key: str, default: EnumT, aliases: Mapping[str, EnumT] | None = None) -> EnumT:
        """An enum by its string value; ``default`` when absent. Null is refused."""
        if not self.present(key):
            return default
        text = self.text(key)
        kind = type(default)
        known = {str(member.value): member for member in kind} | dict(aliases or {})
        if text not in known:
            self.refuse(key, f"{text!r} is not one of {', '.join(sorted(known))}")
        return known[text]

    def array(self, key: str, limit: int) -> list[Any]:
        """A required array of at most ``limit`` elements."""
        return self._array(key, self._get(key, required=True), limit)

    def array_or_none(self, key: str, limit: int) -> list[Any] | None:
        """An array of at most ``limit`` elements; ``None`` when absent or null."""
        value = self._get(key, required=False)
        return None if value is None else self._array(key, value, limit)

    def _array(self, key: str, value: Any, limit: int) -> list[Any]:
        if type(value) is not list:
            self.refuse(key, f"expected an array, found {_kind(value)}")
        elements: list[Any] = value
        if len(elements) > limit:
            self.refuse(key, f"{len(elements):,} elements; at most {limit:,} make sense here")
        return elements

    def child(self, key: str) -> Fields | None:
        """A nested object; ``None`` when absent or null."""
        value = self._get(key, required=False)
        return None if value is None else Fields(value, self._path, self.place(key))

    def text_map(self, key: str) -> dict[str, str] | None:
        """An object of strings; ``None`` when absent or null."""
        child = self.child(key)
        if child is None:
            return None
        return {name: child.text(name) for name in child.names()}


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the string {value[:40]!r}"
        case list():
            return "an array"
        case _:
            return "an object"
