"""The paper's tables as data.

Yu & Liu, "Research on image segmentation method of steel slag layer in RH vacuum degassing".
"""

from dataclasses import dataclass

TABLE1 = {
    "Epoch": 150,
    "Batch_size": 4,
    "Init_lr": 7e-3,
    "Min_lr": 7e-5,
    "Optimizer_type": "sgd",
    "Momentum": 0.9,
    "Weight_decay": 1e-4,
}


@dataclass(frozen=True)
class Row:
    """One row of Table 2 or 3: mIoU and mPA in per cent, "Params/M" as printed."""

    label: str
    miou: float
    mpa: float
    params: float


TABLE2 = {
    "deeplabv3plus_xception": Row("DeepLabv3+ · Xception", 88.57, 92.38, 208.70),
    "deeplabv3plus_mobilenetv2": Row("DeepLabv3+ · MobileNetV2", 87.84, 91.74, 22.18),
    "deeplabv3plus_mobilenetv2_ema": Row("DeepLabv3+ · MobileNetV2 · EMA", 90.46, 94.90, 22.24),
}
TABLE3 = {
    "fcn_resnet50": Row("FCN", 85.64, 89.57, 25.86),
    "unet_vgg16": Row("U-Net", 90.87, 95.43, 94.95),
    "deeplabv3plus_xception": Row("DeepLabv3+", 88.57, 92.38, 208.70),
    "deeplabv3plus_mobilenetv2_ema": Row("Ours", 90.46, 94.90, 22.24),
}
PAPER_ROWS = {**TABLE2, **TABLE3}
