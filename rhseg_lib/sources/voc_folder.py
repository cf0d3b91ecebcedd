"""An existing VOC tree as a source of images with masks.

    JPEGImages/                           .jpg, .jpeg, .png or .bmp, in subfolders too
    SegmentationClass/                    PNG with class ids (palette or grey; 255 is ignored), or RGB in the colours of
                                          labelmap.txt, else in VOC's; named like the image
    ImageSets/Segmentation/train.txt      or trainval.txt without the names of the test list
    ImageSets/Segmentation/test.txt       or val.txt
    labelmap.txt                          CVAT's, if there: the colour of each label
    class_names.txt                       Labelme's, if there: must name the profile's classes in their order

An empty list counts as missing. Without lists all images with a mask are used, and the study splits them.
"""

import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from rhseg_lib.errors import StudyError
from rhseg_lib.files import LEFT_BEHIND, read_text
from rhseg_lib.sources.checks import MAX_ROWS, Problem, collected, display_path, refuse, unplaced
from rhseg_lib.sources.images import IGNORE_INDEX, VOC_PALETTE, Picture, decode, read_bytes, simplified, to_rgb
from rhseg_lib.sources.labelme_shapes import label_ids

IMAGES, MASKS, LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
LABELMAP, CLASS_NAMES = "labelmap.txt", "class_names.txt"
VOC_COLOURS = {tuple(colour): value for value, colour in enumerate(VOC_PALETTE.tolist())}
LOSSLESS = ("PNG", "BMP", "DIB", "TIFF", "GIF", "PPM")  # formats of masks
AS_IDS = "save it as single-channel PNG with class ids: 0 background, 1, 2, … in the profile's order, 255 ignore"
RESPLIT = "correct the list, or set 'split: grouped' to split without lists"


@dataclass(frozen=True)
class VocTree:
    """A folder in VOC's layout, as a source with the members of `labelme_folder.LabelmeFolder`."""

    folder: Path
    classes: tuple[str, ...]  # of mask values 1, 2, ...
    own_split: bool  # whether its lists, if any, select and split the images
    ignore_labels: tuple[str, ...] = ()  # labels of labelmap.txt whose regions are ignored (255)
    background_labels: tuple[str, ...] = ()  # and of objects that are background

    def names(self) -> dict[str, Path]:
        """Name of each image -> its file, sorted by name; StudyError lists missing and duplicate files."""
        return self._survey()[0]

    def given_split(self) -> tuple[list[str] | None, list[str]]:
        """Names of the test images in the tree's own lists, None without lists; and notes for the user."""
        return self._survey()[1:]

    def examine(self, path: Path) -> tuple[Picture | None, list[Problem]]:
        """One image with its mask, or all errors in the two files."""
        problems, image, mask, mask_path, remark = list[Problem](), None, None, self._mask_of(path), ""
        with collected(problems, display_path(path, self.folder)):
            decoded = decode(read_bytes(path), use_exif=True)[0]
            image, remark = to_rgb(decoded), simplified(decoded)  # (H, W, 3)
        with collected(problems, display_path(mask_path, self.folder)):
            mask = _read_mask(mask_path, len(self.classes), self._colours())  # (H, W)
            if image is not None and mask.shape != image.shape[:2]:
                what = "a mask of {1}x{0} pixels for an image of {3}x{2}".format(*mask.shape, *image.shape[:2])
                raise unplaced(what, "restore the image it was drawn on, or draw the mask again")
        if problems or image is None or mask is None:
            return None, problems
        return Picture(image, mask, Counter(), remark=remark), problems

    def fingerprint(self, path: Path) -> str:
        """Changes with the size or time of the image file, of its mask or of labelmap.txt."""
        files = (path, self._mask_of(path), self.folder / LABELMAP)
        states = [file.stat() for file in files if file.exists()]
        return " ".join(f"{state.st_size}/{state.st_mtime_ns}" for state in states)

    def unannotated(self) -> list[str]:
        """Files of images that have no mask and are in no list."""
        images, masks = self._by_name(IMAGES, IMAGE_SUFFIXES, []), self._by_name(MASKS, None, [])
        used = {*masks, *self.names()}
        return [display_path(images[name], self.folder) for name in images if name not in used]

    def _colours(self) -> dict[tuple[int, ...], int]:
        """Mask value of each colour in labelmap.txt; empty without that file.

        Its lines are "label:red,green,blue:parts:actions"; "background" is 0.
        """
        path, colours = self.folder / LABELMAP, dict[tuple[int, ...], int]()
        if not path.is_file():
            return colours
        values = label_ids(self.classes, self.ignore_labels, self.background_labels) | {"background": 0}
        for line in read_text(path).splitlines():
            label, _, rest = line.partition(":")
            if not line.strip() or line.startswith("#"):
                continue
            try:
                red, green, blue = map(int, rest.split(":")[0].split(","))
            except ValueError as error:
                what = f"{LABELMAP} has a line that is no 'label:red,green,blue': {line:.40}"
                raise unplaced(what, "correct the line") from error
            if label not in values:
                fix = "add it to 'classes', 'background_labels' or 'ignore_labels' of the profile"
                raise unplaced(f"{LABELMAP} names the label '{label}', which the profile lacks", fix)
            if colours.setdefault((red, green, blue), values[label]) != values[label]:
                fix = "give each label its own colour, there and in the masks"
                raise unplaced(f"{LABELMAP} gives the label '{label}' the colour of another one", fix)
        return colours

    def _check_class_names(self) -> None:
        """StudyError if labelme2voc's class_names.txt, which gives the order of the mask values, has another order."""
        path = self.folder / CLASS_NAMES
        if not path.is_file() or (self.folder / LABELMAP).is_file():
            return
        lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
        named = [name for name in lines if name not in ("__ignore__", "_background_", "background")]
        if named != list(self.classes):
            what = f"the classes or their order differ from the profile's: {', '.join(named)}"
            raise StudyError(what, where=path, fix=f"write `classes: [{', '.join(named)}]` in the profile")

    def _mask_of(self, path: Path) -> Path:
        usual = self.folder / MASKS / path.relative_to(self.folder / IMAGES).with_suffix(".png")
        return usual if usual.is_file() else self._by_name(MASKS, None, []).get(_name(path), usual)

    def _survey(self) -> tuple[dict[str, Path], list[str] | None, list[str]]:
        """Names, test names and notes, from file names and lists alone."""
        self._check_class_names()
        problems, notes, test = list[Problem](), list[str](), None
        images, masks = self._by_name(IMAGES, IMAGE_SUFFIXES, problems), self._by_name(MASKS, None, problems)
        wanted = {*masks}
        if self.own_split:
            subsets = self._read_lists(images, problems, notes)
            if subsets is None:
                notes.append("The tree has no train and test lists: the study split it.")
            else:
                train, test = subsets
                wanted = {*train, *test}
                left_out = len(images.keys() - wanted)
                if left_out:
                    notes.append(f"{left_out} images in {IMAGES} are in neither list and were left out.")
        for name in sorted(wanted):
            if name not in masks and name in images:
                fix = f"add {MASKS}/{name}.png, or remove the image"
                problems.append(self._problem(images[name], "no mask for this image", fix))
            elif name not in images and test is None:
                fix = f"add it to {IMAGES} as one of {', '.join(IMAGE_SUFFIXES)}, or remove the mask"
                problems.append(self._problem(masks[name], "no image for this mask", fix))
            if name != name.strip() or not name.isprintable():
                fix = "rename image and mask: no outer spaces or control characters"
                problems.append(Problem(repr(name), None, "a name that no list can hold", fix))
        refuse(problems, self.folder)
        if not wanted:
            raise StudyError("no images in the tree", where=self.folder / IMAGES, fix="put images and masks there")
        return {name: images[name] for name in sorted(wanted)}, test, notes

    def _by_name(self, inner: str, suffixes: tuple[str, ...] | None, problems: list[Problem]) -> dict[str, Path]:
        """Files of a folder and its subfolders by name without suffix; hidden files and other suffixes are ignored."""
        folder, found = self.folder / inner, dict[str, Path]()
        if not folder.is_dir():
            fix = f"give the folder that holds {IMAGES}, {MASKS} and {LISTS}"
            raise StudyError(f"no folder '{inner}'", where=self.folder, fix=fix)
        for path in sorted(folder.rglob("*")):
            if any(part[0] == "." for part in path.relative_to(folder).parts) or not path.is_file():
                continue
            if path.name.lower() in LEFT_BEHIND or (suffixes and path.suffix.lower() not in suffixes):
                continue
            if path.suffix == ".npy":
                has_masks = (self.folder / f"{MASKS}PNG").is_dir()
                fix = f"move this folder away and rename {MASKS}PNG to {MASKS}" if has_masks else AS_IDS
                raise StudyError("the masks are NumPy arrays (.npy), not images", where=folder, fix=fix)
            name = _name(path)
            if name in found:
                what = f"{display_path(found[name], folder)} has the same name"
                problems.append(self._problem(path, what, "rename one of them, or remove it"))
            found[name] = path
        return found

    def _problem(self, path: Path, what: str, fix: str) -> Problem:
        return Problem(display_path(path, self.folder), None, what, fix)

    def _read_lists(
        self, images: dict[str, Path], problems: list[Problem], notes: list[str]
    ) -> tuple[list[str], list[str]] | None:
        """Names of the train and of the test images, or None if no list holds a name."""
        lists = {name: self._read_list(name, problems) for name in ("train", "trainval", "test", "val")}
        if not any(lists.values()):
            return None
        train_list, test_list = "train" if lists["train"] else "trainval", "test" if lists["test"] else "val"
        train, test = lists[train_list], lists[test_list]
        if train_list == "trainval":
            notes.append("train.txt is missing or empty: trainval.txt is used, without the test names.")
            train = [name for name in train if name not in set(test)]
        if test_list == "val":
            notes.append("test.txt is missing or empty: val.txt is the test list.")
        for subset, file, names in (("train", train_list, train), ("test", test_list, test)):
            if not names:
                what = "missing or empty, while other lists are not"
                problems.append(Problem(f"{LISTS}/{subset}.txt", None, what, RESPLIT))
            unknown = [name for name in names if name not in images]
            if len(unknown) > MAX_ROWS:
                what = f"{len(unknown)} names without an image, such as '{unknown[0]:.60}'"
                problems.append(Problem(f"{LISTS}/{file}.txt", None, what, f"add the images to {IMAGES}, or {RESPLIT}"))
                continue
            for name in unknown:
                if "/" in name or "\\" in name:
                    what, fix = f"'{name}' is a path", "list names without folders"
                elif Path(name).suffix.lower() in IMAGE_SUFFIXES:
                    what, fix = f"'{name}' has a suffix", "list names without suffixes"
                else:
                    what, fix = f"no image is named '{name}'", f"add it to {IMAGES}, or {RESPLIT}"
                problems.append(Problem(f"{LISTS}/{file}.txt", None, what, fix))
        for name in sorted({*train} & {*test}):
            what, fix = f"'{name}' is also in {train_list}.txt", f"an image is in either train or test: {RESPLIT}"
            problems.append(Problem(f"{LISTS}/{test_list}.txt", None, what, fix))
        return train, test

    def _read_list(self, name: str, problems: list[Problem]) -> list[str]:
        """The names in a list, each once, without blank lines and outer spaces; empty if there is no list."""
        path, content = self.folder / LISTS / f"{name}.txt", ""
        if path.is_file():
            with collected(problems, f"{LISTS}/{name}.txt"):
                content = read_text(path)
        lines = unicodedata.normalize("NFC", content).splitlines()
        return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def _name(path: Path) -> str:
    """The name of an image or mask, whose accents a Mac may store as characters of their own."""
    return unicodedata.normalize("NFC", path.stem)


def _read_mask(path: Path, num_classes: int, colours: dict[tuple[int, ...], int]) -> np.ndarray:
    """(H, W) uint8 with values 0 to `num_classes` and 255; `colours` are those of labelmap.txt, if there is one.

    StudyError for anything else.
    """
    image = decode(read_bytes(path), use_exif=False)[0]
    if image.format not in LOSSLESS:
        raise unplaced(f"a mask in {image.format} format, which changes class ids", AS_IDS)
    if image.mode == "RGBA" and image.getchannel("A").getextrema() == (255, 255):
        image = image.convert("RGB")
    if image.mode == "P" and colours:
        ignored = tuple((image.getpalette() or [])[3 * IGNORE_INDEX :])  # the colour of value 255
        colours = {ignored: IGNORE_INDEX, **colours}
        image = image.convert("RGB")
    if image.mode not in ("P", "L", "1", "RGB"):
        bits = ", of 16 bits or more" if image.mode.startswith(("I", "F")) else ""
        raise unplaced(f"a mask of mode {image.mode}{bits}", AS_IDS)
    mask, unknown = np.asarray(image), list[tuple[int, ...]]()
    if image.mode == "RGB":
        mask, unknown = _ids_of_colours(mask, colours or VOC_COLOURS)
    mask = mask.astype(np.uint8)
    values = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist()
    if unknown == [(255, 255, 255)] or (not unknown and _looks_binary(mask, values)):
        fix = f"{AS_IDS}; if 255 does mean ignore and no class is shown, leave the image out"
        raise unplaced("this looks like a 0/255 mask; class ids are 0, 1, 2, …; 255 means ignore", fix)
    if unknown:
        palette = LABELMAP if colours else "VOC's palette"
        what = f"an RGB mask with {len(unknown)} colour(s) that {palette} lacks: {_listed(unknown)}"
        raise unplaced(what, AS_IDS)
    outside = [value for value in values if num_classes < value < IGNORE_INDEX]
    if outside:
        what = f"mask values that belong to no class: {_listed(outside)}; the classes are 1 to {num_classes}"
        raise unplaced(what, "name all classes in the profile, in the order of their ids, or correct the mask")
    if image.mode == "P":
        _check_palette(image, values, num_classes)
    return mask


def _listed(values: list) -> str:
    return ", ".join(map(str, values[:8])) + (", …" if len(values) > 8 else "")


def _check_palette(image: Image.Image, values: list[int], num_classes: int) -> None:
    """Raise StudyError if the palette paints one of the mask's values in VOC's colour of another class."""
    colours, voc_colours = np.reshape(image.getpalette() or [], (-1, 3)).tolist(), VOC_PALETTE.tolist()
    for value in (value for value in values if value < len(colours)):
        colour = colours[value]
        if colour in voc_colours[1 : num_classes + 1] and colour != voc_colours[value]:
            meant = voc_colours.index(colour)
            raise unplaced(f"the palette paints value {value} in VOC's colour of class {meant}", AS_IDS)


def _looks_binary(mask: np.ndarray, values: list[int]) -> bool:
    """Whether 255 is drawn inside an image without any class, not just as a margin around it."""
    if values != [0, IGNORE_INDEX]:
        return False
    inner = mask[(mask == 0).any(1)][:, (mask == 0).any(0)]
    return bool((inner == IGNORE_INDEX).any())


def _ids_of_colours(mask: np.ndarray, values: dict[tuple[int, ...], int]) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    """Mask values of colours, (H, W, 3) -> (H, W), 0 for an unknown one; and the unknown colours."""
    found, places = np.unique(mask @ np.array([1 << 16, 1 << 8, 1]), return_inverse=True)
    colours: list[tuple[int, ...]] = [(code >> 16, code >> 8 & 255, code & 255) for code in found.tolist()]
    unknown = [colour for colour in colours if colour not in values]
    ids = np.array([values.get(colour, 0) for colour in colours], np.uint8)
    return ids[places].reshape(mask.shape[:2]), unknown
