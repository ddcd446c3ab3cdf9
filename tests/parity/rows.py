"""Every row of the comparison with transformers."""

from __future__ import annotations

from tests.parity.checkpoints import LLAMA_AND_GEMMA3
from tests.parity.dense import DENSE
from tests.parity.gemma4_rows import GEMMA4
from tests.parity.latent import LATENT
from tests.parity.moe import MOE

ROWS = (*LLAMA_AND_GEMMA3, *DENSE, *GEMMA4, *LATENT, *MOE)
