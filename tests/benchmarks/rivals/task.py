"""What all rivals share: where the files lie, and the network."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

FEATURES = ["age", "income", "tenure_days", "num_purchases", "avg_transaction_value", "days_since_last_purchase"]
BATCH = 65_536


def inputs(folder: str) -> str:
    return f"{folder}/input/*.parquet"


def stored(folder: str) -> str:
    """Earlier predictions; there are none of a first scoring."""
    return f"{folder}/stored"


def has_stored(folder: str) -> bool:
    return any(Path(stored(folder)).glob("*.parquet"))


def output(folder: str) -> str:
    return f"{folder}/output"


def network(folder: str) -> torch.nn.Module:
    import torch

    state = torch.load(f"{folder}/model.pt", weights_only=True)["model_state_dict"]
    sizes = [state[f"fc{number}.weight"].shape for number in (1, 2, 3)]
    linear = [torch.nn.Linear(size[1], size[0]) for size in sizes]
    found = torch.nn.Sequential(
        OrderedDict(fc1=linear[0], r1=torch.nn.ReLU(), fc2=linear[1], r2=torch.nn.ReLU(), fc3=linear[2])
    )
    found.load_state_dict(state)
    return found.eval()


def predict(model: torch.nn.Module, matrix: NDArray[np.float32]) -> dict[str, NDArray[np.generic]]:
    """Returns the outputs of float32 (rows, features)."""
    import torch

    with torch.inference_mode():
        probabilities = torch.softmax(model(torch.from_numpy(matrix)), dim=1)
        best, label = probabilities.max(dim=1)
    columns = {"prediction": label.numpy(), "prediction_proba": best.numpy()}
    return columns | {f"prob_class_{index}": probabilities[:, index].numpy() for index in range(probabilities.shape[1])}
