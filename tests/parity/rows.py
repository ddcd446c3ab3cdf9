"""Every row of the comparison with transformers."""

from __future__ import annotations

from tests.parity.checkpoints import LLAMA_AND_GEMMA3
from tests.parity.dense import DENSE

ROWS = (*LLAMA_AND_GEMMA3, *DENSE)
