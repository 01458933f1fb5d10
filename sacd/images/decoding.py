"""From the bytes of an image file to a square of RGB pixels."""

import re
from io import BytesIO

import numpy as np
from PIL import Image, UnidentifiedImageError

# Decoders that may see a file, whatever its name says: others start programs or are little tested.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
EXTENSIONS = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif",
    ".ppm", ".pgm", ".pbm", ".pnm",
}  # fmt: skip
SMALLEST = 32  # pixels; below that a photograph shows nothing at any size we use
ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Unusable(Exception):
    """An image that must be skipped; the message is the reason."""


def load_square(data: bytes, size: int) -> tuple[np.ndarray, tuple[int, int], tuple[int, ...]]:
    """Decode, turn upright as EXIF says, crop the central square, resize to `size` pixels.

    Returns pixels uint8 (size, size, 3), the original (width, height) and the crop box (left, top,
    right, bottom). Any colour mode becomes RGB, transparency becomes white; of several frames the
    first is taken. Raises `Unusable` with the reason.
    """
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as stored:
            width, height = stored.size
            if min(width, height) < SMALLEST:
                raise Unusable(f"too small: {width}x{height} px, needs {SMALLEST}")
            image = _rgb(_upright(stored))
            width, height = image.size
            side = min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            box = (left, top, left + side, top + side)
            square = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
            return np.asarray(square), (width, height), box
    except Unusable:
        raise
    except UnidentifiedImageError as error:
        raise Unusable(f"unreadable: not an image file ({', '.join(FORMATS)})") from error
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        # The reason is kept in a table that is hashed: no address that is new in every run.
        reason = re.sub(r" at 0x[0-9a-fA-F]+", "", str(error)) or type(error).__name__
        raise Unusable(f"unreadable: {reason}") from error


def _upright(stored: Image.Image) -> Image.Image:
    """The picture turned as its metadata say, of which no other entry is looked at."""
    stored.load()  # a TIFF turns itself here, and then asks for no more turning
    try:
        orientation = stored.getexif().get(ORIENTATION)
    except Exception:  # metadata that cannot be read say nothing; the pixels are there
        return stored
    turn = UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return stored if turn is None else stored.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _eight_bits(image).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Gray of more than 8 bits -> 8 bits. Where the mode doesn't tell which value is white (32-bit
    integers and floats), it is the least of the usual ones (1, 255, 65535) that is not exceeded."""
    values = np.asarray(image).astype(np.float64)
    if not (values.min() >= 0 and values.max() <= 65535):  # nor if any is no number
        raise Unusable("gray values outside 0 to 65535: no telling which is white")
    if image.mode.startswith("I;16") or image.format == "PPM":
        white = 65535
    else:
        usual = (255, 65535) if image.mode == "I" else (1, 255, 65535)
        white = next(value for value in usual if values.max() <= value)
    gray = (values * (255 / white)).round().astype(np.uint8)
    if (clear := image.info.get("transparency")) is not None:
        gray[values == clear] = 255
    return Image.fromarray(gray)
