"""One image's bytes, as the network takes it: what is converted, how, and what is refused."""

from typing import cast

import numpy as np

from dbrnet.data.dataset import Image
from dbrnet.data.image_decoding import declared_size, decode_any, keep_upper_bits
from dbrnet.errors import UserError

MAX_PIXELS = 2**26  # predicting takes about 100 bytes of memory a pixel: 7 GB for the largest
_FEWEST_GREYS = 16


def decode_image(data: bytes, name: str, bit_depth: int = 16, max_pixels: int = MAX_PIXELS) -> Image:
    """RGB uint8 [H, W, 3] of a JPEG, PNG, TIFF (one page), BMP or WebP file, turned as EXIF says.

    Of 16-bit images, whose values are below 2**`bit_depth`, the upper 8 of those bits are kept, as
    ingestion does; where that leaves fewer than 16 greys, the depth is taken to be wrong. Raises `UserError`
    that begins with `name` for every other kind, and where the image is broken or declares more pixels
    than `max_pixels`.
    """
    if not data:
        raise UserError(f"{name}: the file is empty (0 bytes); fetch it again or remove it")
    if data.startswith(b"GIF8"):
        raise UserError(f"{name}: GIF is not read (256 colours are not what a camera saw); save it as PNG")
    height, width = declared_size(data, name)
    if height * width > max_pixels:
        raise UserError(
            f"{name}: declares {height}x{width} pixels; at most {max_pixels} are predicted at once: cut it into tiles"
        )
    pixels = decode_any(data, name)
    if pixels.dtype == np.uint8:
        return cast(Image, pixels)
    used = int(pixels.max()).bit_length()
    if used > bit_depth:
        raise UserError(f"{name}: uses {used} bits, and the bit depth given is {bit_depth}; raise that")
    if 0 < used <= bit_depth - (_FEWEST_GREYS - 1).bit_length():
        raise UserError(
            f"{name}: uses {used} of {bit_depth} bits, so hardly a grey would be left of it; "
            "give the camera's own bit depth"
        )
    return keep_upper_bits(pixels, bit_depth)
