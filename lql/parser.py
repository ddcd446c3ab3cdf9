"""Text to AST: the only module that knows the parser generator.

``grammar/*.lark`` is parsed as LALR(1) with a contextual lexer. Building its table takes some
150 ms, so Lark keeps it in the user's cache directory (``$XDG_CACHE_HOME/lql``, ``~/.cache/lql``
or ``%LOCALAPPDATA%\\lql``), from where it loads in some 20 ms. The cache is keyed by grammar, Lark
and Python version; one that cannot be read or written costs time and nothing else.

Nesting is limited: the parser's stack holds at most ``MAX_OPEN`` unfinished symbols, which is at
least 40 levels of parentheses, NOT or EXPLAIN. So every tree that parses is shallow enough to be
walked, compared, hashed and printed by plain recursion. A script has at most ``MAX_TOKENS``
tokens, so that any text is answered within a second; a string is one token, however long.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import lark
from lark.exceptions import UnexpectedCharacters, UnexpectedToken
from lark.grammar import Rule

from lql.ast import Script, Slot
from lql.errors import LqlSyntaxError
from lql.span import SourceText, Span
from lql.syntax_build import RULES, SELECT_ORDER
from lql.syntax_errors import explain, too_deep, too_long
from lql.syntax_failure import END, Failure, Lexeme
from lql.syntax_tokens import Token, compared_slot, hides_typing, is_partial, scan, scanner
from lql.syntax_values import SLOT_RULES, Builder

MAX_OPEN = 128
MAX_TOKENS = 50_000

_FILES = ("terminals.lark", "conditions.lark", "lql.lark")
_CONTEXT_LENGTH = 20_000  # beyond this, highlighting does not ask which keywords are names


class Completeness(Enum):
    """What the REPL's Enter does with a text: run it, ask for more, or show what is wrong."""

    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Expectation:
    """What can be typed at the end of a text, for completion.

    Attributes:
        start: where the word or string that is being typed begins; the end of the text if none.
        legal: names of the terminals that may stand at ``start``.
        slot: what a value there stands for, or ``None`` where no value can stand.
    """

    start: int
    legal: frozenset[str]
    slot: Slot | None


def parse(text: str, name: str = "<text>") -> Script:
    """Parse a whole script.

    Args:
        text: any number of statements, separated by ``;``.
        name: what diagnostics call the text.

    Raises:
        LqlSyntaxError: the first thing that is wrong, with its place and a next step.
    """
    source = SourceText(name, text)
    everywhere = Span(0, len(text))
    try:
        script = _Run(source).read()
    except LqlSyntaxError as error:
        error.locate(source, everywhere)
        raise
    return Script(script.items, span=everywhere, source=source)


def completeness(text: str) -> Completeness:
    """Say whether ``text`` is a script, the beginning of one, or neither."""
    try:
        parse(text)
    except LqlSyntaxError as error:
        return Completeness.INCOMPLETE if error.incomplete else Completeness.INVALID
    return Completeness.COMPLETE


def legal_next(text: str) -> frozenset[str]:
    """Return the names of the terminals that may follow ``text``; ``$END`` is the end.

    A word still being typed is not cut off, see ``expectation``. Nothing can follow a text that
    is wrong already.
    """
    return _Probe(text).legal()


def slot_at(text: str) -> Slot | None:
    """Return what a value at the end of ``text`` stands for, also inside an open string."""
    return expectation(text).slot


def expectation(text: str) -> Expectation:
    """Return what can be typed at the end of ``text``, in place of a word begun there."""
    start = len(text)
    written = tokens(text)
    if written and hides_typing(written[-1]):
        return Expectation(start, frozenset(), None)
    if written and is_partial(written[-1]):
        start = written[-1].span.start
    probe = _Probe(text[:start])
    return Expectation(start, probe.legal(), probe.slot())


def tokens(text: str) -> list[Token]:
    """Split any text for highlighting. Never raises; a keyword used as a name is a NAME."""
    names: set[int] = set()
    if len(text) <= _CONTEXT_LENGTH:
        names.update(_span(token).start for token in _Probe(text).fed if token.type == "NAME")
    return list(scan(_language().scanner, text, keywords(), names))


def keywords() -> Mapping[str, str]:
    """Return the spelling of every keyword by its terminal's name, in the grammar's order."""
    return _language().keywords


# --------------------------------------------------------------------------- one pass over a text

_Shape = tuple[str, ...]
_Callbacks = Mapping[Rule, Callable[[list[Any]], Any]]


class _Machine:
    """Lark's step-by-step parser, with types."""

    def __init__(self, interactive: Any) -> None:
        self._interactive = interactive
        self._state = interactive.parser_state

    @property
    def stack(self) -> list[int]:
        """The states of the unfinished symbols, the innermost last."""
        return self._state.state_stack  # type: ignore[no-any-return]

    @property
    def values(self) -> list[Any]:
        """What has been built for the unfinished symbols, the innermost last."""
        return self._state.value_stack  # type: ignore[no-any-return]

    def lex(self) -> Iterator[lark.Token]:
        """Yield the next tokens of the text, as the state at each step reads them."""
        return self._interactive.lexer_thread.lex(self._state)  # type: ignore[no-any-return]

    def feed(self, token: lark.Token) -> Any:
        """Take one token; return what the start rule built if it was the end."""
        return self._interactive.feed_token(token)

    def accepts(self) -> frozenset[str]:
        """Return the names of the terminals that can come next."""
        return frozenset(self._interactive.accepts())

    def copy(self) -> _Machine:
        """Return a second machine in the same state; what has been built is shared."""
        return _Machine(self._interactive.copy(deepcopy_values=False))

    def build_with(self, callbacks: Callable[[Rule], Callable[[list[Any]], Any]]) -> None:
        """Build something else from here on: ``callbacks`` says what each rule builds."""
        conf = copy(self._state.parse_conf)
        conf.callbacks = {rule: callbacks(rule) for rule in conf.callbacks}
        self._state.parse_conf = conf


class _Run:
    """Feeds a text to the parser token by token, and tells what went wrong."""

    def __init__(self, source: SourceText) -> None:
        self.source = source
        self.machine = _language().machine(source.text)
        self.fed: list[lark.Token] = []

    def read(self) -> Script:
        """Feed the whole text.

        Raises:
            LqlSyntaxError: at the first token that cannot stand where it does.
        """
        stack = self.machine.stack
        before = stack.copy()
        try:
            for token in self.machine.lex():
                self.machine.feed(token)
                self.fed.append(token)
                before = stack.copy()
                if len(before) > MAX_OPEN:
                    raise too_deep(self.source, _span(token))
                if len(self.fed) > MAX_TOKENS:
                    raise too_long(self.source, _span(token), MAX_TOKENS)
            script: Script = self.machine.feed(lark.Token(END, ""))
        except UnexpectedToken as error:
            stack[:] = before  # reductions before the failure narrowed what could have stood here
            raise self._failure(self._found(error.token)) from None
        except UnexpectedCharacters as error:
            at = error.pos_in_stream or 0
            found = Lexeme("", self.source.text[at], Span(at, at + 1))
            raise self._failure(found) from None
        return script

    def _found(self, token: lark.Token) -> Lexeme:
        if token.type == END:
            end = _span(self.fed[-1]).end
            return Lexeme(END, "", Span(end, end))
        return Lexeme(token.type, str(token), _span(token))

    def _failure(self, found: Lexeme) -> LqlSyntaxError:
        before = [Lexeme(token.type, str(token), _span(token)) for token in self.fed]
        failure = Failure(self.source, found, self.machine.accepts(), before, keywords())
        if failure.statement:  # leave out the clauses that the statement has already
            start = failure.statement[0].span.start
            again = _Probe(self.source.text[start : found.span.start]).legal()
            failure = replace(failure, legal=failure.legal & again or failure.legal)
        return explain(failure)


def _span(token: lark.Token) -> Span:
    return Span(token.start_pos or 0, token.end_pos or 0)


# --------------------------------------------------------------------------- what may come next

_SLOTS = {**SLOT_RULES, "number": Slot.NUMBER, "column": Slot.FIELD, "edge_column": Slot.FIELD}
_COMPARED = (Slot.VALUE, Slot.VALUES, Slot.PATTERN)


class _Probe:
    """Stands at the end of a prefix and remembers only which clauses stand there.

    The grammar lets a clause repeat and SELECT's clauses stand in any order; ``lql.syntax_build``
    refuses both. What the probe offers takes that into account.
    """

    def __init__(self, text: str) -> None:
        self.machine = _language().machine(text)
        self.machine.build_with(_language().shapes.__getitem__)
        self.fed: list[lark.Token] = []
        self.alive = self._read()

    def _read(self) -> bool:
        try:
            for token in self.machine.lex():
                self.machine.feed(token)
                self.fed.append(token)
                if len(self.machine.stack) > MAX_OPEN or len(self.fed) > MAX_TOKENS:
                    return False
        except (UnexpectedToken, UnexpectedCharacters):
            return False
        return True

    def legal(self) -> frozenset[str]:
        """Return the terminals that may come next."""
        if not self.alive:
            return frozenset()
        return frozenset(name for name in self.machine.accepts() if self._may_follow(name))

    def slot(self) -> Slot | None:
        """Return what a value that comes next stands for."""
        accepted = self.machine.accepts() if self.alive else frozenset()
        for terminal in ("PARAMETER", "NAME"):
            if terminal not in accepted:
                continue
            slot = _SLOTS.get(self._rule_of(lark.Token(terminal, "")))
            if slot not in _COMPARED:
                return slot
            before = ((token.type, str(token)) for token in reversed(self.fed))
            return compared_slot(before) or slot
        return None

    def _may_follow(self, name: str) -> bool:
        if name == END:
            return True
        trial = self.machine.copy()
        trial.feed(lark.Token(name, ""))
        opened = _language().clause_starts.get(name, frozenset())
        return len(trial.stack) <= MAX_OPEN and _fits(opened, _clauses_before(trial.values))

    def _rule_of(self, token: lark.Token) -> str:
        """Return the name of the first rule that is built from ``token``."""
        built: list[str] = []

        def record(rule: Rule) -> Callable[[list[Any]], _Shape]:
            def callback(children: list[Any]) -> _Shape:
                if any(child is token for child in children):
                    built.append(_name(rule))
                return ()

            return callback

        trial = self.machine.copy()
        trial.build_with(record)
        trial.feed(token)
        trial.feed(lark.Token(min(trial.accepts()), ""))
        return built[0] if built else ""


def _clauses_before(values: list[Any]) -> set[str]:
    """Return the clause rules of the statement in which the last value begins a clause."""
    found: set[str] = set()
    for value in reversed(values[:-1]):
        if not isinstance(value, tuple) or not value:
            break
        found.update(value)
    return found


def _fits(opened: frozenset[str], present: set[str]) -> bool:
    """Whether a clause of the rules ``opened`` may follow the clauses ``present``."""
    if opened & present:
        return False
    latest = max((SELECT_ORDER.get(rule, 0) for rule in present), default=0)
    in_order = all(SELECT_ORDER.get(rule, latest) >= latest for rule in opened)
    return in_order or "table" not in present


# --------------------------------------------------------------------------- the grammar


class _Language:
    """The grammar, ready to use."""

    def __init__(self) -> None:
        grammar = _grammar()
        names = re.findall(r"^(\w+)\.2: /\1\\b/i$", grammar, re.MULTILINE)
        self.keywords: Mapping[str, str] = MappingProxyType({name: name for name in names})
        self._lark = lark.Lark(
            grammar,
            parser="lalr",
            lexer="contextual",
            start="script",
            keep_all_tokens=True,
            maybe_placeholders=False,
            transformer=SimpleNamespace(**{rule: _spanned(build) for rule, build in RULES.items()}),
            cache=_cache_file() or False,
        )

    def machine(self, text: str) -> _Machine:
        """Return a machine that stands before ``text``."""
        return _Machine(self._lark.parse_interactive(text))

    @cached_property
    def scanner(self) -> re.Pattern[str]:
        """Finds tokens of every kind; keywords are found as names."""
        others = [term for term in self._lark.terminals if term.name not in self.keywords]
        others.sort(key=lambda term: (-term.priority, -len(term.pattern.value)))
        return scanner((term.name, term.pattern.to_regexp()) for term in others)

    @cached_property
    def shapes(self) -> _Callbacks:
        """Callbacks that keep the names of clauses and forget everything else."""
        return {rule: _shape(_name(rule)) for rule in self._lark.rules}

    @cached_property
    def clause_starts(self) -> Mapping[str, frozenset[str]]:
        """The clause rules that each terminal can begin."""
        expansions: dict[str, list[Any]] = {}
        for rule in self._lark.rules:
            if rule.expansion:
                expansions.setdefault(rule.origin.name, []).append(rule.expansion[0])

        @cache
        def first(name: str) -> frozenset[str]:
            found = set()
            for symbol in expansions[name]:
                if symbol.is_term:
                    found.add(symbol.name)
                elif symbol.name != name:
                    found |= first(symbol.name)
            return frozenset(found)

        starts: dict[str, set[str]] = {}
        for clause in filter(_is_clause, expansions):
            for terminal in first(clause):
                starts.setdefault(terminal, set()).add(_CLAUSE_ALIASES.get(clause, clause))
        return {terminal: frozenset(clauses) for terminal, clauses in starts.items()}


_PARTS_OF_SELECT = ("table", "alias", "join")  # stand before the first clause
_CLAUSE_ALIASES = {"bare_layer_clause": "layer_clause"}


def _is_clause(rule: str) -> bool:
    return rule.endswith("_clause") and not rule.startswith("_")


def _name(rule: Rule) -> str:
    return rule.alias or rule.options.template_source or rule.origin.name


def _shape(name: str) -> Callable[[list[Any]], _Shape]:
    if _is_clause(name) or name in _PARTS_OF_SELECT:
        return lambda children: (_CLAUSE_ALIASES.get(name, name),)
    if name.startswith("_"):
        return lambda children: sum((c for c in children if isinstance(c, tuple)), ())
    return lambda children: ()


def _spanned(build: Builder) -> Callable[[list[Any]], Any]:
    """Give ``build`` the span from its first child to its last."""

    def callback(children: list[Any]) -> Any:
        if not children:
            return build(children, Span(0, 0))
        first, last = children[0], children[-1]
        start = _span(first) if isinstance(first, lark.Token) else first.span
        end = _span(last) if isinstance(last, lark.Token) else last.span
        return build(children, Span(start.start, end.end))

    return callback


@cache
def _language() -> _Language:
    return _Language()


def _grammar() -> str:
    files = resources.files("lql.grammar")
    return "\n".join(files.joinpath(name).read_text(encoding="utf-8") for name in _FILES)


def _cache_file() -> str | None:
    """Return where the parse table is kept, or ``None`` where that is impossible."""
    try:
        root = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
        directory = Path(root) if root else Path.home() / ".cache"
        (directory / "lql").mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no home, or not ours to write in
        return None
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    return str(directory / "lql" / f"grammar-lark{lark.__version__}-{python}.table")
