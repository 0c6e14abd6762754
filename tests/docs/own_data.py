"""The rows and the model of docs/own-data.md: orders of two days, and an exported program that scores them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch


def write(folder: Path) -> None:
    """Writes `monday.csv`, `tuesday.csv` and `model.pt2`."""
    for day, name in enumerate(("monday", "tuesday")):
        rng = np.random.default_rng(day)
        lines = ["customer,order_no,country,amount,items,days"]
        for row in range(400):
            country = ("DE", "AT", "CH")[row % 3]
            amount, items, days = rng.gamma(2, 20), rng.integers(1, 9), rng.integers(0, 300)
            lines.append(f"{row // 2:04},{row % 2 + 1},{country},{amount:.2f},{items},{days}")
        if name == "tuesday":
            lines[7] = "0003,1,DE,,2,17"
            lines[8] = "0003,2,AT,99999.00,2,17"
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    torch.manual_seed(2)
    first = torch.nn.Linear(3, 16)
    with torch.no_grad():
        first.weight *= torch.tensor([0.02, 0.2, 0.005])  # the features have sizes like these
    network = torch.nn.Sequential(first, torch.nn.ReLU(), torch.nn.Linear(16, 2))
    rows = {0: torch.export.Dim.AUTO}
    torch.export.save(torch.export.export(network, (torch.zeros(4, 3),), dynamic_shapes=(rows,)), folder / "model.pt2")
