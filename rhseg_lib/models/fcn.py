"""FCN (Long et al. 2015, arXiv 1411.4038) on a dilated ResNet-50: torchvision's, without its auxiliary head."""

from torch import Tensor, nn
from torchvision.models import ResNet50_Weights
from torchvision.models.segmentation import fcn_resnet50

from rhseg_lib.models.base import SegmentationModel, explained_download


class FCN(SegmentationModel):
    """torchvision's network in the study's three parts; `pretrained`: ImageNet weights in the encoder."""

    def __init__(self, num_classes: int, *, pretrained: bool) -> None:
        super().__init__()
        weights = ResNet50_Weights.IMAGENET1K_V1 if pretrained else None
        with explained_download("resnet50"):
            network = fcn_resnet50(weights=None, weights_backbone=weights, aux_loss=None, num_classes=num_classes)
        *decoder, classifier = network.classifier
        self.encoder = network.backbone
        self.decoder = nn.Sequential(*decoder)
        self.classifier = classifier

    def logits(self, images: Tensor) -> Tensor:
        """Class scores `(B, K, H/8, W/8)` of images `(B, 3, H, W)`."""
        deep = self.encoder(images)["out"]  # (B, 2048, H/8, W/8)
        return self.classifier(self.decoder(deep))  # (B, 512, H/8, W/8) -> (B, K, H/8, W/8)
