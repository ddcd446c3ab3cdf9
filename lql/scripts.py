"""Scripts made ready to run: variables of SET bound, files of INCLUDE read in their places.

Everything happens before the first statement runs, so what is wrong in a variable's type or in an
included file costs nothing. A value that the caller gives for a name wins over the script's SET.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from lql import ast
from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlError, LqlRuntimeError
from lql.params import ParameterValue, bind, from_text, parameters
from lql.parser import parse
from lql.span import NO_SOURCE, SourceText

MAX_FILES = 1_000
"""Files that a script may include, counted as often as they are: a few lines could ask for 2^64."""

Variables = dict[str, "str | int | float"]


@dataclass(slots=True)
class Resolver:
    """Binds and includes, statement by statement in the order in which they will run.

    Attributes:
        given: values of the caller, by name as written.
        words: values of the caller that arrived as text.
        variables: what SET gave so far, by name in lower case; SETs of the script are added.
        used: names of the parameters that occurred.
    """

    given: Mapping[str, ParameterValue]
    words: Mapping[str, str]
    variables: Variables
    used: set[str] = field(default_factory=set)
    files: int = 0

    def resolve(self, script: ast.Script) -> ast.Script:
        """The script without parameters and without INCLUDE.

        Raises:
            LqlError: with its place, in the file that it stands in.
        """
        chain = tuple(_real(path) for path in (_file(script.source),) if path is not None)
        items = tuple(self._items(script, chain))
        return replace(script, items=items, used=frozenset(self.used))

    def _items(self, script: ast.Script, chain: tuple[Path, ...]) -> Iterator[ast.Pipeline]:
        for item in script.items:
            match self._bound(item, script.source).statements:
                case (ast.Include() as include,):
                    yield from self._included(include, script.source, chain)
                case statements:
                    yield replace(item, statements=statements, source=script.source)

    def _bound(self, item: ast.Pipeline, source: SourceText) -> ast.Pipeline:
        statements: list[ast.Statement] = []
        for statement in item.statements:
            try:
                statements.append(self._with_values(statement))
            except LqlError as error:
                error.locate(source, statement.span)
                raise
        return replace(item, statements=tuple(statements))

    def _with_values(self, statement: ast.Statement) -> ast.Statement:
        names = {parameter.name for parameter in parameters(statement)}
        self.used |= names
        set_before = {
            name: self.variables[name.lower()] for name in names if name.lower() in self.variables
        }
        values = {**self.variables, **set_before, **from_text(statement, self.words), **self.given}
        bound: ast.Statement = bind(statement, values)
        return self._assigned(bound) if isinstance(bound, ast.SetOption) else bound

    def _assigned(self, statement: ast.SetOption) -> ast.SetOption:
        """A SET, with the caller's value where it gave one; remembered if it sets a variable."""
        name = statement.option.value
        if not is_variable(statement):
            return statement
        theirs = [each for each in (*self.given, *self.words) if each.lower() == name]
        if theirs:
            self.used.update(theirs)
            slot = ast.Parameter(theirs[0], span=statement.value.span)
            values = {**from_text(slot, self.words), **self.given}
            statement = replace(statement, value=bind(slot, values))
        self.variables[name] = value_of(statement)
        return statement

    def _included(
        self, statement: ast.Include, source: SourceText, chain: tuple[Path, ...]
    ) -> Iterator[ast.Pipeline]:
        assert isinstance(statement.path, ast.Text), "parameters are bound"
        beside = _file(source)
        path = Path(statement.path.value).expanduser()
        path = path if beside is None else beside.parent / path
        try:
            self.files += 1
            if self.files > MAX_FILES:
                raise _failed(f"the script includes more than {MAX_FILES} files")
            real = _real(path)
            if real in chain:
                raise _circle(path, (*chain, real))
            included = parse(_read(path), str(path))
        except LqlError as error:
            error.locate(source, statement.path.span)
            error.diagnostic = _from(error.diagnostic, source, statement)
            raise
        yield from self._items(included, (*chain, real))


def is_variable(statement: ast.SetOption) -> bool:
    """Whether a SET gives a variable a value: a bare word is the value of an option only."""
    from lql.execute.settings import OPTIONS

    return statement.option.value not in OPTIONS and not isinstance(statement.value, ast.Word)


def value_of(statement: ast.SetOption) -> str | int | float:
    """The value that a bound SET of a variable gives it."""
    value = statement.value
    assert isinstance(value, ast.Text | ast.Integer | ast.Number), "a variable holds a literal"
    return value.value


def _file(source: SourceText) -> Path | None:
    """The file that a text was read from; ``None`` for one that is called ``<stdin>``, ``<-e>``."""
    unnamed = source is NO_SOURCE or source.name.startswith("<")
    return None if unnamed else Path(source.name)


def _real(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # links in a circle: opening the file says so
        return path.absolute()


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _failed(f"{path} is not UTF-8: byte {error.start} cannot be read") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _failed(f"cannot read {path}: {reason.lower()}") from error


def _failed(message: str) -> LqlRuntimeError:
    return LqlRuntimeError(Diagnostic(Code.INCLUDE_FAILED, message))


def _circle(path: Path, chain: tuple[Path, ...]) -> LqlRuntimeError:
    names = " includes ".join(each.name for each in chain[chain.index(chain[-1]) :])
    return LqlRuntimeError(
        Diagnostic(Code.INCLUDE_CYCLE, f"{path} includes itself", notes=(names,))
    )


def _from(diagnostic: Diagnostic, source: SourceText, statement: ast.Include) -> Diagnostic:
    """What is wrong with an included file, and where it was included."""
    if diagnostic.source is source:
        return diagnostic
    place = source.position(statement.span.start)
    note = f"included at {source.name}:{place.line}:{place.column}"
    return replace(diagnostic, notes=(*diagnostic.notes, note))
