"""The compiled product of bfloat16 matrices against its definition."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from runtime.model import product_kernel
from runtime.model.linear import Linear, grouped

pytestmark = pytest.mark.skipif(not product_kernel.available(), reason="no instructions for it here")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def matrices(rows: int, k: int, n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(rows * k + n)
    return tuple(torch.randn(size, generator=random).bfloat16() for size in ((rows, k), (n, k), (n,)))  # type: ignore[return-value]


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("k", "n"), [(2, 32), (34, 64), (62, 33), (64, 32), (66, 64), (512, 70), (11000, 3)])
@pytest.mark.parametrize("rows", [*range(1, 41), 65, 100, 301, 1100])
def test_it_is_the_product(rows: int, k: int, n: int, biased: bool) -> None:
    x, weight, bias = matrices(rows, k, n)
    assert product_kernel.takes(weight)
    torch.set_num_threads(1 + rows % 3)
    found = Linear(weight, bias if biased else None)(x).double()
    expected = x.double() @ weight.double().T + (bias.double() if biased else 0)
    # bfloat16 keeps 8 bits of what float32 sums of k products gave
    bound = expected.abs() * 2**-8 + (x.double().abs() @ weight.double().abs().T) * 2**-20
    assert ((found - expected).abs() <= bound).all()


def test_a_row_gives_the_same_bits_in_any_company_on_any_number_of_threads() -> None:
    x, weight, bias = matrices(600, 2176, 128)
    linear = Linear(weight, bias)
    torch.set_num_threads(1)
    alone = torch.cat([linear(row.unsqueeze(0)) for row in x])
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        for start, stop in ((0, 600), (3, 20), (5, 38), (0, 64), (100, 165), (7, 548)):
            assert torch.equal(linear(x[start:stop]), alone[start:stop])


def test_no_rows_and_rows_that_are_not_contiguous() -> None:
    x, weight, _ = matrices(8, 64, 32)
    linear = Linear(weight)
    assert linear(x[:0]).shape == (0, 32)
    assert torch.equal(linear(x[::2]), linear(x)[::2])


def test_an_odd_number_of_inputs_is_left_to_torch() -> None:
    x, weight, bias = matrices(3, 63, 32)
    assert not product_kernel.takes(weight)
    torch.testing.assert_close(Linear(weight, bias)(x), torch.nn.functional.linear(x, weight, bias), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("k", [32, 64, 70])
@pytest.mark.parametrize("counts", [[1, 13, 2, 30], [300, 1, 17, 90]])
def test_groups_of_rows_that_have_a_weight_each(counts: list[int], k: int) -> None:
    x, _, _ = matrices(sum(counts), k, 50)
    linears = [Linear(matrices(seed, k, 50)[1]) for seed in range(2, 6)]
    apart = torch.cat([linear(rows) for linear, rows in zip(linears, x.split(counts), strict=True)])
    assert torch.equal(grouped(linears, x, counts), apart)
