"""What products of float32 numbers are computed in, measured and recorded."""

from __future__ import annotations

import pytest
import torch

from dgbench.provenance import float32_products
from dgbench.runtime import matmul_precision
from leaderboard import records
from tests.dgbench.tiny import fit

CPU = torch.device("cpu")
HAS_AMX = torch.cpu.get_capabilities().get("amx_bf16", False)


def test_the_highest_precision_is_float32():
    with matmul_precision("highest"):
        assert float32_products(CPU) == "float32"


@pytest.mark.parametrize(("dtype", "name"), [(torch.bfloat16, "bfloat16"), (torch.half, "tf32")])
def test_products_of_fewer_digits_are_noticed(dtype, name):
    """Half precision has TF32's ten digits."""
    with torch.autocast("cpu", dtype=dtype):
        assert float32_products(CPU) == name


@pytest.mark.skipif(not HAS_AMX, reason="this processor has no AMX")
def test_medium_rounds_to_bfloat16_where_there_is_amx():
    left, right = torch.randn(2, 256, 256)
    with matmul_precision("medium"):
        assert float32_products(CPU) == "bfloat16"
        product = left @ right
    rounded = left.bfloat16().double() @ right.bfloat16().double()
    assert torch.allclose(product.double(), rounded, rtol=0, atol=1e-4)


def test_a_record_says_what_they_were(tmp_path):
    hardware = records.read_run(fit(tmp_path)).run["hardware"]
    assert hardware["float32_products"] == "float32"
    assert hardware["amx"] == HAS_AMX
