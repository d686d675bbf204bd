"""The judge: a small convolutional network with a head for each trait, trained on drawn portraits."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from portrayer_captions import TRAITS, facts, number_of
from portrayer_data import COUNT, FIRST, traits_of
from torch import Tensor, nn
from torch.nn import functional as F
from train_common import batch_indices, descend, set_rate
from train_data import load_portraits, to_tensor

WIDTHS = (24, 48, 64, 96, 128)  # each at half the side of the one before; the first at 64
STEPS, BATCH, RATE = 3000, 32, 2e-3

log = logging.getLogger("comfyui_ldm.demo")


class Judge(nn.Module):
    """Maps portraits (N, 3, 128, 128) in [-1, 1] to the scores (N, values) of each trait."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in zip((3, *WIDTHS), WIDTHS, strict=False):
            layers += [nn.Conv2d(before, width, 3, 2, 1), nn.GroupNorm(8, width), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * WIDTHS[-1], 256), nn.SiLU())
        self.heads = nn.ModuleDict({name: nn.Linear(256, len(values)) for name, values in TRAITS.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the scores by the names of the traits."""
        h = self.body(x)
        return {name: head(h) for name, head in self.heads.items()}


def labels_of(first: int, count: int) -> list[dict[str, str]]:
    """Returns the facts of the portraits of these seeds; of the bald no hair colour, which only brows would show."""
    known = [facts(traits_of(seed)) for seed in range(first, first + count)]
    return [{name: value for name, value in one.items() if name != "hair" or one["style"] != "bald"} for one in known]


def train_judge(work: Path) -> Judge:
    """Returns the judge, trained once; its weights are in judge.pt."""
    torch.manual_seed(0)
    judge, path = Judge(), work / "judge.pt"
    if path.is_file():
        judge.load_state_dict(torch.load(path, weights_only=True))
        return judge.eval()
    images, known = load_portraits(work, FIRST, COUNT), labels_of(FIRST, COUNT)
    labels = {name: torch.tensor([number_of(name, one) for one in known]) for name in TRAITS}
    optimizer = torch.optim.Adam(judge.parameters(), lr=RATE, betas=(0.9, 0.99))
    for step in range(STEPS):
        index = batch_indices(5, step, COUNT, BATCH)
        x = _worn(to_tensor(images[index.numpy()]), step)
        set_rate(optimizer, RATE, step, step / STEPS, hold=0.4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            seen = judge(x)
        losses = [F.cross_entropy(seen[name].float(), labels[name][index]) for name in TRAITS]
        loss = torch.stack([one for one in losses if one.isfinite()]).sum()  # nan where a batch says nothing of a trait
        descend(judge, optimizer, loss)
        if step % 100 == 99:
            log.info("judge step %d loss %.3f", step + 1, loss.item())
    torch.save(judge.state_dict(), path)
    return judge.eval()


def _worn(x: Tensor, step: int) -> Tensor:
    """Returns portraits (N, 3, h, w) a little blurred and noisy, as pictures of a first stage are."""
    rng = np.random.default_rng((37, step))
    soft = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0, mode="bilinear")
    share = torch.from_numpy(rng.uniform(0, 0.8, (len(x), 1, 1, 1))).float()
    noise = torch.from_numpy(rng.normal(0, 0.03, x.shape)).float()
    return x.lerp(soft, share) + noise
