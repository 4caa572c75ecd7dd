"""What the dtypes of images can hold is what numpy says of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.refusal import refused

from pixelpath.data import dtypes


@pytest.mark.parametrize("name", dtypes.NAMES)
def test_every_dtype_of_the_table_goes_through_torch_and_holds_its_limits(name: str) -> None:
    dtype = np.dtype(name)
    assert torch.from_numpy(np.zeros(1, name)).dtype == dtypes.in_torch(name)
    assert dtypes.checked(dtype.newbyteorder(">"), "it") == dtype
    beyond = (np.arange(2**24, 2**24 + 2) if dtype.kind in "iu" else np.array([1 + 2**-40])).astype(dtype)
    assert (name in dtypes.BEYOND_FLOAT32) == bool((beyond.astype(np.float32).astype(np.float64) != beyond).any())
    ends = dtypes.limits(name)
    if ends is None:
        assert dtypes.held(0.1, name) == float(dtype.type(0.1))
        assert math.isnan(dtypes.held(math.nan, name) or 0.0)
        return
    assert ends == (np.iinfo(name).min, np.iinfo(name).max)
    assert [dtypes.held(value, name) for value in ends] == list(ends)
    assert [dtypes.held(value, name) for value in (ends[0] - 1, ends[1] + 1, 0.5, math.nan, math.inf)] == [None] * 5


def test_what_is_not_in_the_table_is_refused() -> None:
    for name in ("int64", "bool", "complex64", "object", "U3"):
        with refused("images", "the file", np.dtype(name), "float32"):
            dtypes.checked(np.dtype(name), "the file", "images")
    assert dtypes.held(1e6, "float16") is None
    assert dtypes.held(math.inf, "float16") == math.inf
