"""A small terminal: what the escape sequences of a line editor make of a screen."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from wcwidth import wcwidth

_SEQUENCE = re.compile(
    r"\x1b\[(?P<parameters>[?>=]?[0-9;]*)(?P<final>[@-~])"
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"
    r"|\x1b[()][0-9A-B]"
    r"|\x1b[=>78DEHM]"
)
_UNFINISHED = re.compile(r"\x1b(?:\[[?>=]?[0-9;]*|\][^\x07\x1b]*)?$")


@dataclass
class Screen:
    """Rows of characters and a cursor.

    Attributes:
        replies: what the terminal answers to queries, to be sent to the program.
    """

    height: int = 30
    width: int = 100
    row: int = 0
    column: int = 0
    replies: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rows = [self._blank() for _ in range(self.height)]
        self._rest = ""

    @property
    def lines(self) -> list[str]:
        """The rows, without spaces at their ends."""
        return ["".join(row).rstrip() for row in self._rows]

    @property
    def text(self) -> str:
        """The screen, without empty rows at its end."""
        return "\n".join(self.lines).rstrip()

    @property
    def line(self) -> str:
        """The row that the cursor is in."""
        return self.lines[self.row]

    def feed(self, text: str) -> None:
        """Do what the program wrote."""
        text, self._rest = self._rest + text, ""
        at = 0
        while at < len(text):
            sequence = _SEQUENCE.match(text, at)
            if sequence is not None:
                at = sequence.end()
                if sequence["final"]:
                    self._control(sequence["final"], sequence["parameters"])
            elif text[at] == "\x1b" and _UNFINISHED.match(text, at):
                self._rest = text[at:]
                return
            else:
                self._write(text[at])
                at += 1

    def _write(self, char: str) -> None:
        match char:
            case "\r":
                self.column = 0
            case "\n":
                self._down()
            case "\b":
                self.column = max(self.column - 1, 0)
            case _ if char >= " ":
                if self.column >= self.width:
                    self.column = 0
                    self._down()
                self._rows[self.row][self.column] = char
                for extra in range(1, wcwidth(char)):
                    if self.column + extra < self.width:
                        self._rows[self.row][self.column + extra] = ""
                self.column += max(wcwidth(char), 0)

    def _control(self, final: str, parameters: str) -> None:
        if parameters[:1] in ("?", ">", "="):
            return
        numbers = [int(part) if part else 0 for part in parameters.split(";")]
        count = max(numbers[0], 1)
        match final:
            case "A":
                self.row = max(self.row - count, 0)
            case "B":
                self.row = min(self.row + count, self.height - 1)
            case "C":
                self.column = min(self.column + count, self.width - 1)
            case "D":
                self.column = max(self.column - count, 0)
            case "G":
                self.column = count - 1
            case "H":
                self.row = min(count, self.height) - 1
                self.column = max(numbers[1] if len(numbers) > 1 else 1, 1) - 1
            case "J":
                self._erase_below(everything=numbers[0] >= 2)
            case "K":
                first, last = {0: (self.column, self.width), 1: (0, self.column + 1)}.get(
                    numbers[0], (0, self.width)
                )
                self._rows[self.row][first:last] = [" "] * (last - first)
            case "n" if numbers[0] == 6:
                self.replies.append(f"\x1b[{self.row + 1};{self.column + 1}R")

    def _erase_below(self, *, everything: bool) -> None:
        if everything:
            self._rows = [self._blank() for _ in range(self.height)]
            return
        self._rows[self.row][self.column :] = [" "] * (self.width - self.column)
        for row in range(self.row + 1, self.height):
            self._rows[row] = self._blank()

    def _down(self) -> None:
        if self.row < self.height - 1:
            self.row += 1
            return
        self._rows = [*self._rows[1:], self._blank()]

    def _blank(self) -> list[str]:
        return [" "] * self.width
