"""What is done to a mask after the network."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def keep_largest(mask: np.ndarray) -> np.ndarray:
    """Keep, of every label of (I, J, K), only its largest connected component (26 neighbours).

    The counterpart of MONAI's `KeepLargestConnectedComponent` with ``independent=True``; of two equally large
    components the first in memory order stays.
    """
    kept = mask.copy()
    neighbours = np.ones((3, 3, 3), dtype=bool)
    for label, box in enumerate(ndimage.find_objects(mask), start=1):
        if box is None:
            continue
        inside = kept[box]
        components, number = ndimage.label(mask[box] == label, structure=neighbours)
        if number > 1:
            sizes = np.bincount(components.ravel())
            sizes[0] = 0
            inside[(components > 0) & (components != sizes.argmax())] = 0
    return kept
