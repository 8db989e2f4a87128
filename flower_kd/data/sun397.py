"""SUN397 on disk, as its archive and torchvision have it (Xiao et al., CVPR 2010).

`ClassName.txt` lists the classes, such as `/a/apartment_building/outdoor`; the images of one are
`a/apartment_building/outdoor/sun_*.jpg`.
"""

from __future__ import annotations

from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Image

CLASSES_FILE = "ClassName.txt"
IMAGES = "sun_*.jpg"


def folder_of(path: Path) -> Path | None:
    """Return the folder with the list of classes, a given one or SUN397 in it; None if a folder has another layout."""
    return next((folder for folder in (path, path / "SUN397") if (folder / CLASSES_FILE).is_file()), None)


def table(folder: Path) -> Dataset:
    """Return image files, in the order of their paths, and labels; raises ValueError if the folder is incomplete."""
    lines = (folder / CLASSES_FILE).read_text("utf-8").split()
    labels = {line: label for label, line in enumerate(lines)}
    images = sorted(folder.rglob(IMAGES))
    if not images:
        raise ValueError(f"it has {CLASSES_FILE}, but no images {IMAGES}")
    classes = [f"/{image.parent.relative_to(folder).as_posix()}" for image in images]
    unknown = next((image for image, name in zip(images, classes, strict=True) if name not in labels), None)
    if unknown is not None:
        raise ValueError(f"{CLASSES_FILE} does not list the class of {unknown.relative_to(folder).as_posix()}")
    names = [line.removeprefix("/").partition("/")[2] for line in lines]
    return Dataset.from_dict(
        {"image": [str(image) for image in images], "label": [labels[name] for name in classes]},
        features=Features({"image": Image(decode=False), "label": ClassLabel(names=names)}),
    )
