"""Facts as INSERT writes them: rows of the statement or of a file, checked, with their keys."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlRuntimeError, LqlTypeError
from lql.execute.slots import layer, text
from lql.probes import key_prompts
from vindex.bands import Band
from vindex.edits import Fact, Vector

if TYPE_CHECKING:
    from lql.inference.model import LoadedModel
    from vindex.store import Vindex

_COLUMNS = ("entity", "relation", "target")
_MAX_BYTES = 64 << 20
_ALIAS_SEPARATOR = "|"


@dataclass(frozen=True, slots=True)
class Row:
    """One fact as the user wrote it."""

    entity: str
    relation: str
    target: str
    aliases: tuple[str, ...] = ()


def rows_of(statement: ast.Insert) -> list[Row]:
    """The rows of a statement or of the file that it names.

    Raises:
        LqlRuntimeError: an empty text, two targets for one fact, or a file that cannot be read.
        OSError: there is no such file.
    """
    if statement.path is not None:
        rows = list(_from_file(Path(text(statement.path)).expanduser()))
    else:
        rows = [
            _checked([text(row.entity), text(row.relation), text(row.target)], "the row")
            for row in statement.rows
        ]
    aliases = tuple(text(alias).strip() for alias in statement.aliases)
    if not aliases:
        return rows
    if len(rows) != 1:
        raise LqlTypeError(
            Diagnostic(
                Code.WRONG_TYPE,
                f"ALIAS names one entity, and there are {len(rows)} rows",
                span=statement.aliases[0].span,
                helps=("write one INSERT per entity, or a column aliases in a file",),
            )
        )
    only = rows[0]
    return [Row(only.entity, only.relation, only.target, (*only.aliases, *aliases))]


def _from_file(path: Path) -> Iterator[Row]:
    if path.stat().st_size > _MAX_BYTES:
        _refuse(f"{path} is larger than the {_MAX_BYTES >> 20} MB that are read")
    try:
        data = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        _refuse(f"{path} is not UTF-8: byte {error.start} cannot be read")
    match path.suffix.lower():
        case ".csv":
            return _from_csv(data, path)
        case ".jsonl" | ".ndjson":
            return _from_jsonl(data, path)
        case other:
            _refuse(f'{path} ends in "{other}"; facts are read from .csv and .jsonl')


def _from_csv(data: str, path: Path) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(data, newline=""), strict=True)
    try:
        missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            _refuse(f"{path}: the header has no column {', '.join(missing)}")
        for entry in reader:
            place = f"{path}:{reader.line_num}"
            if None in entry or None in entry.values():
                _refuse(f"{place}: the line has other columns than the header")
            aliases = tuple((entry.get("aliases") or "").split(_ALIAS_SEPARATOR))
            yield _checked([entry[name] for name in _COLUMNS], place, aliases)
    except csv.Error as error:
        _refuse(f"{path}:{reader.line_num}: {error}")


def _from_jsonl(data: str, path: Path) -> Iterator[Row]:
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            _refuse(f"{place}: the line is not JSON")
        if not isinstance(entry, dict):
            _refuse(f"{place}: expected an object")
        values = [entry.get(name) for name in _COLUMNS]
        aliases = entry.get("aliases", [])
        if not isinstance(aliases, list) or not all(isinstance(a, str) for a in aliases):
            _refuse(f"{place}: aliases: expected a list of strings")
        for name, value in zip(_COLUMNS, values, strict=True):
            if not isinstance(value, str):
                _refuse(f"{place}: {name}: expected a string")
        yield _checked([str(value) for value in values], place, tuple(aliases))


def _checked(values: list[str], place: str, aliases: tuple[str, ...] = ()) -> Row:
    stripped = [value.strip() for value in values]
    for name, value in zip(_COLUMNS, stripped, strict=True):
        if not value:
            _refuse(f"{place}: {name} is empty")
    entity, relation, target = stripped
    return Row(entity, relation, target, tuple(a.strip() for a in aliases if a.strip()))


def _refuse(message: str) -> NoReturn:
    raise LqlRuntimeError(Diagnostic(Code.FACTS_INVALID, message))


# --------------------------------------------------------------------------- keys


def store_layer(slot: ast.IntegerSlot | None, vindex: Vindex) -> int:
    """The layer whose FFN input recognises a fact: the last of the knowledge band by default."""
    count = vindex.index.num_layers
    if slot is not None:
        return layer(slot, count)
    if vindex.bands is None:
        return max(0, count - 2)
    return vindex.bands.span(Band.KNOWLEDGE)[1]


def refuse_memit_clauses(statement: ast.Insert) -> None:
    """Refuse the clauses that belong to MODE MEMIT.

    Raises:
        LqlTypeError: one is written.
    """
    for name, slot in (("AT LAYERS", statement.layers), ("STATISTICS", statement.statistics)):
        if slot is not None:
            raise LqlTypeError(
                Diagnostic(
                    Code.WRONG_TYPE,
                    f"{name} belongs to MODE MEMIT",
                    span=slot.span,
                    helps=("write MODE MEMIT, or leave the clause out",),
                )
            )


def confidence_of(slot: ast.NumberSlot | None) -> float:
    """The value of CONFIDENCE, 1 by default.

    Raises:
        LqlTypeError: it is no share.
    """
    if slot is None:
        return 1.0
    assert isinstance(slot, ast.Number), "statements are bound before they run"
    if not 0.0 <= slot.value <= 1.0:
        raise LqlTypeError(
            Diagnostic(
                Code.OUT_OF_RANGE,
                f"the confidence must lie between 0 and 1, not {slot.value:g}",
                span=slot.span,
            )
        )
    return slot.value


def fact_of(row: Row, at: int, confidence: float, model: LoadedModel, context: Context) -> Fact:
    """A fact with the keys by which the model recognises it.

    Args:
        at: the layer.

    Raises:
        LqlRuntimeError: the target is no token.
    """
    ids = model.target_ids(row.target)
    if not ids:
        _refuse(f'the target "{row.target}" holds no token')
    prompts = key_prompts(row.entity, row.relation)
    keys = [model.ffn_input(prompt, at, cancel=context.cancel) for prompt in prompts]
    return Fact(
        layer=at,
        entity=row.entity,
        relation=row.relation,
        target=row.target,
        target_id=ids[0],
        keys=tuple(Vector.of(key) for key in keys),
        confidence=confidence,
        aliases=row.aliases,
    )
