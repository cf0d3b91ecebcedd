"""The nine networks of the study: `MODELS` names them, `build_model` builds them.

Every network maps images `(B, 3, H, W)` to logits `(B, K, H, W)` of the input's size and starts from the same
initialisation. Its submodules, in data-flow order: `encoder`, then `attention` and `aspp` where it has them, `decoder`,
`classifier`.
"""

from collections.abc import Callable
from functools import partial

from rhseg_lib.catalogue import CATALOGUE, Entry
from rhseg_lib.errors import StudyError
from rhseg_lib.models.base import SegmentationModel, initialise
from rhseg_lib.models.deeplabv3plus import DeepLabV3Plus
from rhseg_lib.models.fcn import FCN
from rhseg_lib.models.unet import UNet


def _network(entry: Entry) -> Callable[..., SegmentationModel]:
    """The constructor of a catalogue entry's network."""
    if entry.architecture != "deeplabv3plus":
        return {"fcn": FCN, "unet": UNet}[entry.architecture]
    return partial(
        DeepLabV3Plus,
        backbone={"MobileNetV2": "tu-mobilenetv2_100", "Xception-65": "tu-xception65"}[entry.backbone],
        attention=entry.attention,
        separable_aspp=entry.separable_aspp,
        separable_decoder=entry.separable_decoder,
        width=entry.width,
    )


MODELS = {name: _network(entry) for name, entry in CATALOGUE.items()}


def build_model(name: str, num_classes: int = 3, pretrained: bool = False) -> SegmentationModel:
    """Build and initialise one of the networks.

    Without ImageNet weights the result depends only on the name, the number of classes and torch's random state:
    seed before the call.

    Parameters
    ----------
    name : str
        A key of `MODELS`.
    num_classes : int
        Number of classes K, background included; at least 2.
    pretrained : bool
        Start the encoder from ImageNet weights, downloaded once and cached; the rest is initialised as without them.

    Returns
    -------
    SegmentationModel
        Float32 on the CPU, in training mode.

    Raises
    ------
    StudyError
        The name is unknown, there are fewer than two classes, or the ImageNet weights cannot be downloaded.
    """
    if name not in MODELS:
        raise StudyError(f"There is no model {name!r}.", where="model name", fix=f"use one of {', '.join(MODELS)}")
    if num_classes < 2:
        raise StudyError(
            f"A segmentation needs two classes or more, not {num_classes}.",
            where=f"num_classes of {name}",
            fix="count the background as a class",
        )
    model = MODELS[name](num_classes, pretrained=pretrained)
    initialise(model, keep_encoder=pretrained)
    return model
