"""Whether a map is a reason: it must change when the weights do, and what it names must matter.

* Randomised weights (Adebayo et al., NeurIPS 2018): the same network with fresh weights must give another map. If the
  two agree, the map shows edges of the image, not what the model learned.
* Deletion and insertion (Petsiuk et al., BMVC 2018): setting the voxels that the map names first to the image's mean
  must cost the class more than doing so to voxels at random; showing them first must bring it back sooner.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import rankdata

from medml.explain.maps import explain_map
from medml.explain.subject import Subject

MOST_ALIKE = 0.5
SHARES = np.linspace(0.0, 1.0, 11)
RANDOM_ORDERS = 3


@dataclass(frozen=True, slots=True)
class Checks:
    """What the checks of one map found.

    Attributes
    ----------
    alike : float
        Rank correlation of the map with that of fresh weights; NaN if either is flat.
    deletion, insertion : float
        Mean probability of the class while voxels go, or come, in the map's order; random order beside.
    flat : bool
        Whether the map is the same everywhere, as Grad-CAM's of a class that no place speaks for: it names nothing.
    """

    alike: float
    deletion: float
    insertion: float
    random_deletion: float
    random_insertion: float
    flat: bool = False

    @property
    def depends_on_weights(self) -> bool:
        """Whether fresh weights destroy the map."""
        return not abs(self.alike) > MOST_ALIKE

    @property
    def names_what_matters(self) -> bool:
        """Whether what the map names first matters more than voxels at random."""
        return self.insertion - self.deletion > self.random_insertion - self.random_deletion

    @property
    def believable(self) -> bool:
        """Whether the map names a place and passes both checks."""
        return not self.flat and self.depends_on_weights and self.names_what_matters


def check_map(subject: Subject, method: str, values: np.ndarray, *, seed: int = 0) -> Checks:
    """Check a map (I, J, K) that `explain_map` gave of the subject by ``method``."""
    fresh = explain_map(randomised(subject, seed=seed), method)
    order = np.argsort(-values.ravel(), kind="stable")
    rng = np.random.default_rng(seed)
    shuffled = [_walk(subject, rng.permutation(order.size)) for _ in range(RANDOM_ORDERS)]
    deletion, insertion = _walk(subject, order)
    return Checks(
        alike=rank_correlation(values, fresh),
        deletion=deletion,
        insertion=insertion,
        random_deletion=float(np.mean([pair[0] for pair in shuffled])),
        random_insertion=float(np.mean([pair[1] for pair in shuffled])),
        flat=float(np.ptp(values)) == 0,
    )


def randomised(subject: Subject, *, seed: int = 0) -> Subject:
    """Return the subject with fresh weights in every layer, of the same spread as before."""
    network = copy.deepcopy(subject.network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in network.parameters():
            flat = value.detach().flatten()
            value.copy_(flat[torch.randperm(flat.numel(), generator=generator).to(flat.device)].view_as(value))
    return replace(subject, network=network)


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return Spearman's correlation of two maps; NaN if either is flat."""
    ranks = [rankdata(values.ravel()) for values in (first, second)]
    if any(values.std() == 0 for values in ranks):
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def _walk(subject: Subject, order: np.ndarray) -> tuple[float, float]:
    """Return the class's mean probability while voxels are blanked, and shown, in ``order``."""
    image = subject.image
    flat = image.flatten(2), image.flatten(2).mean(dim=2, keepdim=True)
    place = torch.as_tensor(order.copy(), device=image.device)
    deleted, inserted = [], []
    for share in SHARES:
        count = round(float(share) * order.size)
        there = torch.zeros(order.size, dtype=torch.bool, device=image.device)
        there[place[:count]] = True
        deleted.append(torch.where(there, flat[1], flat[0]).view_as(image))
        inserted.append(torch.where(there, flat[0], flat[1]).view_as(image))
    results = [float(subject.probability(batch)) for batch in (*deleted, *inserted)]
    return float(np.mean(results[: len(SHARES)])), float(np.mean(results[len(SHARES) :]))
