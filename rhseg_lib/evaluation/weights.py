"""A trained network in one safetensors file, with a card that states its classes, data and score."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Final, Literal

import torch
from pydantic import Field, ValidationError, field_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from rhseg_lib.dataset.batches import IMAGENET_MEAN, IMAGENET_STD
from rhseg_lib.errors import StudyError
from rhseg_lib.files import write_atomically
from rhseg_lib.profile import ModelName, in_pixels
from rhseg_lib.settings import Calibration, ImageSize, Label, Seed, Share, Strict

# Of the card; increased when its meaning changes. In 1, networks resized without aligned corners; in 2, `abstain_below`
# was of another confidence.
FORMAT: Final = 3
RETRAIN = "use a weights.safetensors written by this study"


class Card(Strict):
    """Description stored in a weights file."""

    format: Literal[3] = FORMAT
    model: ModelName
    class_names: tuple[Label, ...] = Field(min_length=2, max_length=255)  # background first: index is mask value
    image_size: ImageSize  # of the images it was trained on
    tile: ImageSize | None = None  # pixels of an image, side of the tiles that were scaled to image_size; None: none
    mean: tuple[float, float, float] = IMAGENET_MEAN  # of RGB in 0..1, subtracted from the input
    std: tuple[float, float, float] = IMAGENET_STD
    profile: str
    kind: Literal["demonstration", "result"]
    data: str  # description of the training data
    dataset_hash: str
    seed: Seed
    miou: Share  # on the test set
    abstain_below: Share | None  # 1st percentile of the test images' `inference.confidence`; None: not computed yet
    thickness: Calibration | None = None  # of the intervals of measured slag thickness
    versions: dict[str, str]
    digest: str = ""  # of the tensors and of everything above; files of earlier versions have none

    @field_validator("class_names")
    @classmethod
    def _each_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("a class is named twice")
        return names

    @property
    def in_words(self) -> str:
        """Summary of model, data, kind and score, shown with its predictions."""
        kind = "a demonstration, not a result" if self.kind == "demonstration" else "a result"
        score = f"{100 * self.miou:.1f}\N{NO-BREAK SPACE}%"
        return (
            f"{self.model}, trained on {self.data} (profile {self.profile}: {kind}). "
            f"mIoU on its own test set, at {in_pixels(self.image_size, self.tile)}: {score}"
        )


def round_to_half(model: nn.Module) -> None:
    """Round kernels to half precision in place; vectors (biases, norms) stay in single precision."""
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point() and value.ndim > 1:
                value.copy_(value.half())


def write_weights(path: Path, model: nn.Module, card: Card) -> None:
    """Write kernels in half precision, everything else unchanged, and the card as the file's metadata."""
    values = {name: value.detach().contiguous().cpu() for name, value in model.state_dict().items()}
    halved = {n: v.half() if v.is_floating_point() and v.ndim > 1 else v for n, v in values.items()}
    card = card.model_copy(update={"digest": _digest(card.model_dump_json(exclude={"digest"}), halved)})
    write_atomically(path, save(halved, metadata={"card": card.model_dump_json()}))


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Put the calibration of slag thickness into the card of existing weights; nothing is written if it is there."""
    network, card = read_weights(path)
    if card.thickness != calibration:
        write_weights(path, network, card.model_copy(update={"thickness": calibration}))


def _digest(card: str, tensors: dict[str, torch.Tensor]) -> str:
    """Changes with any bit of the card or the tensors."""
    return sha256(card.encode() + save(tensors)).hexdigest()


def read_card(path: Path) -> Card:
    """The card of a weights file; StudyError if it is not a safetensors file of this study.

    A card of format 2 is read without its threshold, which was one of another confidence.
    """
    if not path.is_file() and path.exists():
        what = "the weights are a folder, a pipe or a device"
        raise StudyError(what, where=path, fix="give the path of the file weights.safetensors")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError as error:
        raise StudyError("the weights are not there", where=path, fix="correct the path, or train first") from error
    except (SafetensorError, OSError) as error:
        fix = f"{RETRAIN}; pickled weights (.pt, .pth) can run any code when loaded, so they are never opened"
        raise StudyError(f"not a safetensors file ({error})", where=path, fix=fix) from error
    return parse_card(metadata, path)


def parse_card(metadata: dict[str, str], path: Path) -> Card:
    """The card in the metadata of the file at `path`; see `read_card`."""
    try:
        content = json.loads(metadata["card"])
        if not isinstance(content, dict):
            raise TypeError("the card is not a JSON object")
        if content.get("format") == 1:
            what = "weights of an earlier version, whose networks resized differently: they would be less accurate here"
            raise StudyError(what, where=path, fix=RETRAIN)
        if content.get("format") == 2:
            content |= {"format": FORMAT, "abstain_below": None}
        card = Card.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors()[0]
        what = f"the card of the weights is invalid: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise StudyError(f"{what}, got {first['input']!r:.60}", where=path, fix=RETRAIN) from error
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise StudyError("weights without a card of this study", where=path, fix=RETRAIN) from error
    if (card.mean, card.std) != (IMAGENET_MEAN, IMAGENET_STD):
        what = f"made for images normalised by {card.mean}, {card.std}"
        raise StudyError(what, where=path, fix=f"this study normalises by {IMAGENET_MEAN}, {IMAGENET_STD}: {RETRAIN}")
    return card


def read_weights(path: Path) -> tuple[nn.Module, Card]:
    """The network, in evaluation mode on the CPU in single precision, and its card.

    StudyError if `read_card` raises one, if the file is not as it was written, or if the weights do not fit the model
    named in the card.
    """
    from rhseg_lib.models import build_model  # slow to import, and not needed to read results

    card, tensors = read_card(path), load_file(path)
    written = card.model_dump_json(exclude={"digest"}, exclude_unset=True)  # with the fields of its version
    if card.digest and card.digest != _digest(written, tensors):
        fix = f"copy them again, or {RETRAIN}"
        raise StudyError("the weights have changed since they were written", where=path, fix=fix)
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise StudyError("the weights hold values that are not finite", where=path, fix=RETRAIN)
    network = build_model(card.model, num_classes=len(card.class_names))
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        what = f"the weights do not fit {card.model} with {len(card.class_names)} classes"
        raise StudyError(what, where=path, fix=RETRAIN) from error
    return network.eval(), card
