"""The nine models, seven of the paper and two of ours: their names in the report, and what each is made of."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One model of the study; `models.build_model` builds the network from all but `label` and `short`."""

    label: str  # in tables and titles
    short: str  # in figures
    architecture: str = "deeplabv3plus"
    backbone: str = "MobileNetV2"
    separable_aspp: bool = False
    attention: bool = False  # EMA on the encoder's deepest features
    separable_decoder: bool = False
    width: int = 256  # channels of ASPP and decoder


CATALOGUE = {
    "fcn_resnet50": Entry("FCN · ResNet-50", "FCN", "fcn", "ResNet-50"),  # Table 3
    "unet_vgg16": Entry("U-Net · VGG-16", "U-Net", "unet", "VGG-16"),  # Table 3
    # DeepLabv3+ of Tables 2 and 3
    "deeplabv3plus_xception": Entry("DeepLabv3+ · Xception-65", "DL3+ Xception", backbone="Xception-65"),
    "deeplabv3plus_mobilenetv2": Entry("DeepLabv3+ · MobileNetV2", "DL3+ MobileNetV2"),  # Table 2, row 2
    # "Ours" as the tables count it
    "deeplabv3plus_mobilenetv2_ema": Entry("MobileNetV2 + EMA (“Ours” as counted)", "+ EMA", attention=True),
    # the row that Table 2 leaves out
    "deeplabv3plus_mobilenetv2_ds": Entry("MobileNetV2 + separable ASPP", "+ DS", separable_aspp=True),
    # "Ours" as the text describes it
    "deeplabv3plus_mobilenetv2_ds_ema": Entry(
        "MobileNetV2 + separable ASPP + EMA (“Ours” as described)", "+ DS + EMA", separable_aspp=True, attention=True
    ),
    # this study's own two, taking up the paper's "future work"
    "deeplabv3plus_mobilenetv2_lite": Entry(
        "MobileNetV2 + separable decoder (lite)", "lite", separable_aspp=True, attention=True, separable_decoder=True
    ),
    "deeplabv3plus_mobilenetv2_fast": Entry(
        "MobileNetV2, 96 channels, all separable (fast)", "fast", separable_aspp=True, separable_decoder=True, width=96
    ),
}
MODEL_NAMES = tuple(CATALOGUE)
LABELS = {name: entry.label for name, entry in CATALOGUE.items()}
SHORT = {name: entry.short for name, entry in CATALOGUE.items()}

FCN, UNET, XCEPTION, MOBILENET, COUNTED, SEPARABLE, DESCRIBED, LITE, FAST = MODEL_NAMES
PROPOSED = DESCRIBED  # the paper's model as its text describes it
