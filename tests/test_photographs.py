"""An experiment on photographs: which files of an archive are used, and which are listed."""

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Checkout
from PIL import Image

from sacd.files import read_json
from sacd.images import shapes
from sacd.shards import Shards

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def photographs(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """An experiment on an archive in ImageFolder layout, with files that cannot be used."""
    made = checkout.copy(tmp_path_factory.mktemp("photographs") / "repository")
    with tarfile.open(made.experiment / "photos.tar", "w") as archive:
        for label, name in enumerate(("ball", "box")):
            for split, count in (("train", 6 + label), ("val", 9)):
                for index in range(count):
                    picture = scene(split, 20 * index + 4 * label)
                    add(archive, f"photos/{split}/{name}/{index}.png", encode(picture))
        good = encode(scene("train", 400).convert("L"))
        add(archive, "photos/train/ball/gray.png", good)
        add(archive, "photos/train/ball/cut.png", good[: len(good) // 2])
        add(archive, "photos/train/ball/text.jpg", b"not an image")
        add(archive, "photos/train/box/small.png", encode(scene("train", 0).resize((31, 90))))
        add(archive, "photos/train/notes.txt", b"no image's name: not looked at")

    def choose(params: dict) -> None:
        params["seed"] = 1  # by this one no broken file comes after enough good ones
        params["images"] |= {
            "source": "photos.tar", "classes": "all", "max_skipped": 0.2,
            "per_class": {"train": 7, "val": 2, "test": 3},
        }  # fmt: skip
        params["compare"]["segmenters"] = []
        autoencoder = params["prior"]["autoencoder"]
        critics = [autoencoder["critic"], autoencoder["finetune"]["critic"]]
        for network in [*params["backbones"].values(), *critics]:
            network["training"]["dense"] = False

    made.edit(choose)
    return made


class TestPhotographs:
    def test_usable_files_are_prepared_and_others_listed(self, photographs: Checkout):
        photographs.snakemake("prepare_images")
        folder = photographs.experiment
        table = pd.read_parquet(folder / "data/manifest.parquet")
        assert table.groupby(["split", "class_name"]).size().to_dict() == {
            (split, name): count
            for split, count in (("train", 7), ("val", 2), ("test", 3))
            for name in ("ball", "box")
        }
        assert table.image_id.is_unique
        for split in SPLITS:  # test and val images come from the folder val/
            names = table.image_id[table.split == split]
            assert names.str.startswith(
                "photos/train/" if split == "train" else "photos/val/"
            ).all()
            assert Shards(folder / "data/images" / split).ids == names.tolist()
        assert "photos/train/notes.txt" not in set(table.image_id)

        reasons = pd.read_csv(folder / "data/skipped.csv").set_index("path").reason
        assert set(reasons.index) == {
            "photos/train/ball/cut.png", "photos/train/ball/text.jpg", "photos/train/box/small.png",
        }  # fmt: skip
        assert reasons["photos/train/ball/cut.png"].startswith("unreadable: ")
        assert reasons["photos/train/ball/text.jpg"].startswith("unreadable: ")
        assert reasons["photos/train/box/small.png"] == "too small: 31x90 px, needs 32"
        assert read_json(folder / "data/record.json")["skipped"] == 3

        row = table[table.image_id.str.endswith(".png")].iloc[0]
        assert (row.width, row.height) == (48, 64)
        assert list(row.crop) == [0, 8, 48, 56]  # the central square
        with tarfile.open(folder / "photos.tar") as archive:
            data = archive.extractfile(row.image_id).read()
        assert row.sha256 == hashlib.sha256(data).hexdigest()
        with Image.open(io.BytesIO(data)) as image:
            square = image.convert("RGB").resize(
                (32, 32), Image.Resampling.BICUBIC, box=(0, 8, 48, 56)
            )
        shards = Shards(folder / "data/images" / row.split)
        stored = shards.read("images", [shards.ids.index(row.image_id)])[0]
        assert (stored.permute(1, 2, 0).numpy() == np.asarray(square)).all()

        gray = table.image_id.tolist().index("photos/train/ball/gray.png")
        train = Shards(folder / "data/images/train")
        pixels = train.read("images", [train.ids.index(table.image_id[gray])])[0]
        assert torch.equal(pixels[0], pixels[1])
        assert torch.equal(pixels[0], pixels[2])

    def test_too_many_are_an_error(self, photographs: Checkout, tmp_path: Path):
        strict = photographs.copy(tmp_path / "repository")
        strict.edit(lambda params: params["images"].update(max_skipped=0.1))
        done = strict.snakemake("prepare_images", check=False)
        assert done.returncode == 1
        assert "error: photos.tar: 3 images (11.1%) are unusable" in done.stdout
        assert "images.max_skipped (10.0%). The first of 3 skipped:\n  photos/train/" in done.stdout
        assert "Traceback" not in done.stdout
        assert "Error in rule prepare_images" in done.stdout
        assert "MissingOutputException" not in done.stdout  # it is the stage that failed
        assert not (strict.experiment / "data/manifest.parquet").exists()
        assert "3 images" in (strict.experiment / "logs/prepare_images.log").read_text()


def scene(split: str, index: int) -> Image.Image:
    """A picture of the embedded world, 48x64 pixels."""
    return Image.fromarray(shapes.render(shapes.draw(0, split, index), 64)[0]).crop((8, 0, 56, 64))


def encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
