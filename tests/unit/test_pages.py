"""Memory in huge pages."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from lql.inference import pages
from lql.inference.pages import Pages

SHAPES = ((3, 5), (0, 4), (1,), (700, 64), (64, 33), (2, 3, 7))
DTYPES = (torch.uint8, torch.int8, torch.bfloat16, torch.float32)


def tensors(own: Pages, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Copies beside what they are copies of."""
    random = torch.Generator().manual_seed(seed)
    made = []
    for shape in SHAPES:
        for dtype in DTYPES:
            values = torch.randint(0, 100, shape, generator=random).to(dtype)
            made.append((own.copied(values), values))
    return made


@pytest.mark.parametrize("block", [1 << 12, 1 << 20])
def test_tensors_stay_what_they_are(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever else is put next to them, by other threads too, and beyond the end of a block."""
    monkeypatch.setattr(pages, "_BLOCK", block)
    own = Pages()
    with ThreadPoolExecutor(4) as pool:
        made = [pair for each in pool.map(lambda n: tensors(own, n), range(8)) for pair in each]
    for copied, values in made:
        assert torch.equal(copied, values)
        assert copied.dtype is values.dtype
        assert copied.is_contiguous()
        assert not copied.numel() or copied.data_ptr() % 64 == 0


def test_a_transposed_matrix_is_copied_in_its_own_order() -> None:
    values = torch.arange(24.0).view(4, 6).T
    assert torch.equal(Pages().copied(values), values)


def test_a_tensor_outlives_what_it_was_put_into() -> None:
    own = Pages()
    copied = own.copied(torch.arange(1000))
    del own
    gc.collect()
    assert torch.equal(copied, torch.arange(1000))


def test_without_huge_pages_memory_is_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_asks", lambda: False)
    for copied, values in tensors(Pages(), 0):
        assert torch.equal(copied, values)


def test_a_kernel_that_has_none_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmap.MADV_HUGEPAGE", 10_000, raising=False)
    for copied, values in tensors(Pages(), 0):
        assert torch.equal(copied, values)


def test_the_pages_are_huge() -> None:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if sys.platform != "linux" or not setting.exists() or "[never]" in setting.read_text():
        return  # another system
    large = Pages().empty((16 << 20,), torch.int8).fill_(1)
    address, lines = large.data_ptr(), Path("/proc/self/smaps").read_text().splitlines()
    found = _huge_kilobytes(lines, address)
    assert found >= 2 << 10, "one at least: the system may be short of them"


def _huge_kilobytes(lines: Iterable[str], address: int) -> int:
    inside = False
    for line in lines:
        first = line.split(maxsplit=1)[0]
        if "-" in first and not first.endswith(":"):
            start, stop = (int(each, 16) for each in first.split("-"))
            inside = start <= address < stop
        elif inside and first == "AnonHugePages:":
            return int(line.split()[1])
    return 0
