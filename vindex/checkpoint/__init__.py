"""Reading checkpoints: safetensors, GGUF, hub ids and packages behind one ``Checkpoint``."""

from vindex.checkpoint._base import Checkpoint, Provenance, TensorInfo
from vindex.checkpoint._open import open_checkpoint
from vindex.checkpoint.ledger import Dropped, Ledger, balance
from vindex.checkpoint.source import CheckpointSource

__all__ = [
    "Checkpoint",
    "CheckpointSource",
    "Dropped",
    "Ledger",
    "Provenance",
    "TensorInfo",
    "balance",
    "open_checkpoint",
]
