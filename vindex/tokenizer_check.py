"""What must hold of a ``tokenizer.json`` before the ``tokenizers`` library may see it."""

from __future__ import annotations

import re
from pathlib import Path

from vindex import strict_json
from vindex.errors import VindexInvalid

# A subword prefix that is neither null nor empty, or ASCII letters escaped to hide one.
_SUSPECT = re.compile(rb'"continuing_subword_prefix"\s*:(?!\s*(?:null\b|""))|\\u00[2-7]')


def refuse_lethal(data: bytes, path: Path) -> None:
    """Refuse merges that do not carry the model's subword prefix.

    The library cuts the prefix's length off the second half of every merge without looking; where
    that is inside a character it raises nothing but kills the process. Files without a prefix, as
    good as all, cost one scan.

    Args:
        data: the file.
        path: where it came from, for messages.

    Raises:
        VindexInvalid: such a merge, or no well-formed JSON.
    """
    if not _SUSPECT.search(data):
        return
    match strict_json.load(data, path):
        case {"model": {"continuing_subword_prefix": str(prefix), "merges": list(merges)}}:
            pass
        case _:
            return
    for merge in merges:
        halves = merge.split(" ") if isinstance(merge, str) else merge
        if not (isinstance(halves, list) and all(isinstance(half, str) for half in halves)):
            return  # the library refuses these itself
        if not all(half.startswith(prefix) for half in halves[1:]):
            raise VindexInvalid(
                f"{path.name} has a merge without the model's subword prefix", path=path
            )
