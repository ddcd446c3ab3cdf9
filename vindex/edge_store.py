"""``probe_edges.json``: the answers of PROBE that COMPILE INTO VINDEX bakes, beside the weights.

``{"version": 1, "probes": […]}``, the entries as a patch file has them, in the order in which they
were first kept. larql ignores the file; the seal covers it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from vindex import files
from vindex.patch_probes import probe_entry, read_probe
from vindex.probes import Probe
from vindex.store import Vindex
from vindex.strict_json import Fields, load

FILE = files.PROBE_EDGES
_VERSION = 1
_MAX_BYTES = 1 << 30
_MAX_PROBES = 1_000_000


def read_edge_store(vindex: Vindex) -> tuple[Probe, ...]:
    """The stored probes of a vindex; none when it has no such file.

    Raises:
        VindexInvalid: the file is malformed, not the sealed one, or speaks of tokens that the model
            does not have.
    """
    path = vindex.path / FILE
    if not path.exists():
        return ()
    data = files.read_small(path, _MAX_BYTES)
    if vindex.seal is not None:
        vindex.seal.check_bytes(FILE, data, vindex.path)
    top = Fields(load(data, path), path)
    if top.integer("version") != _VERSION:
        top.refuse("version", f"expected {_VERSION}")
    return tuple(
        read_probe(Fields(entry, path, f"probes[{number}]"), path, vindex)
        for number, entry in enumerate(top.array("probes", _MAX_PROBES))
    )


def edge_store_bytes(probes: Iterable[Probe]) -> bytes:
    """The file that holds these probes, in their order."""
    document = {"version": _VERSION, "probes": [probe_entry(probe) for probe in probes]}
    return json.dumps(document, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass")
