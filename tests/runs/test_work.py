"""Operations of attention are those of its plain products, whichever kernel computes them."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from pixelpath.runs.work import operations


@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
@pytest.mark.parametrize(("backward", "products"), [(False, 2), (True, 6)])
def test_attention_counts_two_products_forwards_and_four_backwards(backend: SDPBackend, backward: bool, products: int) -> None:
    query, key, value = (torch.randn(2, 3, count, 8, requires_grad=True) for count in (5, 7, 7))

    def call() -> None:
        found = scaled_dot_product_attention(query, key, value)
        if backward:
            found.sum().backward()

    with sdpa_kernel(backend):
        assert operations(call) == products * 2 * 2 * 3 * 5 * 7 * 8
