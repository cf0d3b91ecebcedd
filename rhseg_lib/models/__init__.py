"""The eight networks of the study: `MODELS` names them, `build_model` makes them.

Every network maps images `(B, 3, H, W)` to logits `(B, K, H, W)` of the input's size and starts from the same
initialisation. Each shows its parts as attributes, in data-flow order: `encoder`, then `attention` and `aspp`
where it has them, `decoder`, `classifier`.
"""

from collections.abc import Callable
from functools import partial

from rhseg_lib import StudyError
from rhseg_lib.models.base import SegmentationModel, initialise
from rhseg_lib.models.deeplabv3plus import DeepLabV3Plus
from rhseg_lib.models.fcn import FCN
from rhseg_lib.models.unet import UNet

_ours = partial(DeepLabV3Plus, attention=True, separable_aspp=True)

MODELS: dict[str, Callable[..., SegmentationModel]] = {
    "fcn_resnet50": FCN,  # Table 3, FCN
    "unet_vgg16": UNet,  # Table 3, U-Net
    "deeplabv3plus_xception": partial(DeepLabV3Plus, backbone="tu-xception65"),  # Tables 2 and 3, DeepLabv3+
    "deeplabv3plus_mobilenetv2": DeepLabV3Plus,  # Table 2, row 2
    "deeplabv3plus_mobilenetv2_ema": partial(DeepLabV3Plus, attention=True),  # "Ours" as the tables count it
    "deeplabv3plus_mobilenetv2_ds": partial(DeepLabV3Plus, separable_aspp=True),  # the row that Table 2 leaves out
    "deeplabv3plus_mobilenetv2_ds_ema": _ours,  # "Ours" as the text describes it
    "deeplabv3plus_mobilenetv2_lite": partial(_ours, separable_decoder=True),  # the paper's "future work"
}


def build_model(name: str, num_classes: int = 3, pretrained: bool = False) -> SegmentationModel:
    """Build and initialise one of the networks.

    Without ImageNet weights the result depends on the name, the number of classes and torch's random state alone:
    seed before the call.

    Parameters
    ----------
    name : str
        A key of `MODELS`.
    num_classes : int
        Number of classes K, background included; at least 2.
    pretrained : bool
        Start the encoder from ImageNet weights, downloaded once and kept; the rest is initialised as ever.

    Returns
    -------
    SegmentationModel
        Float32 on the CPU, in training mode: images `(B, 3, H, W)` -> logits `(B, K, H, W)`.

    Raises
    ------
    StudyError
        The name is unknown, there are fewer than two classes, or the ImageNet weights cannot be had.
    """
    if name not in MODELS:
        raise StudyError(f"There is no model {name!r}.", where="model name", mend=f"use one of {', '.join(MODELS)}")
    if num_classes < 2:
        raise StudyError(
            f"A segmentation needs two classes or more, not {num_classes}.",
            where=f"num_classes of {name}",
            mend="count the background as a class",
        )
    model = MODELS[name](num_classes, pretrained=pretrained)
    initialise(model, keep_encoder=pretrained)
    return model
