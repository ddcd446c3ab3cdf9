"""Reading the language reference, and what help shows of it."""

from __future__ import annotations

import pytest

from lql.errors import LqlUsageError
from lql.parser import parse
from lql.repl.help_text import Entry, overview, topic_text
from lql.repl.help_topics import find_topics, load_topics, parse_topics

REFERENCE = """\
# The language

Prose with an example that is no statement.

```lql
STATS;
```

## Asking

### INFER

Ask the model
for the next token.

```ebnf
INFER "prompt"
    [TOP n]
```

Rows: `rank, token`.

Further words.

```lql
INFER "a";
```

## Editing

### SAVE PATCH

Write the edits. *Not available yet.*

```ebnf
SAVE PATCH ["file"]
```

```lql
SAVE PATCH;
```

### No statement

Only prose.
"""


def test_a_section_becomes_a_topic() -> None:
    infer, save = parse_topics(REFERENCE)

    assert infer.name == "INFER"
    assert infer.group == "Asking"
    assert infer.meaning == "Ask the model for the next token."
    assert infer.syntax == 'INFER "prompt"\n    [TOP n]'
    assert infer.details == ("Rows: `rank, token`.", "Further words.")
    assert infer.example == 'INFER "a";'
    assert infer.available
    assert save.meaning == "Write the edits."
    assert not save.available


def test_a_topic_is_shown_with_everything_the_reference_says() -> None:
    infer, save = parse_topics(REFERENCE)

    assert topic_text(infer) == (
        "INFER: Ask the model for the next token.\n\n"
        '  INFER "prompt"\n      [TOP n]\n\n'
        "Rows: `rank, token`.\n\nFurther words.\n\n"
        'Example:\n\n  INFER "a";'
    )
    assert "running it is not available yet" in topic_text(save)


def test_the_overview_is_grouped_and_fits_the_terminal() -> None:
    topics = parse_topics(REFERENCE)

    text = overview(topics, [Entry("\\q", "leave")], [Entry("Tab", "complete")], 40)

    lines = text.splitlines()
    assert lines[0] == "Asking"
    assert lines[1] == "  INFER  Ask the model for the next tok…"
    assert lines.index("  \\q  leave") < lines.index("  Tab  complete")
    assert "  SAVE PATCH" in lines


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("INFER", ["INFER"]),
        ("  save   patch ", ["SAVE PATCH"]),
        ("SAVE", ["SAVE PATCH"]),
    ],
)
def test_a_topic_is_found_by_its_first_words(words: str, expected: list[str]) -> None:
    assert [topic.name for topic in find_topics(words, parse_topics(REFERENCE))] == expected


def test_a_miss_names_the_nearest() -> None:
    with pytest.raises(LqlUsageError) as caught:
        find_topics("INFRE", parse_topics(REFERENCE))

    assert caught.value.diagnostic.suggestions == ("INFER",)


def test_the_installed_reference_is_readable_and_its_examples_parse() -> None:
    topics = load_topics()

    assert {"EXTRACT", "USE", "INFER", "DESCRIBE", "SELECT"} <= {t.name for t in topics}
    for topic in topics:
        assert topic.meaning.endswith("."), topic.name
        parse(topic.example)
