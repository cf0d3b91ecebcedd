"""What reading an image as 8-bit RGB does not keep is said."""

import numpy as np
import pytest
from PIL import Image

from rhseg_lib.sources.images import read_picture

GREY = np.arange(64, dtype=np.uint16).reshape(8, 8)
CLEAR = Image.new("RGBA", (8, 8), (200, 100, 50, 0))
PLAIN = Image.new("RGB", (8, 8), (200, 100, 50))
SHINING = CLEAR.convert("P")  # with a transparent palette entry
SHINING.info["transparency"] = 0


@pytest.mark.parametrize(
    ("image", "suffix", "options", "remark"),
    [
        (Image.fromarray(GREY), "png", {}, "more than 8 bits"),
        (Image.fromarray(GREY.astype(np.float32)), "tif", {}, "more than 8 bits"),
        (CLEAR, "png", {}, "transparent"),
        (CLEAR.convert("LA"), "png", {}, "transparent"),
        (SHINING, "gif", {"transparency": 0}, "transparent"),
        (PLAIN, "tif", {"save_all": True, "append_images": [Image.new("RGB", (8, 8))]}, "several frames"),
        (PLAIN.convert("RGBA"), "png", {}, ""),
        (PLAIN, "jpg", {}, ""),
        (Image.new("1", (8, 8)), "png", {}, ""),
    ],
)
def test_what_is_not_kept_is_said(tmp_path, image, suffix, options, remark):
    path = tmp_path / f"image.{suffix}"
    image.save(path, **options)
    array, said = read_picture(path)
    assert array.shape == (8, 8, 3) and array.dtype == np.uint8
    assert remark in said and bool(remark) == bool(said)
