"""The parts of a transformer have their closed forms."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from pixelpath.errors import UserError
from pixelpath.networks import layers
from pixelpath.networks.layers import Attention, Block, Mlp, ModulatedBlock, grid_sinusoids, initialise, sinusoids, unpatchify


@pytest.mark.parametrize("width", [2, 7, 8, 65])
def test_sinusoids(width: int) -> None:
    position = torch.tensor([0.0, 1.0, -37.5])
    waves = sinusoids(position, width, longest=100.0)
    half = width // 2
    assert waves.shape == (3, width)
    for row, value in enumerate(position.tolist()):
        for column in range(half):
            angle = value * 100.0 ** (-column / half)
            assert float(waves[row, column]) == pytest.approx(math.cos(angle), abs=1e-5)
            assert float(waves[row, half + column]) == pytest.approx(math.sin(angle), abs=1e-5)
    if width % 2:
        assert waves[:, -1].tolist() == [0.0, 0.0, 0.0]


def test_attention_is_a_softmax_of_scaled_products() -> None:
    attention = Attention(12, 3).double()
    tokens = torch.randn(2, 5, 12, dtype=torch.float64)
    query, key, value = functional.linear(tokens, attention.query_key_value.weight).chunk(3, dim=-1)
    heads = []
    for part in (slice(0, 4), slice(4, 8), slice(8, 12)):
        scores = query[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(4)
        heads.append(scores.softmax(-1) @ value[..., part])
    assert torch.allclose(attention(tokens), attention.out(torch.cat(heads, dim=-1)))


@pytest.mark.parametrize("heads", [0, 5])
def test_heads_that_do_not_divide(heads: int) -> None:
    with pytest.raises(UserError, match=f"{heads} heads") as caught:
        Attention(12, heads)
    assert caught.value.setting == "size"


def test_block_is_residual() -> None:
    block, tokens = Block(8, 2), torch.randn(2, 3, 8)
    within = tokens + block.attention(block.norm_attention(tokens))
    assert torch.equal(block(tokens), within + block.mlp(block.norm_mlp(within)))
    for layer in (block.attention.out, block.mlp[2]):
        assert isinstance(layer, nn.Linear)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    assert torch.equal(block(tokens), tokens)


def test_mlp_is_four_times_as_wide() -> None:
    assert [tuple(parameter.shape) for parameter in Mlp(6).parameters()] == [(24, 6), (24,), (6, 24), (6,)]


def modulated(shifts: list[float]) -> tuple[ModulatedBlock, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A block whose shift, scale and gate of attention and MLP are the six given numbers everywhere."""
    block = ModulatedBlock(8, 2, skip_width=6, condition_width=4).double()
    initialise(block)
    last = block.modulation[1]
    assert isinstance(last, nn.Linear)
    last.bias.data = torch.tensor(shifts, dtype=torch.float64).repeat_interleave(8)
    tokens, skip = torch.randn(2, 3, 8, dtype=torch.float64), torch.randn(2, 3, 6, dtype=torch.float64)
    return block, tokens, skip, torch.randn(2, 4, dtype=torch.float64)


def test_modulated_block_only_joins_at_the_start() -> None:
    block, tokens, skip, condition = modulated([0.0] * 6)
    joined = block.norm_join(block.join(torch.cat([tokens, skip], dim=-1)))
    assert torch.equal(block(tokens, skip, condition), joined)


def test_shift_scale_and_gate_act_in_this_order() -> None:
    block, tokens, skip, condition = modulated([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    joined = block.norm_join(block.join(torch.cat([tokens, skip], dim=-1)))
    within = joined + 0.3 * block.attention(block.norm_attention(joined) * 1.2 + 0.1)
    expected = within + 0.6 * block.mlp(block.norm_mlp(within) * 1.5 + 0.4)
    assert torch.allclose(block(tokens, skip, condition), expected)


def test_unpatchify_orders_row_column_channel() -> None:
    """A token holds a patch by rows, then columns, then channels; tokens go by rows of the image."""
    rows, columns, patch, channels = 6, 4, 2, 3
    images = torch.randn(2, channels, rows, columns)
    tokens = torch.stack(
        [
            images[:, :, row : row + patch, column : column + patch].permute(0, 2, 3, 1).flatten(1)
            for row in range(0, rows, patch)
            for column in range(0, columns, patch)
        ],
        dim=1,
    )
    assert torch.equal(unpatchify(tokens, rows, columns, patch), images)


@torch.no_grad()
def test_initial_deviations() -> None:
    """Xavier-uniform: a bound of sqrt(6 / (in + out)), for query, key and value each on its own."""
    block = ModulatedBlock(96, 4, skip_width=96, condition_width=64)
    initialise(block)
    for weight, size in (
        (block.attention.query_key_value.weight, 192),
        (block.join.weight, 288),
        (block.attention.out.weight, 192),
    ):
        bound = math.sqrt(6 / size)
        assert 0.99 * bound < float(weight.abs().max()) <= bound
    assert all(float(layer.bias.abs().max()) == 0 for layer in (block.join, block.attention.out))
    assert all(float(parameter.abs().max()) == 0 for parameter in block.modulation.parameters())


def test_dropout_leaves_names_and_evaluation_alone() -> None:
    plain, dropped = ModulatedBlock(8, 2, 8, 8), ModulatedBlock(8, 2, 8, 8, dropout=0.5)
    dropped.load_state_dict(plain.state_dict())
    for parameter in plain.parameters():
        nn.init.normal_(parameter, std=0.3)
    dropped.load_state_dict(plain.state_dict())
    inputs = torch.randn(2, 5, 8), torch.randn(2, 5, 8), torch.randn(2, 8)
    assert torch.equal(plain(*inputs), dropped.eval()(*inputs))
    assert not torch.allclose(plain(*inputs), dropped.train()(*inputs))


def test_dropout_of_attention_and_mlp() -> None:
    """Each value is 0 with the given probability and else 1 / (1 - p) times larger; the MLP also drops within."""
    tokens = torch.randn(4, 200, 8)
    attention, mlp = Attention(8, 2, dropout=0.3), Mlp(8, dropout=0.3)
    for module in (attention, mlp):
        out = module(tokens)
        assert float((out == 0).float().mean()) == pytest.approx(0.3, abs=3 * (0.21 / out.numel()) ** 0.5)
    kept = attention(tokens)
    assert torch.allclose(kept[kept != 0], (attention.eval()(tokens) / 0.7)[kept != 0], atol=1e-6)
    inner = mlp[1](torch.ones(100, 1000))
    assert float((inner == 0).float().mean()) == pytest.approx(0.3, abs=0.005)


def gradients(block: ModulatedBlock) -> tuple[list[torch.Tensor], int]:
    """Of all parameters and inputs, and the bytes that the forward pass kept for them."""
    numbers = torch.Generator().manual_seed(1)
    inputs = [torch.randn(*shape, generator=numbers, requires_grad=True) for shape in ((2, 40, 8), (2, 40, 6), (2, 4))]
    kept: dict[int, torch.Tensor] = {}

    def keep(given: torch.Tensor) -> torch.Tensor:
        kept[given.untyped_storage().data_ptr()] = given
        return given

    torch.manual_seed(2)  # of the dropout
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda given: given):
        out = block(*inputs)
    out.square().sum().backward()
    found = [each.grad for each in (*block.parameters(), *inputs)]
    block.zero_grad()
    assert all(each is not None for each in found)
    return [each.clone() for each in found if each is not None], sum(each.untyped_storage().nbytes() for each in kept.values())


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_what_is_computed_again_costs_no_memory_and_changes_no_bit(dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    block = ModulatedBlock(8, 2, skip_width=6, condition_width=4, dropout=dropout)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    expected, whole = gradients(block)
    monkeypatch.setattr(layers, "LARGE", 1)
    found, less = gradients(block)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert less < 0.75 * whole


@pytest.mark.parametrize(("rows", "columns", "width"), [(8, 8, 96), (3, 6, 16), (1, 5, 10), (2, 1, 7), (16, 16, 384)])
def test_places_say_where_a_patch_lies(rows: int, columns: int, width: int) -> None:
    """Wavelengths from 4 patches to four sides: the closed form, and no two places alike."""
    waves, quarter = grid_sinusoids(rows, columns, width), width // 4
    assert waves.shape == (rows * columns, width)
    for half, count, at in ((0, rows, lambda n: n // columns), (1, columns, lambda n: n % columns)):
        for wave in range(quarter):
            length = 4 * count ** (wave / (quarter - 1)) if quarter > 1 else 4.0
            for place in range(rows * columns):
                angle, first = 2 * math.pi * at(place) / length, 2 * half * quarter + wave
                assert float(waves[place, first]) == pytest.approx(math.sin(angle), abs=1e-5)
                assert float(waves[place, first + quarter]) == pytest.approx(math.cos(angle), abs=1e-5)
    assert not waves[:, 4 * quarter :].any()
    if quarter > 1:
        apart = torch.cdist(waves, waves)
        assert float(apart[~torch.eye(len(waves), dtype=torch.bool)].min()) > 0.1
