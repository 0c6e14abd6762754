"""Real networks and their checkpoints, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn


class SimpleClassifier(nn.Module):
    """A typical classifier, as users write it."""

    def __init__(self, input_dim: int, hidden_dim: int = 64, output_dim: int = 2) -> None:
        super().__init__()
        self.fc1 = nn.Linear(input_dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, hidden_dim // 2)
        self.out = nn.Linear(hidden_dim // 2, output_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.out(torch.relu(self.fc2(torch.relu(self.fc1(x)))))
        return logits


def classifier(input_dim: int = 3, hidden_dim: int = 8, output_dim: int = 2, seed: int = 0) -> SimpleClassifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SimpleClassifier(input_dim, hidden_dim, output_dim).eval()


def save(path: Path, document: object, *, legacy: bool = False) -> Path:
    torch.save(document, path, _use_new_zipfile_serialization=not legacy)
    return path


DIMENSIONS = {"input_dim": 3, "hidden_dim": 8, "output_dim": 2}
"""What the checkpoint of `classifier()` states, as most training code writes it."""


def save_classifier(path: Path, **entries: object) -> Path:
    """Writes the checkpoint of a classifier of three features, with its dimensions and further entries."""
    return save(path, {"model_state_dict": classifier().state_dict(), **DIMENSIONS, **entries})


def state(**shapes: tuple[int, ...]) -> Mapping[str, torch.Tensor]:
    """Returns a state dict of random parameters; `__` in a name stands for a dot."""
    generator = torch.Generator().manual_seed(0)
    return {name.replace("__", "."): torch.randn(shape, generator=generator) for name, shape in shapes.items()}
