"""Small networks of the architectures that people use on tables and sequences, to be exported and compared.

Each takes float32 (rows, FEATURES). The first columns hold categories as numbers, as the kind `category` encodes them;
the others are numbers. `network` builds one with its weights in any precision.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

FEATURES = 12
CATEGORIES = 3
"""Number of leading columns that hold a category."""
VALUES = 5
"""Number of values of each category."""
NUMBERS = FEATURES - CATEGORIES
STEPS = 4
"""Number of steps when the columns are read as a sequence, of FEATURES / STEPS values each."""


def rows(count: int) -> torch.Tensor:
    """Returns float32 (count, FEATURES), always the same."""
    generator = torch.Generator().manual_seed(1)
    categories = torch.randint(VALUES, (count, CATEGORIES), generator=generator).float()
    return torch.cat([categories, torch.randn(count, NUMBERS, generator=generator)], dim=1)


def network(name: str, precision: torch.dtype = torch.float32) -> nn.Module:
    """Returns a network in evaluation mode with fixed random weights; takes and returns float32 in any precision."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = NETWORKS[name]()
        for module in made.modules():
            if isinstance(module, nn.BatchNorm1d):  # as training leaves it
                nn.init.normal_(module.running_mean, std=0.3)  # type: ignore[arg-type]
                nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
    return made.eval() if precision == torch.float32 else InPrecision(made.to(precision), precision).eval()


class InPrecision(nn.Module):
    """Converts float32 to the precision of the weights, and the result back; categories stay exact in all of them."""

    def __init__(self, inner: nn.Module, precision: torch.dtype) -> None:
        super().__init__()
        self.inner, self.precision = inner, precision

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.inner(x.to(self.precision)).float()
        return result


class Embedded(nn.Module):
    """Embeddings of the categories: (rows, FEATURES) to (rows, CATEGORIES, width), and the numbers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(VALUES, width) for _ in range(CATEGORIES))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = [table(x[:, index].long()) for index, table in enumerate(self.tables)]
        return torch.stack(found, dim=1), x[:, CATEGORIES:]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(1, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.out = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.out(self.layer(self.embed(x.unsqueeze(2))).mean(dim=1))
        return result


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Unflatten(1, (1, FEATURES)),
            nn.InstanceNorm1d(1, affine=True),
            nn.Conv1d(1, 8, 3, padding=1),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(8, 8, 2, groups=2),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(8, 2),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.body(x)
        return result


class FTTransformer(nn.Module):
    """A token per feature and one for the class, and attention between them (Gorishniy et al., 2021)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embedded = Embedded(width)
        self.weight = nn.Parameter(torch.randn(NUMBERS, width))
        self.bias = nn.Parameter(torch.randn(NUMBERS, width))
        self.token = nn.Parameter(torch.randn(1, 1, width))
        layer = nn.TransformerEncoderLayer(width, 2, 16, activation="gelu", batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Sequential(nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        categories, numbers = self.embedded(x)
        tokens = numbers.unsqueeze(-1) * self.weight + self.bias
        first = self.token.expand(x.shape[0], -1, -1)
        result: torch.Tensor = self.out(self.body(torch.cat([first, tokens, categories], dim=1))[:, 0])
        return result


class DeepFM(nn.Module):
    """Products of all pairs of embeddings beside a deep network (Guo et al., 2017); one logit."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.embedded = Embedded(width)
        self.first = nn.EmbeddingBag(CATEGORIES * VALUES, 1, mode="sum")
        self.offsets: torch.Tensor
        self.register_buffer("offsets", torch.arange(CATEGORIES) * VALUES)
        self.numbers = nn.Linear(NUMBERS, 1)
        self.deep = nn.Sequential(nn.Linear(CATEGORIES * width + NUMBERS, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        categories, numbers = self.embedded(x)
        linear = self.first(x[:, :CATEGORIES].long() + self.offsets) + self.numbers(numbers)
        pairs = 0.5 * (categories.sum(1).pow(2) - categories.pow(2).sum(1)).sum(1, keepdim=True)
        deep = self.deep(torch.cat([categories.flatten(1), numbers], dim=1))
        result: torch.Tensor = linear + pairs + deep
        return result


class DLRM(nn.Module):
    """Dot products between embeddings and the numbers' own vector (Naumov et al., 2019)."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.embedded = Embedded(width)
        self.bottom = nn.Sequential(nn.Linear(NUMBERS, 8), nn.ReLU(), nn.Linear(8, width), nn.ReLU())
        vectors = CATEGORIES + 1
        self.top = nn.Sequential(nn.Linear(width + vectors * (vectors - 1) // 2, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        categories, numbers = self.embedded(x)
        dense = self.bottom(numbers)
        vectors = torch.cat([dense.unsqueeze(1), categories], dim=1)
        products = torch.bmm(vectors, vectors.transpose(1, 2))
        one, other = torch.tril_indices(vectors.shape[1], vectors.shape[1], offset=-1)
        result: torch.Tensor = self.top(torch.cat([dense, products[:, one, other]], dim=1))
        return result


class WideAndDeep(nn.Module):
    """A linear model of crossed one-hot categories beside a deep network (Cheng et al., 2016)."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.embedded = Embedded(width)
        self.wide = nn.Linear(VALUES * VALUES, 2)
        self.deep = nn.Sequential(nn.Linear(CATEGORIES * width + NUMBERS, 16), nn.SiLU(), nn.Linear(16, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        categories, numbers = self.embedded(x)
        crossed = x[:, 0].long() * VALUES + x[:, 1].long()
        wide = self.wide(functional.one_hot(crossed, VALUES * VALUES).to(x.dtype))
        result: torch.Tensor = wide + self.deep(torch.cat([categories.flatten(1), numbers], dim=1))
        return result


class DCN(nn.Module):
    """Layers that cross the input with themselves (Wang et al., 2021)."""

    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        self.cross = nn.ModuleList(nn.Linear(FEATURES, FEATURES) for _ in range(layers))
        self.deep = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, 8))
        self.out = nn.Linear(FEATURES + 8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        crossed = x
        for layer in self.cross:
            crossed = x * layer(crossed) + crossed
        result: torch.Tensor = self.out(torch.cat([crossed, self.deep(x)], dim=1))
        return result


def sparsemax(x: torch.Tensor) -> torch.Tensor:
    """The projection onto probabilities, most of them zero (Martins and Astudillo, 2016)."""
    ordered, _ = torch.sort(x, dim=1, descending=True)
    above = torch.cumsum(ordered, dim=1) - 1
    position = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=x.dtype)
    support = (position * ordered > above).sum(dim=1, keepdim=True)
    threshold = above.gather(1, support - 1) / support
    return torch.clamp(x - threshold, min=0)


class TabNet(nn.Module):
    """Steps that each attend to a few features, with gated units (Arik and Pfister, 2019)."""

    def __init__(self, steps: int = 2, width: int = 8) -> None:
        super().__init__()
        self.width = width
        self.norm = nn.BatchNorm1d(FEATURES)
        self.shared = nn.Linear(FEATURES, 4 * width, bias=False)
        self.own = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * width, 4 * width), nn.BatchNorm1d(4 * width), nn.GLU()) for _ in range(steps)
        )
        self.masks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, FEATURES), nn.BatchNorm1d(FEATURES)) for _ in range(steps)
        )
        self.out = nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        prior = torch.ones_like(x)
        attended = torch.zeros(x.shape[0], self.width, device=x.device, dtype=x.dtype)
        total = torch.zeros_like(attended)
        for own, mask_of in zip(self.own, self.masks, strict=True):
            mask = sparsemax(mask_of(attended) * prior)
            prior = prior * (1.3 - mask)
            decided, attended = own(functional.glu(self.shared(mask * x))).split(self.width, dim=1)
            total = total + functional.relu(decided)
        result: torch.Tensor = self.out(total)
        return result


class MMoE(nn.Module):
    """Experts that each task mixes with its own gate (Ma et al., 2018); a logit per task."""

    def __init__(self, experts: int = 3, width: int = 6, tasks: int = 2) -> None:
        super().__init__()
        self.experts = nn.Parameter(torch.randn(experts, FEATURES, width) / 3)
        self.gates = nn.ModuleList(nn.Linear(FEATURES, experts) for _ in range(tasks))
        self.towers = nn.ModuleList(nn.Sequential(nn.Linear(width, 4), nn.ELU(), nn.Linear(4, 1)) for _ in range(tasks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        experts = torch.relu(torch.einsum("rf,efw->rew", x, self.experts))
        found = [
            tower((torch.softmax(gate(x), dim=1).unsqueeze(2) * experts).sum(1))
            for gate, tower in zip(self.gates, self.towers, strict=True)
        ]
        return torch.cat(found, dim=1)


class Recurrent(nn.Module):
    """A recurrent network over the columns as a sequence; its last step decides."""

    def __init__(self, layer: type[nn.RNNBase], **how: object) -> None:
        super().__init__()
        self.layer = layer(FEATURES // STEPS, 6, batch_first=True, **how)  # type: ignore[arg-type]
        self.out = nn.Linear(12 if how.get("bidirectional") else 6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps, _ = self.layer(x.reshape(x.shape[0], STEPS, FEATURES // STEPS))
        result: torch.Tensor = self.out(steps[:, -1])
        return result


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(FEATURES, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.norm = nn.LayerNorm(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = functional.silu(self.first(x))
        hidden = self.norm(hidden + torch.tanh(self.second(hidden)))
        result: torch.Tensor = self.out(hidden)
        return result


class TwoTower(nn.Module):
    """The similarity of two sides, each with its own network; one logit."""

    def __init__(self) -> None:
        super().__init__()
        half = FEATURES // 2
        self.left = nn.Sequential(nn.Linear(half, 8), nn.ReLU(), nn.Linear(8, 4))
        self.right = nn.Sequential(nn.Linear(half, 8), nn.ReLU(), nn.Linear(8, 4))
        self.scale = nn.Parameter(torch.tensor(5.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, dim=1)
        left = functional.normalize(self.left(left), dim=1)
        right = functional.normalize(self.right(right), dim=1)
        return self.scale * (left * right).sum(dim=1)


class Gated(nn.Module):
    """Chunks, a product and a maximum: operations with several results, and sizes that depend on the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(FEATURES, 8)
        self.out = nn.Linear(8, 2)
        self.scale: torch.Tensor
        self.register_buffer("scale", torch.linspace(0.5, 2, FEATURES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = self.both(x * self.scale).chunk(2, dim=1)
        best, _ = left.max(dim=1, keepdim=True)
        pooled = torch.cat([torch.sigmoid(left) * right, best.expand(x.shape[0], 4)], dim=1)
        result: torch.Tensor = self.out(pooled.reshape(x.shape[0], -1))
        return result


def batch_norm() -> nn.Module:
    return nn.Sequential(
        nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(0.3), nn.ReLU(inplace=True), nn.Linear(8, 2)
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "attention": Attention,
    "batch norm": batch_norm,
    "convolution": Convolution,
    "dcn": DCN,
    "deepfm": DeepFM,
    "dlrm": DLRM,
    "ft-transformer": FTTransformer,
    "gated": Gated,
    "gru": lambda: Recurrent(nn.GRU),
    "gru of two layers": lambda: Recurrent(nn.GRU, num_layers=2, bidirectional=True, dropout=0.3),
    "lstm": lambda: Recurrent(nn.LSTM),
    "lstm of two layers": lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True, dropout=0.3),
    "mmoe": MMoE,
    "residual": Residual,
    "rnn": lambda: Recurrent(nn.RNN),
    "tabnet": TabNet,
    "two towers": TwoTower,
    "wide and deep": WideAndDeep,
}
