"""Pictures of every depth, ground and orientation, and files that only look like pictures."""

import io
import struct

import numpy as np
import pytest
from pictures import picture
from PIL import Image

from sacd.images import decoding
from sacd.images.collection import Unusable, load_square

RAMP = np.tile(np.linspace(0, 65535, 64), (64, 1))


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def square(data: bytes, size: int = 64) -> np.ndarray:
    return load_square(data, size)[0].astype(int)


class TestDepth:
    @pytest.mark.parametrize(
        ("kind", "kept"),
        [("PNG", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2"), ("TIFF", "<i4"), ("PPM", "<u2"),
         ("TIFF", "<f4")],
    )  # fmt: skip
    def test_a_ramp_of_16_bits_stays_one(self, kind: str, kept: str):
        pixels = square(encode(Image.fromarray(RAMP.astype(kept)), kind))
        assert abs(pixels - RAMP[..., None] / 257).max() <= 1

    @pytest.mark.parametrize(("white", "kept"), [(1, "<f4"), (255, "<f4"), (255, "<i4")])
    def test_white_is_the_least_usual_value_that_holds_all(self, white: int, kept: str):
        ramp = (RAMP / 65535 * white).astype(kept)
        pixels = square(encode(Image.fromarray(ramp), "TIFF"))
        assert abs(pixels - ramp[..., None].astype(float) * 255 / white).max() <= 1

    @pytest.mark.parametrize("kind", ["PNG", "PPM"])
    def test_a_dark_picture_of_16_bits_stays_dark(self, kind: str):
        dark = Image.fromarray((RAMP / 256).astype(np.uint16))
        assert square(encode(dark, kind)).max() == 1

    @pytest.mark.parametrize("value", [-3.0, 70000.0, np.nan, np.inf])
    def test_values_without_a_white_are_unusable(self, value: float):
        ramp = RAMP.astype(np.float32)
        ramp[5, 5] = value
        with pytest.raises(Unusable, match="no telling which is white"):
            load_square(encode(Image.fromarray(ramp), "TIFF"), 64)


class TestGround:
    """What shows through transparency is white, whatever colour the file keeps there."""

    def clear_left(self, mode: str) -> Image.Image:
        colours = Image.new("RGB", (64, 64), (10, 90, 160))
        mask = Image.fromarray(np.repeat(np.uint8([[0, 255]]), 32, 1).repeat(64, 0))
        if mode in ("RGBA", "LA"):
            colours.putalpha(mask)
            return colours.convert(mode)
        indices = Image.fromarray((np.asarray(mask) > 0).astype(np.uint8), "P")
        indices.putpalette([10, 90, 160] * 2)
        return indices

    @pytest.mark.parametrize(
        ("mode", "kind"),
        [("RGBA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "GIF"), ("RGBA", "TIFF"), ("LA", "PNG"),
         ("P", "PNG"), ("P", "GIF")],
    )  # fmt: skip
    def test_of_channels_and_palettes(self, mode: str, kind: str):
        options = {"transparency": 0} if mode == "P" else {}
        options |= {"lossless": True} if kind == "WEBP" else {}
        pixels = square(encode(self.clear_left(mode), kind, **options))
        assert pixels[:, :28].min() == 255
        expected = (10, 90, 160) if mode != "LA" else (74,) * 3
        assert abs(pixels[:, 36:] - expected).max() <= 1

    def test_of_shares_in_a_palette(self):
        image = self.clear_left("P")
        pixels = square(encode(image, transparency=bytes([128, 255])))
        assert abs(pixels[:, :28] - [132, 172, 207]).max() <= 1
        assert abs(pixels[:, 36:] - [10, 90, 160]).max() <= 1

    @pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
    def test_of_one_colour(self, mode: str):
        gray = np.full((64, 64), 40, np.uint8)
        gray[:, 32:] = 90
        image = Image.fromarray(gray).convert("RGB" if mode == "RGB" else "L")
        if mode == "I;16":
            image = Image.fromarray(gray.astype(np.uint16) * 257)
        clear = {"L": 40, "RGB": (40, 40, 40), "I;16": 40 * 257}[mode]
        pixels = square(encode(image, transparency=clear))
        assert pixels[:, :28].min() == 255
        assert abs(pixels[:, 36:] - 90).max() <= 1


class TestOrientation:
    UPRIGHT = np.repeat(np.arange(0, 240, 4, dtype=np.uint8)[:, None], 40, 1)  # bright below

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
    def test_all_are_turned_upright(self, kind: str, orientation: int):
        marked = Image.fromarray(self.UPRIGHT).convert("RGB")
        marked.paste((255, 255, 255), (0, 12, 20, 24))  # tells left from right
        stored, exif = marked, Image.Exif()
        for turn, inverse in decoding.UPRIGHT.items():
            if turn == orientation:
                back = {6: decoding.UPRIGHT[8], 8: decoding.UPRIGHT[6]}.get(turn, inverse)
                stored = marked.transpose(back)
        exif[decoding.ORIENTATION] = orientation
        pixels, size, _ = load_square(encode(stored, kind, exif=exif), 40)
        assert size == (40, 60)
        assert abs(pixels.astype(int) - np.asarray(marked)[10:50]).mean() < 3

    def test_other_entries_are_not_looked_at(self):
        broken = [
            (0x11B, 5, 1, struct.pack("<I", 60000)),  # a resolution beyond the end
            (0x128, 2, 9, b"\xff\xff\xff\xff"),  # a unit that is text
            (0x8769, 4, 1, struct.pack("<I", 5)),  # another directory, inside the header
        ]
        pixels, size, _ = load_square(self.with_exif([(0x112, 3, 1, b"\6\0\0\0"), *broken]), 40)
        assert size == (40, 60)
        assert pixels[-4:].mean() > pixels[:4].mean() + 100

    @pytest.mark.parametrize("value", [b"\0\0\0\0", b"\x09\0\0\0", b"\xff\xff\0\0"])
    def test_one_that_does_not_exist_turns_nothing(self, value: bytes):
        assert load_square(self.with_exif([(0x112, 3, 1, value)]), 40)[1] == (60, 40)

    @pytest.mark.parametrize("kind", [2, 7, 12])
    def test_nor_does_one_of_another_type(self, kind: int):
        assert load_square(self.with_exif([(0x112, kind, 1, b"\6\0\0\0")]), 40)[1][0] in (40, 60)

    def with_exif(self, entries: list[tuple[int, int, int, bytes]]) -> bytes:
        lying = encode(Image.fromarray(self.UPRIGHT).transpose(Image.Transpose.ROTATE_90), "JPEG")
        body = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries))
        body += b"".join(struct.pack("<HHI4s", *entry) for entry in sorted(entries)) + bytes(4)
        return lying[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + lying[2:]


class TestFormats:
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
    def test_these_are_read(self, kind: str):
        assert load_square(picture(0, kind), 32)[1] == (40, 36)

    @pytest.mark.parametrize("kind", ["EPS", "ICO", "TGA", "PCX", "SGI", "JPEG2000", "MSP"])
    def test_no_other_decoder_is_reached(self, kind: str, monkeypatch: pytest.MonkeyPatch):
        data = picture(0, kind, "1" if kind == "MSP" else "RGB")
        reached = []
        factory, accept = Image.OPEN[kind]
        monkeypatch.setitem(
            Image.OPEN, kind, (lambda *a: reached.append(kind) or factory(*a), accept)
        )
        with pytest.raises(Unusable, match=r"not an image file \(JPEG, PNG"):
            load_square(data, 32)
        assert reached == []

    def test_of_several_frames_the_first_is_taken(self):
        frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
        for kind in ("GIF", "TIFF"):
            data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
            assert square(data, 32)[16, 16].tolist() == [255, 0, 0]

    @pytest.mark.parametrize(
        "error",
        [RuntimeError("?"), KeyError("x"), IndexError(), MemoryError(), OverflowError(), TypeError(
        ), AttributeError("a"), ZeroDivisionError(), RecursionError(), struct.error("unpack")],
    )  # fmt: skip
    def test_whatever_a_decoder_raises_is_a_reason(
        self, error: Exception, monkeypatch: pytest.MonkeyPatch
    ):
        def fail(image: Image.Image) -> None:
            raise error

        monkeypatch.setattr(decoding, "_rgb", fail)
        with pytest.raises(Unusable, match=r"unreadable: \S"):
            load_square(picture(0), 32)

    @pytest.mark.parametrize("kind", ["TIFF", "GIF", "PPM"])
    def test_a_damaged_picture_is_read_or_unusable_and_nothing_else(self, kind: str):
        content, rng = picture(0, kind, size=(90, 80)), np.random.default_rng(1)
        for _ in range(60):
            damaged = bytearray(content)
            for place in rng.integers(0, min(300, len(content)), 4):
                damaged[place] = rng.integers(256)
            try:
                assert load_square(bytes(damaged), 32)[0].shape == (32, 32, 3)
            except Unusable as reason:
                assert " at 0x" not in str(reason)
