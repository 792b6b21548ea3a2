"""What a package keeps of its training data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from medml.networks.build import build_network
from medml.training.cache import open_store
from medml.training.norms import learn_norms


@pytest.mark.parametrize("kind", ["blocks", "pictures"])
def test_norms_are_of_training_scans_and_judged_by_validation(kind: str, request: pytest.FixtureRequest) -> None:
    phantoms: Any = request.getfixturevalue(kind)
    plan, dataset, home = phantoms.plan, phantoms.dataset, phantoms.home
    learned, judged = dataset.cases_of("train"), dataset.cases_of("validation")
    store = open_store((*learned, *judged), plan, scans=home.scans, cache=home.cache)
    torch.manual_seed(0)
    norms = learn_norms(build_network(plan), learned, judged, store, plan, temperature=1.0, device=torch.device("cpu"))
    assert (norms.learned, norms.judged) == (len(learned), len(judged))
    assert len(norms.uncertainty) == len(judged)
    assert list(norms.uncertainty) == sorted(norms.uncertainty)
    few = len(learned) < 6  # too few for a Gaussian
    assert len(norms.scores) == (0 if few else len(judged))
    assert set(norms.aspects) == (set() if few else {"geometry", "intensity", "layout", "features"})
    if kind == "pictures":
        assert norms.structures == {}
        return
    volumes = [float(np.count_nonzero(store.mask(case.case_id))) / 1000 for case in (*learned, *judged)]
    block = norms.structures[1]
    assert (block.scans, block.absent, block.pieces, block.touching) == (len(volumes), 0, 1, block.touching)
    assert (block.least_ml, block.most_ml) == (pytest.approx(min(volumes)), pytest.approx(max(volumes)))
