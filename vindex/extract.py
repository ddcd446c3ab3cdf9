"""EXTRACT: a checkpoint into a vindex, one layer at a time.

::

    checkpoint -> spec -> ledger (refuses before anything is written)
      -> embeddings.bin -> weights, layer by layer -> down_meta.bin -> tokenizer -> index.json
      -> seal.json -> one rename

Nothing bears the target's name before everything is on the disk. Peak memory is the embeddings and
one layer, whatever the model.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vindex import files
from vindex.blocks import in_blocks
from vindex.checkpoint import Checkpoint, Dropped, balance
from vindex.commit import Stage, refuse_existing, write_error
from vindex.errors import CheckpointError, OptionsConflict, TargetExists, VindexError
from vindex.extraction import Extraction
from vindex.families import spec_from_config
from vindex.kinds import ExtractLevel, Quant, StorageDtype
from vindex.progress import NullProgress, Progress
from vindex.scoring import NumpyScorer, TokenScorer
from vindex.spec import GATE_ROLES
from vindex.store import open_vindex
from vindex.writing import Clock, Phase, StageWriter, peak_rss_bytes

_SPARE_BYTES = 64 << 20  # room that must stay free on the disk


@dataclass(frozen=True, slots=True)
class ExtractReport:
    """What an extract wrote.

    Attributes:
        path: the vindex.
        num_features: gate rows over all layers.
        files: every file with its bytes.
        dropped: checkpoint tensors left out on purpose.
        notes: what the user should know.
        phases: the measured split; the times are disjoint and sum to nearly ``seconds``.
        seconds: wall time.
        peak_rss_bytes: of the process, so far; 0 where the system does not say.
    """

    path: Path
    model: str
    family: str
    level: ExtractLevel
    dtype: StorageDtype
    num_layers: int
    num_features: int
    files: Mapping[str, int]
    dropped: tuple[Dropped, ...]
    notes: tuple[str, ...]
    phases: tuple[Phase, ...]
    seconds: float
    peak_rss_bytes: int

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())


def extract(
    checkpoint: Checkpoint,
    out: Path,
    *,
    level: ExtractLevel = ExtractLevel.INFERENCE,
    dtype: StorageDtype = StorageDtype.F16,
    quant: Quant = Quant.NONE,
    down_q4k: bool = False,
    drop_gate_vectors: bool = False,
    overwrite: bool = False,
    scorer: TokenScorer | None = None,
    progress: Progress | None = None,
) -> ExtractReport:
    """Write a vindex.

    Args:
        checkpoint: an open checkpoint.
        out: the directory to create.
        level: how much to store.
        dtype: element type of weights; biases are always f32.
        quant: what becomes of the matrices of attention, FFN and head. ``dtype`` is then that of
            the embedding and the gate vectors for browsing.
        down_q4k: quantise down matrices as coarsely as the others.
        drop_gate_vectors: leave out the gate vectors for browsing, which are then decoded from the
            blocks of the FFNs; legal where those are there.
        overwrite: replace an existing vindex, atomically.
        scorer: the kernel of down_meta; the result is the same with any.
        progress: told about phases; its ``check`` may raise to cancel.

    Raises:
        TargetExists: ``out`` exists and ``overwrite`` is false, or it is not a vindex.
        LedgerRefusal: the checkpoint's tensors do not account for the model.
        Unsupported: the model, or block quantisation.
        OptionsConflict: gate vectors are to be dropped that nothing else holds.
        CheckpointError: no tokenizer.
        VindexInvalid: a tensor is not finite or does not fit ``dtype``, or the tokenizer does not
            load or has more tokens than the embedding.
        VindexError: the disk is full or cannot be written. Nothing was published in any case.
    """
    refuse_existing(out, overwrite=overwrite)
    refuse_foreign(out)
    clock = Clock()
    with clock.measure("other"):
        spec = spec_from_config(checkpoint.config)
        job = Extraction(
            checkpoint=checkpoint,
            spec=spec,
            ledger=balance(checkpoint, spec),
            side_files=_side_files(checkpoint),
            level=level,
            dtype=dtype,
            scorer=scorer or NumpyScorer(),
            progress=progress or NullProgress(),
            clock=clock,
            quant=quant,
            down_q4k=down_q4k,
            drop_gate_vectors=drop_gate_vectors,
        )
        _check_dropping(job)
        check_space(out, job.bytes_needed())
        with Stage(out, overwrite=overwrite) as stage, _explained(out):
            with StageWriter(stage.path, clock) as writer:
                job.write(writer)
            open_vindex(stage.path).close()
            job.progress.check()
            with clock.measure("sync"):
                stage.publish()
    return _report(job, out)


def _check_dropping(job: Extraction) -> None:
    """Refuse to drop gate vectors that nothing else holds."""
    if not job.drop_gate_vectors:
        return
    gates = [tensor for tensor in job.spec.tensors if tensor.role in GATE_ROLES]
    if job.quant is Quant.NONE:
        reason, hint = "only quantised FFNs hold gate vectors as well", "add QUANT q4k"
    elif job.level < ExtractLevel.INFERENCE:
        reason = f"level {job.level.value} stores no FFN that could hold them"
        hint = "add WITH INFERENCE"
    elif not all(in_blocks(tensor, job.spec) for tensor in gates):
        reason = f"the FFNs of {job.spec.family} have no gates, and browsing reads their up vectors"
        hint = "extract without it"
    else:
        return
    raise OptionsConflict(f"gate vectors cannot be dropped: {reason}", hint=hint)


def _report(job: Extraction, out: Path) -> ExtractReport:
    """What was written, read back from the published directory."""
    return ExtractReport(
        path=out,
        model=job.checkpoint.name,
        family=job.spec.family,
        level=job.level,
        dtype=job.dtype,
        num_layers=job.spec.num_layers,
        num_features=sum(layer.ffn.width for layer in job.spec.layers),
        files=files.stored_sizes(out),
        dropped=job.ledger.dropped,
        notes=job.ledger.notes,
        phases=job.clock.phases(),
        seconds=sum(job.clock.seconds.values()),
        peak_rss_bytes=peak_rss_bytes(),
    )


def check_space(out: Path, needed: int) -> None:
    """Refuse before starting when the disk cannot hold the result.

    Raises:
        VindexError: with the bytes needed and free.
    """
    parent = Path(os.path.abspath(out)).parent
    try:
        free = shutil.disk_usage(parent).free
    except OSError as error:
        raise write_error(error, out) from error
    if free < needed + _SPARE_BYTES:
        raise VindexError(
            f"{out} needs {needed / 1e9:.2f} GB, {parent} has {free / 1e9:.2f} GB free",
            hint="free space or choose a path on another filesystem",
            path=out,
        )


def _side_files(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Configuration and tokenizer files to carry along; the first two are needed."""
    found = checkpoint.files()
    for name in (files.CONFIG, files.TOKENIZER):
        if name not in found:
            raise CheckpointError(
                f"{checkpoint.name} has no {name}",
                hint="save the tokenizer in its fast form with transformers' save_pretrained",
            )
    return {name: found[name] for name in files.CARRIED if name in found}


def refuse_foreign(out: Path) -> None:
    """Refuse to overwrite a directory that is neither empty nor a vindex, whole or damaged.

    Raises:
        TargetExists: somebody else's directory: overwriting would delete what it holds.
    """
    if not out.is_dir():
        return
    names = {path.name for path in out.iterdir()}
    if names and not (files.INDEX in names and names & {files.GATE, files.EMBEDDINGS, files.SEAL}):
        raise TargetExists(
            f"{out} is not a vindex, so OVERWRITE does not replace it",
            hint="choose another path, or remove the directory yourself",
            path=out,
        )


@contextmanager
def _explained(out: Path) -> Iterator[None]:
    """Turn the operating system's refusals while writing into ``VindexError``."""
    try:
        yield
    except OSError as error:
        raise write_error(error, out) from error
