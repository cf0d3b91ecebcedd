"""The paper's four augmentations (section 3.1); only this file uses albumentations."""

import os
from hashlib import sha256

import numpy as np


def augment(image: np.ndarray, mask: np.ndarray, operation: str, key: str) -> tuple[np.ndarray, np.ndarray]:
    """One operation of the paper's section 3.1, whose strength depends on `key` alone."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it checks online for a newer version
    import albumentations as A  # takes seconds to import; not needed to read a finished tree

    none, spans = (0, 0), ((-0.3, -0.1), (0.1, 0.3))  # below 0.1, the copy would hardly differ
    transform = {
        "flip": A.HorizontalFlip(p=1),
        "contrast": A.OneOf([A.RandomBrightnessContrast(none, span, p=1) for span in spans], p=1),
        "brightness": A.OneOf([A.RandomBrightnessContrast(span, none, p=1) for span in spans], p=1),
        "blur": A.GaussianBlur(sigma_limit=(0.5, 2.0), p=1),
    }[operation]
    seed = int.from_bytes(sha256(key.encode()).digest()[:4])
    done = A.Compose([transform], seed=seed)(image=image, mask=mask)
    return done["image"], done["mask"]
