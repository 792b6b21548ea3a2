"""How much an input may ask for; checked against declared sizes before memory is taken."""

from __future__ import annotations

import math
from dataclasses import dataclass

from medml.errors import Refusal


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps on one decoded volume.

    Attributes
    ----------
    decoded_bytes : int
        Largest volume after decoding.
    axis : int
        Longest axis, in voxels.
    ratio, ratio_above : int
        Largest ratio of decoded to stored bytes, for what decodes to more than ``ratio_above`` bytes.
    """

    decoded_bytes: int = 1 << 31
    axis: int = 4096
    ratio: int = 200
    ratio_above: int = 64 << 20

    def check(self, shape: tuple[int, ...], itemsize: int, stored_bytes: int) -> None:
        """Refuse a declared shape that is empty or over a cap; ``stored_bytes`` is what the file takes on disk."""
        if min(shape) < 1:
            raise Refusal("empty_image", f"the header declares the shape {shape}; expected at least one voxel an axis")
        if max(shape) > self.axis:
            raise Refusal(
                "too_large", f"the header declares the shape {shape}; expected at most {self.axis} voxels an axis"
            )
        decoded = math.prod(shape) * itemsize
        if decoded > self.decoded_bytes:
            raise Refusal(
                "too_large", f"decodes to {decoded} bytes, expected at most {self.decoded_bytes}; crop or resample it"
            )
        if decoded > self.ratio_above and decoded > self.ratio * stored_bytes:
            raise Refusal(
                "compression_bomb",
                f"{stored_bytes} bytes decode to {decoded}: more than {self.ratio} to 1; "
                "store it uncompressed if it is real",
            )


IMAGE_LIMITS = Limits()
# A label mask is mostly zeros, and deflate reaches 1032 to 1 on zeros: a real mask may, so only its size is capped.
MASK_LIMITS = Limits(decoded_bytes=1 << 30, ratio=1100)
# What we stored ourselves passed the caps of its source; only its size is capped.
STORED_LIMITS = Limits(decoded_bytes=1 << 33, axis=32767, ratio=1100)
# One flat image: mammograms and fundus photographs are wider than any volume, and still small.
PICTURE_LIMITS = Limits(decoded_bytes=1 << 30, axis=16384)
