"""Which stored facts a text asks for, by its words alone: the verified route of KNN facts.

Residuals of one template are alike whatever entity stands in it, so a cosine cannot tell Hungary's
capital from Austria's. The words can. A fact is asked for where

* the text names its entity or an alias: as whole words, the longest name that fits, and not as a
  part of a longer capitalised name (``New Guinea`` does not name Guinea);
* the last sentence names nothing else after it: ``Hungary borders Austria. The capital of Austria
  is`` is about Austria, and ``Hungary borders Austria. Its capital is`` about Hungary;
* the sentence with that name, or the last one, names the relation;
* the target has not been said since, and the text does not end where the entity itself comes next
  (``What is the capital of Hungary? The capital of``).

Importing this module does not import torch.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence

from vindex.edits import Fact, plain_relation

_SHORT = 3  # names up to this length count only in their own case: US is no us
_SENTENCE_END = re.compile(r"[.!?。！？]+(?=\s|$)|\n+|<\|[^|<>]*\|>")
_WORD = re.compile(r"\w+")
_OPENS = re.compile(r"(?:^|[.!?:。！？\n\"“‘(\[>|])\s*$")
_FILLERS = frozenset(
    {"a", "an", "at", "by", "for", "from", "has", "have", "in", "is", "its", "of", "on", "or"}
    | {"the", "to", "was", "with"}
)
_NAME_OPENERS = frozenset(
    {"central", "east", "eastern", "great", "inner", "los", "lower", "new", "north", "northern"}
    | {"old", "outer", "papua", "saint", "san", "south", "southern", "st", "republic", "united"}
    | {"upper", "west", "western"}
)


_OPENERS = _FILLERS | frozenset(
    {"and", "as", "but", "could", "do", "does", "everyone", "he", "her", "here", "his", "how", "i"}
    | {
        "if",
        "it",
        "my",
        "name",
        "now",
        "our",
        "please",
        "say",
        "she",
        "so",
        "tell",
        "that",
        "their",
    }
    | {"then", "there", "these", "they", "this", "those", "thus", "today", "we", "what", "when"}
    | {"where", "which", "who", "whose", "why", "you", "your", "answer", "question", "yes", "no"}
)


class Names:
    """The names of some facts' entities, ready to be looked for.

    Args:
        facts: any number.
    """

    def __init__(self, facts: Sequence[Fact]) -> None:
        self._facts: dict[str, list[Fact]] = defaultdict(list)
        exact: set[str] = set()
        folded: set[str] = set()
        for fact in facts:
            for name in (fact.entity, *fact.aliases):
                plain = _plain(name)
                if not plain:
                    continue
                (exact if len(plain) <= _SHORT else folded).add(plain)
                self._facts[_key(plain)].append(fact)
        parts = [(name, re.escape(name)) for name in exact]
        parts += [(name, f"(?i:{re.escape(name)})") for name in folded]
        parts.sort(key=lambda part: -len(part[0]))
        self._pattern = re.compile("|".join(part for _, part in parts)) if parts else None

    def asked_for(self, text: str) -> list[Fact]:
        """The facts that the end of a text asks for; see the module."""
        if self._pattern is None:
            return []
        text = unicodedata.normalize("NFC", text)
        last = next(reversed([m for m in self._pattern.finditer(text) if _is_whole(text, m)]), None)
        if last is None:
            return []
        context = _context(text, last)
        rest = text[last.end() :]
        found = self._facts[_key(last[0])]
        return [
            fact
            for fact in found
            if _names_relation(context, fact)
            and not _other_name(text, last.end(), fact)
            and not _awaits_entity(text, fact)
            and _plain(fact.target).casefold() not in rest.casefold()
        ]


def relation_words(relation: str) -> list[str]:
    """The words of a relation that a prompt must hold, in lower case: ``capital-of``: capital."""
    words = [word.casefold() for word in _WORD.findall(plain_relation(relation))]
    return [word for word in words if word not in _FILLERS] or words


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", " ".join(name.split()))


def _key(name: str) -> str:
    return name if len(name) <= _SHORT else name.casefold()


def _is_whole(text: str, match: re.Match[str]) -> bool:
    start, end = match.span()
    if _joined(text, start) or _joined(text, end):
        return False
    before = re.search(r"(\w+)(?P<gap>-| )$", text[:start])
    after = re.match(r"(?P<gap>-| )(\w+)", text[end:])
    if (before and before["gap"] == "-") or (after and after["gap"] == "-"):
        return False
    if after and after[2][0].isupper() and match[0][:1].isupper():
        return _is_function(text, end, after[2])
    if before and before[1][0].isupper() and match[0][:1].isupper():
        opens = _OPENS.search(text[: before.start()]) is not None
        return opens and before[1].casefold() not in _NAME_OPENERS
    return True


def _is_function(text: str, end: int, word: str) -> bool:
    """Whether a capitalised word right after a name is a heading's, as in ``Hungary Capital:``."""
    return text[end + 1 + len(word) :].lstrip().startswith(":")


def goes_on(left: str, right: str) -> bool:
    """Whether a word goes on from one text to the next. Scripts without spaces have no words."""
    return bool(left and right) and _is_spaced(left[-1]) and _is_spaced(right[0])


def _joined(text: str, place: int) -> bool:
    """Whether a word goes on across a place."""
    return goes_on(text[:place], text[place:])


def _is_spaced(char: str) -> bool:
    """Whether a character belongs to a word of a script that puts spaces between words."""
    if not (char.isalnum() or char == "_"):
        return False
    name = unicodedata.name(char, "")
    return not name.startswith(("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR"))


def _context(text: str, match: re.Match[str]) -> str:
    """The sentence that holds a name, and the last sentence."""
    ends = [(m.start(), m.end()) for m in _SENTENCE_END.finditer(text) if text[m.end() :].strip()]
    start = max((end for _, end in ends if end <= match.start()), default=0)
    stop = min((begin for begin, _ in ends if begin >= match.end()), default=len(text))
    last = ends[-1][1] if ends else 0
    return text[start:stop] + " " + text[max(last, stop) :]


def _names_relation(context: str, fact: Fact) -> bool:
    words = {word.casefold() for word in _WORD.findall(context)}
    return all(words & _forms(word) for word in relation_words(fact.relation))


def _forms(word: str) -> set[str]:
    """A word in singular and plural."""
    forms = {word, word + "s", word + "es"}
    if word.endswith("y"):
        forms.add(word[:-1] + "ies")
    if word.endswith("ies"):
        forms.add(word[:-3] + "y")
    if word.endswith("s"):
        forms |= {word[:-1], word.removesuffix("es")}
    return forms


def _other_name(text: str, start: int, fact: Fact) -> bool:
    """Whether the last sentence names something else, after ``start`` where a name ended.

    A word that opens a sentence is capitalised whatever it is, so common openers are no names.
    """
    own = set(_words(fact.relation, fact.entity, *fact.aliases))
    own |= {form for word in relation_words(fact.relation) for form in _forms(word)}
    ends = [m.end() for m in _SENTENCE_END.finditer(text) if text[m.end() :].strip()]
    for match in _WORD.finditer(text, max(start, ends[-1] if ends else 0)):
        word = match[0]
        folded = word.casefold()
        if len(word) < 2 or not word[0].isupper() or folded in own:
            continue
        opens = _OPENS.search(text[: match.start()]) is not None
        labels = text[match.end() :].lstrip().startswith(":")
        if not (opens and (folded in _OPENERS or folded.endswith("ly") or labels)):
            return True
    return False


def _awaits_entity(text: str, fact: Fact) -> bool:
    """Whether a text ends where the entity comes next, as in ``The capital of``."""
    words = relation_words(fact.relation)
    if not words:
        return False
    forms = "|".join(sorted(map(re.escape, _forms(words[-1]))))
    pattern = rf"\b(?i:{forms})\s+(?:at|by|for|from|in|of|to)(?:\s+the)?\s*$"
    return re.search(pattern, text) is not None


def _words(*texts: str) -> Iterator[str]:
    for text in texts:
        yield from (word.casefold() for word in _WORD.findall(text))
