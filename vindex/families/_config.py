"""Reading a ``config.json`` whose every value may be missing, null, misspelt or absurd.

``ConfigReader`` hands out typed, range-checked values and names key, value and expectation when it
refuses. Every bound is far above any released model; they keep a hostile file from asking for
absurd amounts of memory later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar, overload

from vindex.errors import CheckpointError, Unsupported
from vindex.spec import Activation

MAX_LAYERS = 4096
MAX_SIZE = 1 << 24  # hidden and intermediate size, vocabulary
MAX_POSITIONS = 1 << 30
MAX_HEADS = 1 << 16

_T = TypeVar("_T")

_ACTIVATIONS: dict[str, Activation] = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "relu": Activation.RELU,
}


class ConfigReader:
    """Typed access to one JSON object of a model's configuration.

    ``null`` means absent, as everywhere in Hugging Face configs.

    Args:
        values: the parsed object.
        where: how to call it in messages, e.g. ``config.json``.
    """

    def __init__(self, values: Mapping[str, Any], where: str = "config.json") -> None:
        self._values = values
        self.where = where

    def get(self, key: str) -> Any:
        """The raw value, or ``None``."""
        return self._values.get(key)

    def has(self, key: str) -> bool:
        """Whether the key is there and not null."""
        return self._values.get(key) is not None

    def names(self) -> tuple[str, ...]:
        """Every key, those that are null included."""
        return tuple(self._values)

    def states(self, key: str) -> bool:
        """Whether the key is there, null or not: some classes tell null from absent."""
        return key in self._values

    def renamed(self, names: Mapping[str, str]) -> ConfigReader:
        """The same values, with those under a key of ``names`` also under its value."""
        extra = {new: self._values[old] for old, new in names.items() if old in self._values}
        return ConfigReader({**self._values, **extra}, self.where)

    def merged_over(self, other: ConfigReader) -> ConfigReader:
        """This object's non-null values on top of ``other``'s."""
        present = {key: value for key, value in self._values.items() if value is not None}
        return ConfigReader({**other._values, **present}, self.where)

    def integer(
        self, key: str, default: int | None = None, *, low: int = 1, high: int = MAX_SIZE
    ) -> int:
        """An integer in ``low..high``; required when there is no default."""
        value = self._values.get(key)
        expected = f"an integer from {low} to {high}"
        if value is None:
            return self._default(key, default, expected)
        if type(value) is not int or not low <= value <= high:
            self.refuse(key, expected)
        return value

    def number(
        self, key: str, default: float | None = None, *, low: float = 0.0, high: float = 1e12
    ) -> float:
        """A finite number with ``low < value <= high``; required when there is no default."""
        value = self._values.get(key)
        expected = f"a number above {low:g} and at most {high:g}"
        if value is None:
            return self._default(key, default, expected)
        if type(value) not in (int, float) or not low < value <= high:  # NaN is never in range
            self.refuse(key, expected)
        return float(value)

    def number_or_none(self, key: str, *, high: float = 1e12) -> float | None:
        """A finite number above zero and at most ``high``, or ``None``."""
        return self.number(key, high=high) if self.has(key) else None

    def numbers(self, key: str, count: int, *, high: float) -> tuple[float, ...]:
        """A list of exactly ``count`` numbers above zero and at most ``high``."""
        value = self._values.get(key)
        expected = f"a list of {count} numbers above 0 and at most {high:g}"
        if not isinstance(value, list) or len(value) != count:
            self.refuse(key, expected)
        if not all(type(item) in (int, float) and 0.0 < item <= high for item in value):
            self.refuse(key, expected)
        return tuple(map(float, value))

    def integers(self, key: str, *, low: int, high: int) -> tuple[int, ...]:
        """A list of integers in ``low..high``; empty when absent."""
        value = self._values.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(
            type(item) is int and low <= item <= high for item in value
        ):
            self.refuse(key, f"a list of integers from {low} to {high}")
        return tuple(value)

    def flag(self, key: str, default: bool) -> bool:
        """A boolean."""
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.refuse(key, "true or false")
        return value

    @overload
    def text(self, key: str) -> str | None: ...
    @overload
    def text(self, key: str, default: str) -> str: ...
    def text(self, key: str, default: str | None = None) -> str | None:
        """A string."""
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            self.refuse(key, "a string")
        return value

    def section(self, key: str) -> ConfigReader | None:
        """A nested object, or ``None``."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self.refuse(key, "an object")
        return ConfigReader(value, f"{self.where}: {key}")

    def choices(self, key: str, allowed: Mapping[str, _T], count: int) -> tuple[_T, ...] | None:
        """A list of exactly ``count`` strings, each one of ``allowed``; or ``None``."""
        value = self._values.get(key)
        if value is None:
            return None
        expected = f"a list of {count} strings out of {', '.join(allowed)}"
        if not isinstance(value, list) or len(value) != count:
            self.refuse(key, expected)
        if not all(isinstance(item, str) and item in allowed for item in value):
            self.refuse(key, expected)
        return tuple(allowed[item] for item in value)

    def activation(self, key: str, default: str) -> Activation:
        """The FFN non-linearity."""
        name = self.text(key, default)
        if name not in _ACTIVATIONS:
            raise Unsupported(
                f"{self.where}: {key} is {show(name)}, which is not a supported activation",
                hint=f"supported: {', '.join(sorted(_ACTIVATIONS))}",
            )
        return _ACTIVATIONS[name]

    def refuse(self, key: str, expected: str) -> NoReturn:
        """Raise the error for a key whose value is not what it must be."""
        raise CheckpointError(
            f"{self.where}: {key} is {show(self._values.get(key))}, expected {expected}"
        )

    def contradiction(self, what: str, expected: str) -> NoReturn:
        """Raise the error for values that exclude each other."""
        raise CheckpointError(f"{self.where}: {what}, expected {expected}")

    def must_be_default(self, key: str, *defaults: object) -> None:
        """Refuse a key that changes the mathematics in a way no family here implements.

        Absent, null, and every one of ``defaults`` are fine.
        """
        value = self._values.get(key)
        if value is not None and not any(
            type(value) is type(default) and value == default for default in defaults
        ):
            wanted = " or ".join(show(default) for default in (*defaults, None))
            raise Unsupported(f"{self.where}: {key} is {show(value)}, supported is only {wanted}")

    def _default(self, key: str, default: _T | None, expected: str) -> _T:
        if default is None:
            raise CheckpointError(f"{self.where}: {key} is missing, expected {expected}")
        return default


def show(value: object, limit: int = 60) -> str:
    """A short, printable, JSON-like rendering of a value from a file."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) >= 10**18:
        return "an integer of more than 18 digits"
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits inside
        return f"a {type(value).__name__}"
    text = text.encode("ascii", "backslashreplace").decode("ascii")
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
