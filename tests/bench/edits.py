"""What edits change and damage, over 100 counterfactual facts that were written down before.

``edits.toml`` holds the facts of eight relations with three paraphrases, five neighbours each and
200 controls. A fixed rule cuts the facts into a half that settings were tuned on and one that is
reported. Every number is given under two scorings: by probability, as the papers do (is the new
target likelier than the truth? for neighbours: the truth likelier than the new target?), and by
greedy generation (is the whole target said? for neighbours: are the tokens of the answer, as many
as the truth has, what they were? and, stricter, are six tokens?). Controls: KL of the next token's
distribution after the edit from before, in nats; single edits are asked a fifth of the controls
each, in turn. Each line is a setting: its batch, then efficacy, paraphrases, neighbours (answer,
six tokens), the same three by probability, KL, seconds of an edit, peak memory.

    python tests/bench/edits.py MODEL.vindex [--mode memit] [--batch 1 10 100] [--sequential]
        [--half report|tune|all] [--facts N] [--controls N] [--curve] [--unrelated]

The vindex gets the sidecars of MODE MEMIT; give it a copy. KNN facts answer by name, not by logits:
their probabilities are 0 or 1, and a prompt that they answer has no KL.
"""

from __future__ import annotations

import argparse
import pickle
import resource
import statistics
import time
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lql
from lql.execute.facts import Row
from lql.execute.memit import guards_of, wish_of
from lql.inference.memit import DEFAULTS, Found, Settings
from lql.inference.model import LoadedModel
from lql.inference.packed import PackedSequence
from lql.inference.statistics import moments_of, own_text, recipe
from lql.inference.tree import TokenTree
from lql.inference.writing import Writer, default_layers
from lql.probes import bystanders, canonical
from lql.session import Session
from vindex.edits import EditView, Float32, Piece, Vector, WriteFact, WrittenFact
from vindex.moments import read_moments, write_moments
from vindex.overlay import Edit
from vindex.store import Vindex

DATA = Path(__file__).with_name("edits.toml")
TOKENS = 6
CHUNK = 48  # prompts that are read in one tree
FIFTH = 5
COLUMNS = (
    *("n", "efficacy", "paraph", "neigh", "neigh6", "P:eff", "P:par", "P:neigh", "KL", "s/edit"),
    "peak MB",
)


@dataclass(frozen=True, slots=True)
class Case:
    """A counterfactual fact and what it is measured with."""

    row: Row
    truth: str
    prompt: str
    paraphrases: tuple[str, ...]
    neighbours: tuple[tuple[str, str], ...]  # prompt, truth


@dataclass(slots=True)
class Scores:
    """Outcomes, one per prompt."""

    efficacy: list[bool] = field(default_factory=list)
    paraphrases: list[bool] = field(default_factory=list)
    neighbours: list[bool] = field(default_factory=list)
    neighbours6: list[bool] = field(default_factory=list)
    likelier: list[bool] = field(default_factory=list)
    likelier_paraphrases: list[bool] = field(default_factory=list)
    likelier_neighbours: list[bool] = field(default_factory=list)
    drift: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def line(self, name: str) -> str:
        shares = (
            *(self.efficacy, self.paraphrases, self.neighbours, self.neighbours6),
            *(self.likelier, self.likelier_paraphrases, self.likelier_neighbours),
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        cells = [f"{len(self.efficacy):7}", *(f"{_mean(share):7.3f}" for share in shares)]
        cells += [f"{_mean(self.drift):7.4f}", f"{_mean(self.seconds):7.2f}", f"{peak:7.0f}"]
        return f"{name:28} {' '.join(cells)}"


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else float("nan")


def cases() -> list[Case]:
    """The 100 facts, in the order of the file."""
    data = tomllib.loads(DATA.read_text(encoding="utf-8"))
    found = []
    for relation, entry in data["relation"].items():
        pairs = entry["pairs"]
        others = pairs[-data["neighbours"] :]
        for number, (entity, truth) in enumerate(pairs[: -data["neighbours"]]):
            at = number + data["shift"]
            while pairs[at % len(pairs)][1] == truth:
                at += 1
            found.append(
                Case(
                    Row(entity, relation, pairs[at % len(pairs)][1]),
                    truth,
                    entry["prompt"].replace("{}", entity),
                    tuple(each.replace("{}", entity) for each in entry["paraphrases"]),
                    tuple((entry["prompt"].replace("{}", name), told) for name, told in others),
                )
            )
    return found


def half(found: Sequence[Case], which: str) -> list[Case]:
    """Every second fact is for tuning."""
    chosen = {"tune": slice(0, None, 2), "report": slice(1, None, 2), "all": slice(None)}
    return list(found[chosen[which]])


def controls(count: int) -> list[str]:
    """The first of the 200 prompts that no fact is about, spread over stems and topics."""
    data = tomllib.loads(DATA.read_text(encoding="utf-8"))["controls"]
    stems, topics = data["stems"], data["topics"]
    pairs = [(stem, topics[(i + j) % len(topics)]) for j in range(len(topics))
             for i, stem in enumerate(stems)]  # fmt: skip
    return [stem.replace("{}", topic) for stem, topic in pairs[:count]]


def unrelated() -> list[str]:
    """500 prompts that ask for no fact: the controls; then three about each fact that name its
    entity without its relation, its relation of another entity, and its relation of nobody."""
    found = controls(200)
    edited = {case.row.entity for case in cases()}
    for number, case in enumerate(cases()):
        entity, relation = case.row.entity, case.row.relation
        names = (name for name in bystanders(entity, relation) if name not in edited)
        others = (canonical(name, relation) for name in names)
        found += [
            next(prompt for prompt in others if prompt not in found),
            f"{number}. " + NAMING[number % len(NAMING)].replace("{}", entity),
            f"{number}. " + SPEAKING[number % len(SPEAKING)].replace("{}", relation),
        ]
    return found


NAMING = ("I heard of {} when I was", "{} and", "A book about {} lay on the", "I like {} because")
SPEAKING = ("The word {} is", "Nobody knows which {} is", "A {} is a", "We spoke of the {} of the")


# --------------------------------------------------------------------------- asking


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a model says after a prompt: the tokens, and log probabilities of the first [V]."""

    ids: tuple[int, ...]
    text: str
    first: Tensor


class Asker:
    """Asks one model many prompts at once; KNN facts have their say one prompt at a time."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model

    def said(self, prompts: Sequence[str], tokens: int = TOKENS) -> list[Answer]:
        """Greedy answers."""
        if self._model.facts:
            return [self._one(prompt, tokens) for prompt in prompts]
        found = []
        for start in range(0, len(prompts), CHUNK):
            found += self._together(prompts[start : start + CHUNK], tokens)
        return found

    def _one(self, prompt: str, tokens: int) -> Answer:
        run = self._model.generate(prompt, max_tokens=tokens)
        ids = tuple(token.token_id for token in run)
        logits = torch.from_numpy(self._model.next_logits(run.encoded.ids))
        if run.facts:
            logits = torch.full_like(logits, -1e9).index_fill(0, torch.tensor(ids[:1]), 0.0)
        return Answer(ids, self._model.encoder.text(ids) if ids else "", logits.log_softmax(0))

    @torch.inference_mode()
    def _together(self, prompts: Sequence[str], tokens: int) -> list[Answer]:
        decoder, encoder = self._model.decoder, self._model.encoder
        tree = TokenTree()
        leaves = []
        for prompt in prompts:
            ids = encoder.ids(prompt)
            leaves.append(tree.join(ids[-1], tree.add(ids[:-1])))
        sequence = PackedSequence(decoder, len(tree) + tokens * len(prompts), tree)
        start, said = 0, [list[int]() for _ in prompts]
        first: Tensor | None = None
        for _ in range(tokens):
            h = sequence.read()
            logprobs = decoder.logits(h[[leaf - start for leaf in leaves]]).log_softmax(-1)
            first = logprobs.clone() if first is None else first
            start = len(tree)
            chosen = logprobs.argmax(-1).tolist()
            leaves = [tree.join(token, leaf) for token, leaf in zip(chosen, leaves, strict=True)]
            for ids, token in zip(said, chosen, strict=True):
                ids.append(token)
        assert first is not None
        return [
            Answer(tuple(ids), encoder.text(ids), row) for ids, row in zip(said, first, strict=True)
        ]

    def likelier(self, prompt: str, one: str, other: str) -> bool:
        """Whether one text is likelier than another after a prompt, token for token on average."""
        scores = []
        for text in (one, other):
            ids = self._model.target_ids(text)
            fact = self._model.infer(prompt, top=1).fact if self._model.facts else None
            if fact is not None:
                scores.append(float(fact.target == text))
            else:
                scores.append(self._model.probability(prompt, ids) ** (1 / len(ids)))
        return scores[0] > scores[1]


class Bench:
    """A model before edits, and how edited ones differ from it."""

    def __init__(self, session: Session, control_prompts: Sequence[str], probabilities: bool):
        self.session = session
        self.model = session.model()
        self._known: dict[tuple[str, int], Answer] = {}
        self._controls = list(control_prompts)
        self._probabilities = probabilities

    def share(self, number: int) -> list[str]:
        """The controls of one of many single edits."""
        return self._controls[number % FIFTH :: FIFTH]

    def before(self, prompts: Sequence[str], tokens: int) -> list[Answer]:
        new = [p for p in dict.fromkeys(prompts) if (p, tokens) not in self._known]
        asker = Asker(self.model)
        self._known |= {
            (prompt, tokens): answer
            for prompt, answer in zip(new, asker.said(new, tokens), strict=True)
        }
        return [self._known[prompt, tokens] for prompt in prompts]

    def score(
        self,
        scores: Scores,
        edited: LoadedModel,
        some: Sequence[Case],
        controls: Sequence[str] | None = None,
    ) -> None:
        """Add what an edited model says about some facts, their neighbours and the controls."""
        controls = self._controls if controls is None else controls
        asker = Asker(edited)
        prompts = [p for case in some for p in (case.prompt, *case.paraphrases)]
        neighbours = dict.fromkeys(pair for case in some for pair in case.neighbours)
        places = [prompt for prompt, _ in neighbours]
        longest = max(len(self.model.target_ids(case.row.target)) for case in some)
        said = dict(zip(prompts, asker.said(prompts, max(TOKENS, longest + 1)), strict=True))
        said |= zip(places, asker.said(places), strict=True)
        for case in some:
            scores.efficacy.append(says(said[case.prompt], case.row.target))
            scores.paraphrases += [says(said[p], case.row.target) for p in case.paraphrases]
        for (prompt, truth), old in zip(neighbours, self.before(places, TOKENS), strict=True):
            count = min(len(self.model.target_ids(truth)), TOKENS)
            scores.neighbours.append(said[prompt].ids[:count] == old.ids[:count])
            scores.neighbours6.append(said[prompt].ids == old.ids)
        after = asker.said(controls, 1)
        for new, old in zip(after, self.before(controls, 1), strict=True):
            scores.drift.append(float((new.first.exp() * (new.first - old.first)).sum()))
        if self._probabilities:
            for case in some:
                target = case.row.target
                scores.likelier.append(asker.likelier(case.prompt, target, case.truth))
                scores.likelier_paraphrases += [
                    asker.likelier(prompt, target, case.truth) for prompt in case.paraphrases
                ]
                scores.likelier_neighbours += [
                    asker.likelier(prompt, truth, target) for prompt, truth in case.neighbours
                    if truth != target
                ]  # fmt: skip


def says(answer: Answer, target: str) -> bool:
    """Whether an answer begins with the whole target."""
    text = answer.text.strip()
    rest = text[len(target) :]
    return text.startswith(target) and not (rest[:1].isalnum() and target[-1:].isalnum())


# --------------------------------------------------------------------------- modes


class Memit:
    """MODE MEMIT. What a fact needs does not depend on what is written beside it, so the search is
    made once for all sizes of batches; its seconds count in each."""

    def __init__(
        self,
        bench: Bench,
        layers: Sequence[int],
        settings: Settings,
        searched: Path | None = None,
    ) -> None:
        self._bench = bench
        self._layers = tuple(layers)
        self.writer = Writer(bench.model, layers, settings)
        self._moments = self._read()
        self._searched = searched
        self._found: dict[Row, tuple[Found, float]] = {}
        if searched is not None and searched.exists():
            self._found = pickle.loads(searched.read_bytes())

    def _read(self) -> dict[int, Float32]:
        vindex = self._bench.session.source
        assert vindex is not None
        directory = Path(vindex.name) if not hasattr(vindex, "path") else vindex.path
        moments = {}
        for layer in self._layers:
            width = self._bench.model.spec.layers[layer].ffn.width
            held = read_moments(directory, layer, width, recipe(), own=True)
            if held is not None:
                moments[layer] = held
        missing = [layer for layer in self._layers if layer not in moments]
        if missing:
            started = time.perf_counter()
            texts = own_text(self._bench.model)
            moments |= moments_of(self._bench.model, texts, missing)
            for layer in missing:
                write_moments(directory, layer, moments[layer], recipe(), own=True)
            print(f"# statistics: {time.perf_counter() - started:.1f} s, kept in the vindex")
        return moments

    def find(self, case: Case) -> tuple[Found, float]:
        if case.row not in self._found:
            started = time.perf_counter()
            found = self.writer.find(wish_of(case.row, self.writer, self._bench.model))
            self._found[case.row] = found, time.perf_counter() - started
            if self._searched is not None:
                self._searched.write_bytes(pickle.dumps(self._found))
        return self._found[case.row]

    def edited(self, some: Sequence[Case], settings: Settings) -> tuple[LoadedModel, float]:
        """The model with some facts written together, and the seconds of each."""
        started = time.perf_counter()
        rows = [case.row for case in some]
        found = [self.find(case) for case in some]
        searched = sum(seconds for _, seconds in found)
        started = time.perf_counter()
        writer = self.writer if settings is DEFAULTS else replace_settings(self.writer, settings)
        pieces = writer.write([f for f, _ in found], guards_of(rows, (), writer), self._moments)
        operations = [
            WriteFact(
                WrittenFact(
                    row.entity,
                    row.relation,
                    row.target,
                    tuple(Piece(at, Vector.of(left), Vector.of(right)) for at, left, right in own),
                )
            )
            for row, own in zip(rows, pieces, strict=True)
        ]
        overlay = self._bench.session.overlay
        view = overlay.with_edit(Edit("bench", tuple(operations)))
        model = edited_model(self._bench, view)
        return model, (time.perf_counter() - started + searched) / len(some)


def replace_settings(writer: Writer, settings: Settings) -> Writer:
    """A writer of the same model and layers."""
    return Writer(writer.model, writer.layers, settings)


def edited_model(bench: Bench, view: EditView) -> LoadedModel:
    """The model as a view edits it."""
    from vindex.edited import EditedVindex

    source = bench.session.source
    assert isinstance(source, Vindex)
    edited = EditedVindex(source, view.features, written=view.written.values())
    return bench.model.over(edited, edited.edited_layers)


def by_statement(bench: Bench, some: Sequence[Case], mode: str) -> tuple[LoadedModel, float]:
    """The model after INSERT of some facts, one statement; the edit is left in the session."""
    rows = ", ".join(f"(:e{i}, :r{i}, :t{i})" for i in range(len(some)))
    values: dict[str, Any] = {}
    for i, case in enumerate(some):
        values |= {f"e{i}": case.row.entity, f"r{i}": case.row.relation, f"t{i}": case.row.target}
    started = time.perf_counter()
    bench.session.run(
        f"INSERT INTO EDGES (entity, relation, target) VALUES {rows} MODE {mode} CHECK NONE;",
        parameters=values,
    )
    model = bench.session.model()
    return model, (time.perf_counter() - started) / len(some)


def batches(some: Sequence[Case], size: int) -> Iterable[list[Case]]:
    """Facts of all relations in each batch."""
    count = max(1, -(-len(some) // size))
    return [list(some[start::count]) for start in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("vindex", type=Path)
    parser.add_argument("--mode", default="memit", choices=("knn", "compose", "memit"))
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 10, 100])
    parser.add_argument("--sequential", action="store_true", help="one statement after another")
    parser.add_argument("--half", default="report", choices=("tune", "report", "all"))
    parser.add_argument("--facts", type=int, help="only so many of the half")
    parser.add_argument("--controls", type=int, default=200)
    parser.add_argument("--unrelated", action="store_true", help="500 prompts, all facts at once")
    parser.add_argument("--tokens", type=int, default=1, help="of each unrelated prompt's text")
    parser.add_argument("--searched", type=Path, help="a file of ours that keeps MEMIT's searches")
    parser.add_argument("--layers", type=int, nargs="*")
    parser.add_argument("--no-probabilities", action="store_true")
    parser.add_argument("--curve", action="store_true", help="MEMIT: other weights, for each batch")
    options = parser.parse_args()

    found = half(cases(), options.half)
    if options.facts:
        step = max(1, len(found) // options.facts)
        found = found[::step][: options.facts]
    with lql.open(options.vindex) as session:
        bench = Bench(session, controls(options.controls), not options.no_probabilities)
        print(f"# {options.vindex.name}, {options.mode}, half {options.half}")
        print(f"{'':28} {' '.join(f'{name:>7}' for name in COLUMNS)}", flush=True)
        memit = None
        if options.mode == "memit" and options.batch:
            layers = options.layers or default_layers(bench.model.spec.num_layers)
            memit = Memit(bench, layers, DEFAULTS, options.searched)
        for size in options.batch:
            # A batch of all facts is what the title says only with all of them.
            told = cases() if size >= 100 and not options.facts else found
            for name, settings in (CURVE if options.curve else {"": DEFAULTS}).items():
                scores = Scores()
                for number, some in enumerate(batches(told, size), 1):
                    if memit is not None:
                        model, seconds = memit.edited(some, settings)
                    else:
                        model, seconds = by_statement(bench, some, options.mode.upper())
                    bench.score(scores, model, some, bench.share(number) if size == 1 else None)
                    scores.seconds.append(seconds)
                    session.discard_edits()
                    if number % 10 == 0:
                        print(scores.line("#   so far"), flush=True)
                print(scores.line(f"batches of {size} {name}".strip()), flush=True)
        if options.sequential:
            one_after_another(bench, found, options.mode.upper())
        if options.unrelated:
            by_statement(bench, cases(), options.mode.upper())
            asked = unrelated()
            asker = Asker(session.model())
            after, before = (one(asked, options.tokens) for one in (asker.said, bench.before))
            told = zip(asked, after, before, strict=True)
            changed = [prompt for prompt, new, old in told if new.ids != old.ids]
            print(f"100 facts change {len(changed)} of {len(asked)} unrelated prompts", changed[:5])
            session.discard_edits()


def one_after_another(bench: Bench, some: Sequence[Case], mode: str) -> None:
    """Edits by one statement each; all so far are measured after the 1st, 10th, 50th and 100th."""
    seconds = []
    for number, case in enumerate(some, 1):
        model, each = by_statement(bench, [case], mode)
        seconds.append(each)
        if number in (1, 10, 50, 100, len(some)):
            scores = Scores(seconds=seconds)
            bench.score(scores, model, some[:number])
            print(scores.line(f"{number} one after another"), flush=True)
    bench.session.discard_edits()


CURVE = {
    "": DEFAULTS,
    "text x 1/10": replace(DEFAULTS, weight=DEFAULTS.weight / 10),
    "text x 10": replace(DEFAULTS, weight=DEFAULTS.weight * 10),
    "others x 0": replace(DEFAULTS, guard=0.0),
    "others x 1/5": replace(DEFAULTS, guard=DEFAULTS.guard / 5),
    "others x 5": replace(DEFAULTS, guard=DEFAULTS.guard * 5),
    "null space": replace(DEFAULTS, threshold=0.1),
}
"""What may weigh more or less in the closed form: ordinary text, other entities, or a hard wall."""

if __name__ == "__main__":
    main()
