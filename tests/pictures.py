"""Pictures as files hold them, of which collections are made."""

import io

import numpy as np
from PIL import Image


def picture(
    seed: int, kind: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (40, 36)
) -> bytes:
    """An encoded picture of random coarse blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    image = Image.fromarray(blocks).resize(size, Image.Resampling.BILINEAR).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()
