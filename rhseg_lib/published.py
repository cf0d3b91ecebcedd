"""What the paper states, as data, and the ledger that sets each statement beside what this study finds.

Yu & Liu, "Research on image segmentation method of steel slag layer in RH vacuum degassing".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import pandas as pd

from rhseg_lib.metrics import Comparison

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

LABELS = {  # how the pages call the models
    "fcn_resnet50": "FCN · ResNet-50",
    "unet_vgg16": "U-Net · VGG-16",
    "deeplabv3plus_xception": "DeepLabv3+ · Xception-65",
    "deeplabv3plus_mobilenetv2": "DeepLabv3+ · MobileNetV2",
    "deeplabv3plus_mobilenetv2_ema": "… + EMA (“Ours” as counted)",
    "deeplabv3plus_mobilenetv2_ds": "… + separable ASPP",
    "deeplabv3plus_mobilenetv2_ds_ema": "… + separable ASPP + EMA (“Ours” as described)",
    "deeplabv3plus_mobilenetv2_lite": "… + separable decoder (lite)",
}
SHORT = {
    "fcn_resnet50": "FCN",
    "unet_vgg16": "U-Net",
    "deeplabv3plus_xception": "DL3+ Xception",
    "deeplabv3plus_mobilenetv2": "DL3+ MobileNetV2",
    "deeplabv3plus_mobilenetv2_ema": "+ EMA",
    "deeplabv3plus_mobilenetv2_ds": "+ DS",
    "deeplabv3plus_mobilenetv2_ds_ema": "+ DS + EMA",
    "deeplabv3plus_mobilenetv2_lite": "lite",
}

REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced"
INCONSISTENT, NOT_TESTABLE = "inconsistent in the paper", "not testable with this data"

XCEPTION, MOBILENET = "deeplabv3plus_xception", "deeplabv3plus_mobilenetv2"
COUNTED, DESCRIBED = "deeplabv3plus_mobilenetv2_ema", "deeplabv3plus_mobilenetv2_ds_ema"
SEPARABLE, UNET, FCN = "deeplabv3plus_mobilenetv2_ds", "unet_vgg16", "fcn_resnet50"


@dataclass(frozen=True)
class Claim:
    """A statement of the paper beside this study's finding."""

    section: str
    statement: str
    published: str
    ours: str
    tolerance: str
    verdict: str
    why: str


def ledger(
    complexity: pd.DataFrame,
    separable: pd.DataFrame,
    pooling: pd.DataFrame,
    comparisons: dict[tuple[str, str], Comparison],
    *,
    decisive: bool,
    test_images: int,
) -> pd.DataFrame:
    """Judge every checkable statement of the paper.

    Parameters
    ----------
    complexity : DataFrame
        Indexed by model: ``parameters``, ``mib``, ``gmacs`` and ``latency_ms``, as notebook 02 writes it.
    separable : DataFrame
        Eq. 1 checked by counting: ``predicted`` and ``counted`` ratios, one row per layer.
    pooling : DataFrame
        ``change`` of Eq. 2's global means between two inputs, for EMA's 1x1 and 3x3 branch.
    comparisons : dict
        (first, second) -> paired comparison of mIoU, for the trained models.
    decisive : bool
        Whether the runs followed Table 1's recipe; accuracy claims are not judged from a demonstration.
    test_images : int

    Returns
    -------
    DataFrame
        One row per claim, with the fields of `Claim`.
    """
    claims = [
        *_size_claims(complexity),
        *_arithmetic_claims(),
        *_compute_claims(complexity, separable, pooling),
        *_accuracy_claims(comparisons, decisive=decisive, test_images=test_images),
        *_protocol_claims(test_images),
    ]
    return pd.DataFrame([asdict(claim) for claim in claims])


def _judge(section: str, statement: str, published: float, ours: float, tolerance: float, unit: str, why: str) -> Claim:
    """A numeric claim: reproduced when ours lies within the tolerance."""
    verdict = REPRODUCED if abs(published - ours) <= tolerance else NOT_REPRODUCED
    digits = 3 if tolerance < 0.001 else 2
    shown = (f"{value:.{digits}f} {unit}".strip() for value in (published, ours))
    return Claim(section, statement, *shown, f"±{tolerance:g}", verdict, why)


def _size_claims(complexity: pd.DataFrame) -> list[Claim]:
    mib, parameters = complexity["mib"], complexity["parameters"]
    claims = [
        _judge(
            table,
            f"{row.label}: “Params/M” {row.params:.2f}",
            row.params,
            mib[model],
            0.005,
            "MiB",
            f"{parameters[model]:,} parameters × 4 bytes / 2²⁰.",
        )
        for table, rows in (("Table 2", TABLE2), ("Table 3", {UNET: TABLE3[UNET]}))
        for model, row in rows.items()
    ]
    millions = parameters / 1e6
    described = mib[DESCRIBED]
    ratio = mib[FCN] / mib[COUNTED]
    return [
        *claims,
        _judge(
            "Table 3",
            "FCN (ResNet-50): “Params/M” 25.86",
            TABLE3[FCN].params,
            mib[FCN],
            0.005,
            "MiB",
            f"FCN-ResNet50 has {millions[FCN]:.2f} million parameters, {mib[FCN]:.2f} MiB: 25.86 is neither.",
        ),
        Claim(
            "Tables 2, 3",
            "The column “Params/M” counts millions of parameters",
            "M",
            "MiB of float32",
            "exact",
            INCONSISTENT,
            f"Xception’s model has {millions[XCEPTION]:.2f} million parameters; 208.70 is their size in MiB. "
            "Four rows match in MiB to two decimals, none in millions.",
        ),
        Claim(
            "§2.1, §2.3, abstract",
            "The proposed model’s ASPP is depthwise separable",
            "22.24",
            f"{described:.2f} MiB",
            "±0.005",
            INCONSISTENT,
            f"With a separable ASPP the model is {described:.2f} MiB ({millions[DESCRIBED]:.2f} million). "
            "22.24 is the model with the standard ASPP: the measured model is not the described one.",
        ),
        Claim(
            "§3.3.2",
            "FCN and the proposed model are of similar size",
            "25.86 : 22.24",
            f"{mib[FCN]:.2f} : {mib[COUNTED]:.2f} MiB",
            "factor 1.5",
            REPRODUCED if ratio <= 1.5 else NOT_REPRODUCED,
            f"FCN-ResNet50 is {ratio:.1f} times as large.",
        ),
        _judge(
            "§3.3.1",
            "MobileNetV2 in place of Xception removes 89.37 % of the parameters",
            89.37,
            100 * (1 - parameters[MOBILENET] / parameters[XCEPTION]),
            0.005,
            "%",
            "By counting both models.",
        ),
        Claim(
            "Abstract",
            "The proposed method removes 89.37 % of the parameters",
            "89.37 %",
            f"{100 * (1 - parameters[COUNTED] / parameters[XCEPTION]):.2f} %",
            "±0.005",
            INCONSISTENT,
            "89.37 % is the backbone swap alone; with EMA, Table 2 gives 1 − 22.24 / 208.70 = 89.34 %.",
        ),
        _judge(
            "§3.3.2",
            "The proposed model has 23.42 % of U-Net’s parameters",
            23.42,
            100 * parameters[COUNTED] / parameters[UNET],
            0.005,
            "%",
            "By counting both models.",
        ),
        _judge(
            "Tables 2, 3",
            "EMA adds 0.06 to the model’s size",
            TABLE2[COUNTED].params - TABLE2[MOBILENET].params,
            mib[COUNTED] - mib[MOBILENET],
            0.005,
            "MiB",
            f"{parameters[COUNTED] - parameters[MOBILENET]:,} parameters: EMA in 8 groups on the 320-channel features.",
        ),
        Claim(
            "§1",
            "U-Net upsamples by transposed convolutions",
            "94.95",
            f"{mib[UNET]:.2f} MiB with bilinear upsampling",
            "±0.005",
            INCONSISTENT,
            "Table 3’s size is that of a U-Net without any transposed convolution.",
        ),
    ]


def _arithmetic_claims() -> list[Claim]:
    ours, xception = TABLE2[COUNTED], TABLE2[XCEPTION]
    plain, fcn = TABLE2[MOBILENET], TABLE3[FCN]
    tables = "Difference of two rows of the paper’s own tables."
    return [
        _judge("Abstract", "mIoU rises by 1.89 over DeepLabv3+", 1.89, ours.miou - xception.miou, 0.005, "", tables),
        _judge("§3.3.1", "mPA rises by 2.52 over DeepLabv3+", 2.52, ours.mpa - xception.mpa, 0.005, "", tables),
        _judge("§3.3.2", "mIoU is 4.82 above FCN", 4.82, ours.miou - fcn.miou, 0.005, "", tables),
        Claim(
            "§3.3.1",
            "EMA raises mIoU by 1.89 and mPA by 2.52",
            "1.89 and 2.52",
            f"{ours.miou - plain.miou:.2f} and {ours.mpa - plain.mpa:.2f}",
            "±0.005",
            INCONSISTENT,
            "The text credits EMA with the differences to the Xception model; against the same model without EMA, "
            "Table 2’s own rows differ by more.",
        ),
        Claim(
            "Abstract",
            "The gains are per cent",
            "1.89 %",
            f"{ours.miou - xception.miou:.2f} points, {100 * (ours.miou / xception.miou - 1):.2f} % relative",
            "exact",
            INCONSISTENT,
            "The tables’ differences are percentage points.",
        ),
        Claim(
            "§3.3.2",
            "The proposed model is superior to the compared ones",
            f"{ours.miou} mIoU",
            f"U-Net: {TABLE3[UNET].miou}",
            "exact",
            INCONSISTENT,
            "By the paper’s own Table 3, U-Net has the higher mIoU and mPA; the text then calls them comparable.",
        ),
        _judge(
            "Table 1", "Min_lr is a hundredth of Init_lr", 0.01, TABLE1["Min_lr"] / TABLE1["Init_lr"], 1e-9, "",
            "How the rate falls between the two is not said; this study takes a cosine.",
        ),
    ]  # fmt: skip


def _compute_claims(complexity: pd.DataFrame, separable: pd.DataFrame, pooling: pd.DataFrame) -> list[Claim]:
    fixed, moving = pooling["change"]
    gmacs, latency = complexity["gmacs"], complexity["latency_ms"]
    worst = (separable["counted"] - separable["predicted"]).abs().max()
    saved = 100 * (1 - gmacs[SEPARABLE] / gmacs[MOBILENET])
    return [
        Claim(
            "Eq. 1",
            "A separable convolution costs 1/N + 1/D_K² of a standard one",
            "1/N + 1/D_K²",
            f"largest deviation {worst:.1e}",
            "±1e-9",
            REPRODUCED if worst < 1e-9 else NOT_REPRODUCED,
            f"Multiplications counted in {len(separable)} layers.",
        ),
        Claim(
            "§2.3",
            "D_K is the side of the feature map",
            "D_K",
            "D_F",
            "exact",
            INCONSISTENT,
            "The text gives D_K to both kernel and feature map; Eq. 1 holds with D_F for the map.",
        ),
        Claim(
            "§2.4",
            "Each of the G sub-features of EMA lies in R^(C×H×W)",
            "C",
            "C/G",
            "exact",
            INCONSISTENT,
            "A split into G groups leaves C/G channels in each.",
        ),
        Claim(
            "§2.4",
            "EMA’s global means (Eq. 2) encode the outputs of both branches",
            "both",
            f"change between two inputs: 1×1 branch {fixed:.0e}, 3×3 branch {moving:.2f}",
            "above 0.001",
            REPRODUCED if min(fixed, moving) > 1e-3 else NOT_REPRODUCED,
            "The 1×1 branch ends in a norm per channel, whose global mean is the norm’s own bias: the weights it lends "
            "to the other branch are learned, but the same for every picture.",
        ),
        Claim(
            "§2.3",
            "A separable ASPP significantly reduces the computation",
            "“significantly”",
            f"{saved:.1f} % of {gmacs[MOBILENET]:.1f} GMAC",
            "10 %",
            REPRODUCED if saved >= 10 else NOT_REPRODUCED,
            "Four fifths of the work are the decoder’s two 3×3 convolutions, which stay standard. "
            f"Made separable too (lite), the model needs {gmacs['deeplabv3plus_mobilenetv2_lite']:.1f} GMAC.",
        ),
        Claim(
            "§2.2",
            "MobileNetV2 makes the model lighter than Xception",
            "“lighter”",
            f"{gmacs[MOBILENET]:.1f} against {gmacs[XCEPTION]:.1f} GMAC",
            "fewer",
            REPRODUCED if gmacs[MOBILENET] < gmacs[XCEPTION] else NOT_REPRODUCED,
            "Multiplications at 512×512.",
        ),
        Claim(
            "§2.1, §4",
            "The model meets real-time and production requirements",
            "“real-time”",
            f"{latency[DESCRIBED]:.0f} ms per image",
            "none given",
            NOT_TESTABLE,
            "The paper measures no time and names no requirement. Ours: one image of the study’s size on the device "
            "that made this page.",
        ),
    ]


def _accuracy_claims(
    comparisons: dict[tuple[str, str], Comparison], *, decisive: bool, test_images: int
) -> list[Claim]:
    pairs = [
        ("Table 2", "EMA helps: with it, MobileNetV2’s mIoU is higher", COUNTED, MOBILENET, TABLE2),
        ("Tables 2, 3", "The proposed model is above DeepLabv3+ with Xception", COUNTED, XCEPTION, TABLE2),
        ("Table 2", "MobileNetV2 is slightly below Xception", MOBILENET, XCEPTION, TABLE2),
        ("Table 3", "The proposed model is above FCN", COUNTED, FCN, TABLE3),
        ("Table 3", "The proposed model is slightly below U-Net", COUNTED, UNET, TABLE3),
    ]
    return [
        *(
            _accuracy_claim(section, statement, rows[a].miou - rows[b].miou, comparisons.get((a, b)), decisive)
            for section, statement, a, b, rows in pairs
        ),
        Claim(
            "Table 3",
            "The proposed model reaches 90.46 % mIoU and 94.90 % mPA",
            "90.46, 94.90",
            "other pictures",
            "none",
            NOT_TESTABLE,
            "The 500 photographs are private. Values on other pictures cannot confirm or refute them.",
        ),
        Claim(
            "§3.3.2",
            "At certain edges the proposed model outperforms U-Net (Figure 5)",
            "one figure",
            "see Segmentations",
            "none",
            NOT_TESTABLE,
            "“Certain edge information” names no measure; the published figure shows a few chosen scenes.",
        ),
        Claim(
            "§3",
            "Differences of 0.4 to 5 points between single runs rank the models",
            "no interval",
            f"95 % interval over {test_images} images on every figure here",
            "none",
            NOT_TESTABLE,
            "One run per row and no interval: seed, split and choice of test images are not told apart from the model.",
        ),
    ]


def _accuracy_claim(section: str, statement: str, published: float, found: Comparison | None, decisive: bool) -> Claim:
    if found is None:
        return Claim(
            section,
            statement,
            f"{published:+.2f}",
            "not trained",
            "sign",
            NOT_TESTABLE,
            "A model is missing.",
        )
    ours = f"{100 * found.difference:+.2f} [{100 * found.low:+.2f}, {100 * found.high:+.2f}]"
    if not decisive:
        verdict, why = (
            NOT_TESTABLE,
            "A demonstration’s short training decides nothing; the paper profile does.",
        )
    elif found.low <= 0 <= found.high:
        verdict, why = (
            NOT_TESTABLE,
            "The interval over test images holds zero: they cannot tell the two apart.",
        )
    elif (found.difference > 0) == (published > 0):
        verdict, why = (
            REPRODUCED,
            "Same sign, and the interval over test images leaves zero out (synthetic scenes).",
        )
    else:
        verdict, why = (
            NOT_REPRODUCED,
            "The interval over test images lies on the other side of zero (synthetic scenes).",
        )
    return Claim(section, statement, f"{published:+.2f}", ours, "sign, 95 %", verdict, why)


def _protocol_claims(test_images: int) -> list[Claim]:
    return [
        Claim(
            "§3.2",
            "PyTorch 1.7.1 with CUDA 11.3",
            "1.7.1, 11.3",
            "no such release",
            "exact",
            INCONSISTENT,
            "PyTorch 1.7.1 was released for CUDA 9.2 to 11.0; builds for CUDA 11.3 began with 1.10.",
        ),
        Claim(
            "§3.1",
            "Training and test images are separate",
            "9:1",
            "order of steps unclear",
            "none",
            NOT_TESTABLE,
            "Augmentation is described before the split: copies of one photograph may stand on both sides. "
            "Here all copies stay on one side; the other reading can be chosen by split: as_described.",
        ),
        Claim(
            "§3.1",
            "The images fall into two classes",
            "2",
            "3 with background",
            "exact",
            REPRODUCED,
            "Eq. 3’s k + 1 counts the background, and only three output classes give the published sizes.",
        ),
    ]
