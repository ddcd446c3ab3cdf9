"""What each statement looks like and does: for error messages and for HELP.

``tests/unit/test_grammar.py`` holds every entry against the grammar: there is one for every
statement, and every example parses to a statement of that kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StatementHelp:
    """One statement for people.

    Attributes:
        title: its leading keywords, as in the AST class's ``title``.
        syntax: one line; ``[ ]`` optional, ``|`` or, clauses in any order except in SELECT.
        meaning: one line.
        example: one statement that parses.
    """

    title: str
    syntax: str
    meaning: str
    example: str


_CHANGES = '[ABLATE FEATURE l:f|HEAD l.h|LAYER l, …] [STEER "text" [- "text"] BY x AT LAYER n, …]'
_EXPLAINED = (
    "[TOP n] [LAYERS a-b] [SYNTAX|KNOWLEDGE|OUTPUT|ALL LAYERS] [RELATIONS ONLY] "
    "[WITH ATTENTION] [VERBOSE]"
)

STATEMENT_HELP: tuple[StatementHelp, ...] = (
    StatementHelp(
        "EXTRACT",
        'EXTRACT MODEL "model" INTO "out.vindex" [WITH BROWSE|ATTENTION|INFERENCE|ALL] '
        "[DTYPE F16|BF16|F32] [QUANT Q4K|NONE] [DROP_GATE_VECTORS] [LAYERS a-b] [COMPONENTS …] "
        "[OVERWRITE|RESUME]",
        "write a model's weights into a vindex",
        'EXTRACT MODEL "HuggingFaceTB/SmolLM2-135M-Instruct" INTO "smollm2.vindex" WITH INFERENCE',
    ),
    StatementHelp(
        "USE",
        'USE "file.vindex" [CONFIG "checkpoint"] | USE MODEL "model" | USE REMOTE "url"',
        "open a vindex; the statements after it ask this one",
        'USE "smollm2.vindex"',
    ),
    StatementHelp(
        "USE MODEL",
        'USE MODEL "model" [AUTO_EXTRACT]',
        "run a checkpoint without extracting it",
        'USE MODEL "HuggingFaceTB/SmolLM2-135M-Instruct"',
    ),
    StatementHelp(
        "USE REMOTE",
        'USE REMOTE "url"',
        "send statements to a server",
        'USE REMOTE "http://localhost:8080"',
    ),
    StatementHelp(
        "COMPILE INTO VINDEX",
        'COMPILE CURRENT|"source.vindex" INTO VINDEX "out.vindex" '
        "[ON CONFLICT LAST_WINS|HIGHEST_CONFIDENCE|FAIL] [OVERWRITE]",
        "write a vindex with all edits in its weights",
        'COMPILE CURRENT INTO VINDEX "edited.vindex" ON CONFLICT FAIL',
    ),
    StatementHelp(
        "COMPILE INTO MODEL",
        'COMPILE CURRENT|"source.vindex" INTO MODEL "out" [FORMAT SAFETENSORS|GGUF] '
        "[DTYPE F16|BF16|F32] [QUANT Q8_0|Q4_K] "
        "[ON CONFLICT LAST_WINS|HIGHEST_CONFIDENCE|FAIL] [OVERWRITE]",
        "write a checkpoint with all edits in its weights",
        'COMPILE CURRENT INTO MODEL "edited/" FORMAT SAFETENSORS',
    ),
    StatementHelp(
        "DIFF",
        'DIFF "a.vindex"|CURRENT "b.vindex"|CURRENT [LAYER n] [RELATION "r"] [LIMIT n] '
        '[INTO PATCH "file.vlp"]',
        "compare two vindexes feature by feature",
        'DIFF "base.vindex" CURRENT LIMIT 20',
    ),
    StatementHelp(
        "MERGE",
        'MERGE "source.vindex" [INTO "target.vindex"] '
        "[ON CONFLICT KEEP_SOURCE|KEEP_TARGET|HIGHEST_CONFIDENCE]",
        "bring the edges of one vindex into another",
        'MERGE "medical.vindex" ON CONFLICT KEEP_TARGET',
    ),
    StatementHelp("STATS", 'STATS ["file.vindex"]', "count what a vindex holds", "STATS"),
    StatementHelp(
        "SHOW MODELS",
        "SHOW MODELS [LIMIT n] [OFFSET n]",
        "list the vindexes in this directory",
        "SHOW MODELS",
    ),
    StatementHelp(
        "SHOW LAYERS",
        "SHOW LAYERS [a-b] [LIMIT n] [OFFSET n]",
        "list layers with their features",
        "SHOW LAYERS 0-10",
    ),
    StatementHelp(
        "SHOW FEATURES",
        "SHOW FEATURES layer [WHERE condition] [LIMIT n] [OFFSET n]",
        "list the features of a layer with the tokens they write",
        'SHOW FEATURES 26 WHERE token = "Paris" LIMIT 5',
    ),
    StatementHelp(
        "SHOW ENTITIES",
        "SHOW ENTITIES [layer] [LIMIT n] [OFFSET n]",
        "list what features respond to",
        "SHOW ENTITIES 26 LIMIT 20",
    ),
    StatementHelp(
        "SHOW RELATIONS",
        "SHOW RELATIONS [AT LAYER n] [WITH EXAMPLES] [BRIEF|VERBOSE|RAW] [LIMIT n] [OFFSET n]",
        "list the relations a vindex knows",
        "SHOW RELATIONS AT LAYER 26 WITH EXAMPLES",
    ),
    StatementHelp(
        "SHOW PATCHES", "SHOW PATCHES [LIMIT n] [OFFSET n]", "list applied patches", "SHOW PATCHES"
    ),
    StatementHelp(
        "SHOW EDITS", "SHOW EDITS [LIMIT n] [OFFSET n]", "list the edits in effect", "SHOW EDITS"
    ),
    StatementHelp(
        "SHOW COMPACT STATUS",
        "SHOW COMPACT STATUS",
        "say how many edits wait for COMPACT",
        "SHOW COMPACT STATUS",
    ),
    StatementHelp(
        "DESCRIBE",
        'DESCRIBE "entity" [EVIDENCE ANSWER|STATIC|ALL] [AT LAYER n] [LAYERS a-b|ALL] '
        "[SYNTAX|KNOWLEDGE|OUTPUT|ALL LAYERS] [RELATIONS ONLY] [BRIEF|VERBOSE|RAW] [CAUSAL] "
        "[LIMIT n]",
        "list what the model says about an entity, with the evidence for each row",
        'DESCRIBE "France" VERBOSE',
    ),
    StatementHelp(
        "DEFINE RELATION",
        'DEFINE RELATION "name" TEMPLATE "… {entity} …" [, "…"] [KIND "kind"]',
        "add a question to what DESCRIBE asks",
        'DEFINE RELATION "anthem" TEMPLATE "The anthem of {entity} is" KIND "country"',
    ),
    StatementHelp(
        "PROBE RELATION",
        'PROBE RELATION "name" FOR ("entity", …) | FROM "entities.txt" '
        '[TEMPLATE "… {entity} …", …] [TOP n] [BATCH n]',
        "ask the model one question about many entities and keep the answers",
        'PROBE RELATION "capital" FOR ("France", "Japan", "Kenya")',
    ),
    StatementHelp(
        "LABEL FEATURES",
        'LABEL FEATURES FROM PROBES [MIN SUPPORT n] | FROM "feature_labels.json"',
        "name features by the relations whose answers they carry",
        "LABEL FEATURES FROM PROBES MIN SUPPORT 3",
    ),
    StatementHelp(
        "WALK",
        'WALK "prompt" [TOP n] [LAYERS a-b|ALL] [MODE HYBRID|PURE|DENSE] [COMPARE]',
        "list the features that a prompt's last token activates",
        'WALK "The capital of France is" TOP 10 LAYERS 20-29',
    ),
    StatementHelp(
        "INFER",
        'INFER "prompt" [TOP n] [COMPARE] [CHAT|RAW] [ROUTE VERIFY [FALLBACK] [TOPK n] [EXIT]] '
        + _CHANGES,
        "predict the next token",
        'INFER "The capital of France is" TOP 5',
    ),
    StatementHelp(
        "EXPLAIN WALK",
        f'EXPLAIN WALK "prompt" {_EXPLAINED}',
        "show layer by layer which features a prompt activates",
        'EXPLAIN WALK "The capital of France is" LAYERS 20-29',
    ),
    StatementHelp(
        "EXPLAIN INFER",
        f'EXPLAIN INFER "prompt" {_EXPLAINED} [CHAT|RAW]',
        "show layer by layer how a prediction comes about",
        'EXPLAIN INFER "The capital of France is" TOP 5',
    ),
    StatementHelp(
        "EXPLAIN",
        "EXPLAIN [ANALYZE] statement",
        "show what a statement would do and cost; ANALYZE runs and measures it",
        'EXPLAIN DESCRIBE "France"',
    ),
    StatementHelp(
        "TRACE",
        'TRACE ["prompt"] [FOR "answer"] [DECOMPOSE] [HEADS|FEATURES] [LAYERS a-b] '
        '[POSITIONS LAST|ALL|n, a-b, …] [SAVE "file" [OVERWRITE]] [CHAT|RAW] [LIMIT n] '
        f'[DIFF "prompt" [PATCH AT LAYER n]] {_CHANGES}',
        "follow a prediction through the layers",
        'TRACE "The capital of France is" FOR "Paris"',
    ),
    StatementHelp(
        "USE TRACE",
        'USE TRACE "file"',
        "open a saved trace for TRACE without a prompt",
        'USE TRACE "france.trace"',
    ),
    StatementHelp(
        "SELECT",
        "SELECT [DISTINCT] *|column, … FROM EDGES|FEATURES|ENTITIES|RELATIONS|LAYERS|TOKENS|"
        "PATCHES|MODELS|TRACE [AS name] [[LEFT] JOIN table ON a = b | USING (column)] "
        '[NEAREST TO "entity" AT LAYER n] [WHERE condition [EXACT]] [GROUP BY column, …] '
        "[HAVING condition] [ORDER BY column [ASC|DESC], …] [LIMIT n] [OFFSET n]",
        "query the model's tables",
        'SELECT layer, feature, logit FROM FEATURES WHERE token = "Paris" ORDER BY logit DESC',
    ),
    StatementHelp(
        "COPY",
        'COPY (SELECT …) TO "file.parquet|csv|json" [OVERWRITE]',
        "write the rows of a SELECT to a file",
        'COPY (SELECT * FROM FEATURES WHERE layer = 20) TO "layer20.parquet"',
    ),
    StatementHelp(
        "INSERT",
        'INSERT INTO EDGES (entity, relation, target) VALUES ("e", "r", "t"), … | FROM "file.csv" '
        "[AT LAYER n|AT LAYERS a-b] [CONFIDENCE x] [ALPHA x] [MODE KNN|COMPOSE|MEMIT] [EVICT] "
        '[STATISTICS FROM "text.txt"] [ALIAS "name", …] '
        "[CHECK NONE|QUICK|FULL] [REQUIRE measure >= x AND …]",
        "teach facts",
        "INSERT INTO EDGES (entity, relation, target) "
        'VALUES ("Atlantis", "capital", "Poseidon") MODE COMPOSE',
    ),
    StatementHelp(
        "DELETE",
        "DELETE FROM EDGES|FEATURES WHERE condition [LIMIT n | ALL] [CHECK NONE|QUICK|FULL] "
        "[REQUIRE measure >= x AND …]",
        "remove facts, inserted and the model's own, switch features off",
        'DELETE FROM EDGES WHERE entity = "Atlantis"',
    ),
    StatementHelp(
        "UPDATE",
        "UPDATE EDGES|FEATURES SET column = value, … WHERE condition [LIMIT n | ALL] "
        "[CHECK NONE|QUICK|FULL] [REQUIRE measure >= x AND …]",
        "change facts, inserted and the model's own, turn features to other tokens",
        'UPDATE EDGES SET target = "London" WHERE entity = "John Coyle"',
    ),
    StatementHelp(
        "REBALANCE",
        "REBALANCE [UNTIL CONVERGED] [MAX n] [FLOOR x] [CEILING x]",
        "even out the strength of composed facts",
        "REBALANCE UNTIL CONVERGED MAX 16",
    ),
    StatementHelp(
        "COMPACT MINOR", "COMPACT MINOR", "compose stored facts into layers", "COMPACT MINOR"
    ),
    StatementHelp(
        "COMPACT MAJOR",
        "COMPACT MAJOR [FULL | WITH LAMBDA = x]",
        "fold composed facts into the weights",
        "COMPACT MAJOR WITH LAMBDA = 0.001",
    ),
    StatementHelp(
        "BEGIN PATCH", 'BEGIN PATCH "file.vlp"', "record edits", 'BEGIN PATCH "fixes.vlp"'
    ),
    StatementHelp(
        "SAVE PATCH",
        'SAVE PATCH ["file.vlp"] [OVERWRITE]',
        "write recorded edits",
        'SAVE PATCH "fixes.vlp"',
    ),
    StatementHelp(
        "APPLY PATCH",
        'APPLY PATCH "file.vlp" [FORCE]',
        "apply recorded edits",
        'APPLY PATCH "fixes.vlp"',
    ),
    StatementHelp(
        "REMOVE PATCH", 'REMOVE PATCH "file.vlp"', "take a patch off", 'REMOVE PATCH "fixes.vlp"'
    ),
    StatementHelp(
        "DISCARD PATCH", "DISCARD PATCH", "drop the edits that are in no file", "DISCARD PATCH"
    ),
    StatementHelp("UNDO", "UNDO [n]", "take back the last edits", "UNDO 2"),
    StatementHelp(
        "SET",
        "SET option = value | SET name = value",
        "change how the session works, or give :name a value",
        "SET device = cuda",
    ),
    StatementHelp(
        "ASSERT",
        'ASSERT INFER "prompt" [TOP n] [CHAT|RAW] =|!= "token" ["message"] | '
        'ASSERT (SELECT …) =|!=|<|<=|>|>= value ["message"] | '
        'ASSERT PROBABILITY "prompt" OF "text" =|!=|<|<=|>|>= number ["message"]',
        "fail unless something holds",
        'ASSERT INFER "The capital of France is" TOP 1 = " Paris"',
    ),
    StatementHelp(
        "INCLUDE",
        'INCLUDE "file.lql"',
        "run the statements of another file here",
        'INCLUDE "facts.lql"',
    ),
    StatementHelp(
        "PLOT",
        'PLOT statement [TO "file.png"|"file.svg"|"file.html" [OVERWRITE]]',
        "draw the result of a statement",
        'PLOT EXPLAIN INFER "The capital of France is" TO "lens.svg"',
    ),
)

FIRST_WORDS = frozenset(entry.title.split()[0] for entry in STATEMENT_HELP)
"""The words statements begin with."""


def help_for(words: Sequence[str]) -> tuple[StatementHelp, ...]:
    """Return the entries of the statement that begins with ``words``.

    Args:
        words: the upper-case keywords of a statement so far.

    Returns:
        One entry where the words decide, several where they do not yet.
    """
    scores: dict[StatementHelp, int] = {}
    for entry in STATEMENT_HELP:
        title = entry.title.split()
        if words and title[0] == words[0]:
            missing = sum(word not in words for word in title)
            scores[entry] = 2 * len(title) - 3 * missing
    best = max(scores.values(), default=0)
    return tuple(entry for entry, score in scores.items() if score == best)
