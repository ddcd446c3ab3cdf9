"""What DESCRIBE keeps between statements: questions, and what is usually answered to them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lql.catalogue import Catalogue, Relation, catalogue
from lql.context import Context
from vindex.answers import AnswerBackground, read_background, write_background
from vindex.errors import VindexError

if TYPE_CHECKING:
    from pathlib import Path

    from lql.inference.describing import Describer, KindScore
    from lql.inference.facts import Fact

#: Changes with the way backgrounds are computed, so that stored ones are computed anew.
METHOD = "1"
_KINDS = "kinds"


@dataclass(slots=True)
class Asking:
    """The questions to one model and their backgrounds; a vindex keeps those of the catalogue.

    Attributes:
        describer: asks the catalogue's questions.
        own: asks the user's, for the relations of ``defined``.
    """

    describer: Describer
    made_for: str
    directory: Path | None
    backgrounds: dict[str, AnswerBackground] = field(default_factory=dict)
    defined: tuple[Relation, ...] = ()
    own: Describer | None = None
    own_backgrounds: dict[str, AnswerBackground] = field(default_factory=dict)


def asking(title: str, context: Context) -> Asking:
    """What is kept for the model in use.

    Raises:
        LqlRuntimeError, LevelTooLow: there is no model to ask.
    """
    from vindex.store import Vindex

    model = context.model(title)
    held = context.state.asking
    if held is None:
        known = catalogue()
        source = context.source()
        edited = context.state.overlay.view.changes_weights
        held = Asking(
            describer=model.describer(known),
            made_for=hashlib.sha256(f"{METHOD} {known.digest}".encode()).hexdigest(),
            directory=source.path if isinstance(source, Vindex) and not edited else None,
        )
        context.state.asking = held
    defined = tuple(context.state.defined.values())
    if defined != held.defined:
        held.defined, held.own_backgrounds, held.own = defined, {}, None
        if defined:
            held.own = model.describer(catalogue().with_relations(defined))
    return held


def known_catalogue() -> Catalogue:
    """The catalogue that is asked, without a model."""
    return catalogue()


_LONGEST = 64  # tokens of a name


def is_name(text: str, held: Asking) -> bool:
    """Whether a text can be an entity to ask about: letters or digits, and no longer than names."""
    if not any(map(str.isalnum, text)):
        return False
    return len(text) <= 2000 and held.describer.tokens(text) <= _LONGEST


def facts(
    entity: str, held: Asking, context: Context, least: float = 0.0
) -> tuple[list[Fact], tuple[KindScore, ...]]:
    """What the model says about an entity, best first, and the kinds it was asked as.

    Args:
        least: facts of a lower score are not wanted.
    """
    describer = held.describer
    describer.set_usual(_background(held, _KINDS, context))
    kinds = describer.likely(describer.kinds(entity, cancel=context.cancel))
    names = [score.kind for score in kinds]
    known = {name: _background(held, name, context) for name in names}
    groups = [describer.facts(entity, kinds, known, least=least, cancel=context.cancel)]
    if held.own is not None:
        suited = tuple(score for score in kinds if held.own.catalogue.questions(score.kind))
        own = {score.kind: _own_background(held, held.own, score.kind, context) for score in suited}
        groups.append(held.own.facts(entity, suited, own, least=least, cancel=context.cancel))
    return describer.merged(groups), kinds


@dataclass(frozen=True, slots=True)
class Questions:
    """How one relation is asked for.

    Attributes:
        relation: with its templates.
        describer: asks them.
        kinds: of entities that it suits.
        held: what is kept for the model.
    """

    relation: Relation
    describer: Describer
    kinds: tuple[str, ...]
    held: Asking

    @staticmethod
    def of(relation: Relation, held: Asking, context: Context) -> Questions:
        """The catalogue's describer for a relation of the catalogue, else one of its own."""
        describer = held.describer
        if relation not in describer.catalogue.relations:
            only = describer.catalogue.with_relations((relation,))
            describer = context.model("PROBE").describer(only)
        kinds = tuple(kind for kind in describer.catalogue.kinds if relation.suits(kind))
        return Questions(relation, describer, kinds, held)

    def background(self, kind: str, context: Context) -> AnswerBackground:
        """Of all that the describer asks about a kind."""
        if self.describer is self.held.describer:
            return _background(self.held, kind, context)
        return _computed(self.describer, kind, context)


def kinds_background(held: Asking, context: Context) -> AnswerBackground:
    """Of the question what kind of thing an entity is."""
    return _background(held, _KINDS, context)


def _background(held: Asking, kind: str, context: Context) -> AnswerBackground:
    """Of a kind, or of the question what kind an entity is: kept, stored, or computed now."""
    known = held.backgrounds.get(kind)
    if known is None and held.directory is not None:
        known = read_background(held.directory, kind, held.made_for)
    if known is None:
        known = _computed(held.describer, kind, context)
        if held.directory is not None:
            try:
                write_background(held.directory, kind, held.made_for, known)
            except (OSError, VindexError) as error:
                held.directory = None  # nor will the next one
                context.note(
                    "what is usually answered could not be stored in the vindex and is kept for "
                    f"this session only: {error}"
                )
    held.backgrounds[kind] = known
    return known


def _own_background(held: Asking, own: Describer, kind: str, context: Context) -> AnswerBackground:
    if kind not in held.own_backgrounds:
        held.own_backgrounds[kind] = _computed(own, kind, context)
    return held.own_backgrounds[kind]


def _computed(describer: Describer, kind: str, context: Context) -> AnswerBackground:
    known: Catalogue = describer.catalogue
    kinds = known.kinds.values()
    if kind == _KINDS:
        context.progress.phase(
            "what kinds of entities there are", sum(len(k.background) for k in kinds), ""
        )
        return describer.usual(advance=context.progress.advance, cancel=context.cancel)
    total = len(known.kinds[kind].background) + len(known.made_up)
    context.progress.phase(f"what is said of any {known.kinds[kind].noun.lower()}", total, "")
    return describer.background(kind, advance=context.progress.advance, cancel=context.cancel)
