"""Whether WHERE relation = "word" finds the relation that the word means, and refuses other words.

    python -m tests.bench.relation_words MODEL.vindex … [--all]

``relation_words.toml`` holds words with the relation that each means, and words that mean none. A
word that is taken for another relation than that, or for one though it means none, is a false
accept; one that is not taken for any though it means one is refused. ``--all`` prints every word.
"""

from __future__ import annotations

import argparse
import time
import tomllib
from pathlib import Path

import lql
from lql.context import Context
from lql.execute.asking import asking
from lql.execute.meaning import taken
from lql.session import Session

WORDS = Path(__file__).with_name("relation_words.toml")


def measure(session: Session, words: dict[str, list[list[str]]], *, every: bool) -> str:
    """The counts of one half, as a line."""
    describer = asking("SELECT", Context(session._state)).describer
    hits = wrong = refused = told = nonsense = 0
    for kind, pairs in words.items():
        relations = [each.name for each in describer.catalogue.relations if each.suits(kind)]
        for word, meant in pairs:
            best, *rest = describer.meanings(word, relations, kind)
            found = best.relation if taken(best, rest) else ""
            told += bool(meant)
            nonsense += not meant
            hits += bool(meant) and found == meant
            wrong += bool(found) and found != meant
            refused += bool(meant) and not found
            if every:
                mark = " " if found == meant else "!"
                print(
                    f"  {mark} {kind:<9} {word:<20} {meant or '-':<18} {best.relation:<18} "
                    f"{best.confidence:.2f} ({best.similarity:+.2f} {best.agreement:+.2f} "
                    f"{best.called:+.2f}), {rest[0].relation} {rest[0].confidence:.2f}"
                )
    return (
        f"{hits} of {told} found, {refused} refused; {wrong} false accepts "
        f"({nonsense} of the words mean none)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("vindex", nargs="+", type=Path)
    parser.add_argument("--all", action="store_true")
    options = parser.parse_args()
    halves = tomllib.loads(WORDS.read_text(encoding="utf-8"))
    for path in options.vindex:
        with lql.open(path) as session:
            for name, words in halves.items():
                started = time.perf_counter()
                line = measure(session, words, every=options.all)
                print(f"{path} {name}: {line}; {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
