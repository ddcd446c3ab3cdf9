"""How often DESCRIBE says something true, for entities and facts that were written down before.

``entities.toml`` holds 30 entities of each of eight kinds with words that belong to them. A row is
a hit when a word of its target is one of those. ``chance@10`` is how often the rows of another
entity of the same kind hit: what an answer that knew only the kind would score. A fixed hash cuts
the entities into a half that the catalogue and the thresholds were tuned on, and one that was only
ever reported.

    python tests/bench/describe.py MODEL.vindex … [--evidence answer] [--half report]
"""

from __future__ import annotations

import argparse
import hashlib
import re
import statistics
import time
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import lql
from lql import ast
from lql.results.browse import DescribeResult
from vindex.kept_answers import FILE

ENTITIES = Path(__file__).parent / "entities.toml"
ROWS = 10
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Scores:
    """Means over entities; ``seconds`` is the median of a statement."""

    count: int
    hit1: float
    hit5: float
    hit10: float
    mrr: float
    chance10: float
    rows: float
    seconds: float

    def line(self, name: str) -> str:
        return (
            f"{name:18} {self.count:4}  {self.hit1:5.3f}  {self.hit5:5.3f}  {self.hit10:6.3f}  "
            f"{self.mrr:5.3f}  {self.chance10:9.3f}  {self.rows:4.1f}  {self.seconds:5.2f}"
        )


HEADER = f"{'':18} {'n':>4}  hit@1  hit@5  hit@10    MRR  chance@10  rows      s"


def tuned_on(entity: str) -> bool:
    """Whether an entity belongs to the half that was tuned on."""
    return hashlib.sha256(entity.encode()).digest()[0] % 2 == 0


def fold(text: str) -> str:
    apart = unicodedata.normalize("NFKD", text)
    return "".join(each for each in apart if not unicodedata.combining(each)).casefold()


def words(text: str) -> frozenset[str]:
    """The words of a text, and the text itself, without case and accents."""
    folded = fold(text)
    return frozenset((*_WORD.findall(folded), folded))


def score(
    facts: Mapping[str, frozenset[str]],
    answers: Mapping[str, Sequence[str]],
    seconds: Mapping[str, float],
) -> Scores:
    """Score the targets of entities of one kind, in order of their rows."""
    said = {name: [words(target) for target in rows[:ROWS]] for name, rows in answers.items()}

    def hits(entity: str, rows_of: str) -> list[bool]:
        return [not facts[entity].isdisjoint(row) for row in said[rows_of]]

    def mean(values: Sequence[float]) -> float:
        return statistics.fmean(values) if values else 0.0

    own = {name: hits(name, name) for name in said}
    return Scores(
        count=len(said),
        hit1=mean([any(own[name][:1]) for name in said]),
        hit5=mean([any(own[name][:5]) for name in said]),
        hit10=mean([any(own[name]) for name in said]),
        mrr=mean([next((1 / n for n, hit in enumerate(own[e], 1) if hit), 0.0) for e in said]),
        chance10=mean([mean([any(hits(e, other)) for other in said if other != e]) for e in said]),
        rows=mean([len(rows) for rows in said.values()]),
        seconds=statistics.median(seconds[name] for name in said) if said else 0.0,
    )


def together(scores: Sequence[Scores]) -> Scores:
    """The mean over all entities of several kinds."""
    total = sum(each.count for each in scores)
    names = ("hit1", "hit5", "hit10", "mrr", "chance10", "rows")
    means = {n: sum(getattr(s, n) * s.count for s in scores) / total for n in names}
    return Scores(count=total, seconds=statistics.median(s.seconds for s in scores), **means)


def measure(session: lql.Session, evidence: ast.Evidence, half: str) -> dict[str, Scores]:
    """Describe the entities of a half; scores by kind."""
    found: dict[str, Scores] = {}
    for kind, entities in tomllib.loads(ENTITIES.read_text(encoding="utf-8")).items():
        chosen = [e for e in entities if half == "all" or tuned_on(e) == (half == "tuning")]
        answers: dict[str, list[str]] = {}
        seconds: dict[str, float] = {}
        for entity in chosen:
            started = time.perf_counter()
            result = session.execute(
                ast.Describe(ast.Text(entity), limit=ast.Integer(ROWS), evidence=evidence)
            )
            seconds[entity] = time.perf_counter() - started
            assert isinstance(result, DescribeResult)
            answers[entity] = [edge.target for edge in result.edges]
        facts = {
            entity: frozenset(part for word in entities[entity].split() for part in words(word))
            for entity in chosen
        }
        found[kind] = score(facts, answers, seconds)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("vindex", nargs="+")
    parser.add_argument("--evidence", choices=["answer", "static"], action="append")
    parser.add_argument("--half", choices=["tuning", "report", "all"], action="append")
    options = parser.parse_args()
    for path in options.vindex:
        (Path(path) / FILE).unlink(missing_ok=True)  # the model is to be asked
        with lql.connect(path) as session:
            for evidence in options.evidence or ["answer", "static"]:
                for half in options.half or ["tuning", "report"]:
                    scores = measure(session, ast.Evidence[evidence.upper()], half)
                    print(f"\n{path}, evidence {evidence}, {half} half\n{HEADER}")
                    for kind, each in scores.items():
                        print(each.line(kind))
                    print(together(list(scores.values())).line("together"), flush=True)


if __name__ == "__main__":
    main()
