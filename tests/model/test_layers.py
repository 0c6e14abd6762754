"""Sequences of linear layers, run by fewer calls: the same numbers, and the input stays as it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.model import ending
from pipeline.model.checkpoint import ACTIVATIONS
from pipeline.model.layers import Buffer, Layers, flattened


def network(activation: nn.Module, *, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7, bias), activation, nn.Linear(7, 7, bias), activation, nn.Linear(7, 3, bias))


def rows(count: int = 300) -> torch.Tensor:
    return torch.randn(5, count, generator=torch.Generator().manual_seed(1)).t()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_flattened_sequence_gives_the_same_numbers_and_leaves_its_input(activation: str, bias: bool) -> None:
    module, given = network(ACTIVATIONS[activation](), bias=bias).eval(), rows()
    before = given.clone()
    flat = flattened(module)
    assert isinstance(flat, Layers)
    with torch.inference_mode():
        assert torch.equal(flat(given), module(given.clone()))
        assert torch.equal(given, before)


@pytest.mark.parametrize("last", [nn.Softmax(dim=1), nn.Sigmoid(), nn.Tanh()])
def test_flattened_sequence_with_another_end_gives_the_same_numbers(last: nn.Module) -> None:
    module = nn.Sequential(*network(nn.Tanh()), last).eval()
    flat = flattened(module)
    with torch.inference_mode():
        assert torch.equal(flat(rows()), module(rows()))
    assert ending.of_module(flat) == ending.of_module(module)


def test_flattened_overwrites_only_what_a_linear_layer_has_returned() -> None:
    kept = Keeps()
    module = nn.Sequential(nn.Linear(5, 3), kept, nn.ReLU()).eval()
    with torch.inference_mode():
        flattened(module)(rows())
        assert torch.equal(kept.seen, module[0](rows()))


def test_flattened_keeps_the_memory_of_hidden_layers_but_not_of_what_it_returns() -> None:
    before = [nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 7), nn.ReLU()]
    module = nn.Sequential(*before, nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 3), nn.ReLU()).eval()
    flat = flattened(module)
    with torch.inference_mode():
        first, first_hidden = _traced(flat, rows())
        second, second_hidden = _traced(flat, rows(200) + 1)
        assert torch.equal(first, module(rows()))
        assert torch.equal(second, module(rows(200) + 1))
    assert first_hidden == second_hidden
    assert [len(set(first_hidden)), len(first_hidden)] == [2, 3]


def _traced(flat: nn.Module, given: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    """Returns the outputs, and the addresses of the results of hidden layers."""
    found, of = [], Buffer.of

    def seen(self: Buffer, rows: int, columns: int) -> torch.Tensor:
        tensor = of(self, rows, columns)
        found.append(tensor.data_ptr())
        return tensor

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Buffer, "of", seen)
        return flat(given), found


def test_flattened_leaves_what_another_module_may_keep() -> None:
    kept = Keeps()
    module = nn.Sequential(nn.Linear(5, 3), kept, nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    flat = flattened(module)
    with torch.inference_mode():
        flat(rows())
        seen = kept.seen
        flat(rows() + 1)
        assert torch.equal(seen, module[0](rows()))


@pytest.mark.parametrize(
    "module", [nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 3)), nn.Sequential(), nn.Linear(5, 3), nn.Identity()]
)
def test_flattened_other_modules_stay_as_they_are(module: nn.Module) -> None:
    assert flattened(module) is module


def test_flattened_module_with_a_hook_stays_as_it_is() -> None:
    module = network(nn.ReLU())
    module[2].register_forward_hook(lambda _module, _given, result: result * 2)
    assert flattened(module) is module


class Keeps(nn.Module):
    """Returns its input, and keeps it: what follows must not overwrite it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = x
        return x
