"""The attribute predictor of AnyCost GAN (Lin et al. 2021, arXiv:2103.03243): 40 attributes of a face.

A ResNet-50 trained on CelebA-HQ, whose subjects are adults; names and shapes are those of mit-han-lab/anycost-gan
(MIT).
"""

from torch import Tensor, nn
from torch.nn import functional as F

from peekaboo.nets.resnet import FEATURES, ResNet50

SIZE = 256
# The attributes of CelebA (Liu et al. 2015, arXiv:1411.7766) in its order.
ATTRIBUTES = (
    "5_o_Clock_Shadow",
    "Arched_Eyebrows",
    "Attractive",
    "Bags_Under_Eyes",
    "Bald",
    "Bangs",
    "Big_Lips",
    "Big_Nose",
    "Black_Hair",
    "Blond_Hair",
    "Blurry",
    "Brown_Hair",
    "Bushy_Eyebrows",
    "Chubby",
    "Double_Chin",
    "Eyeglasses",
    "Goatee",
    "Gray_Hair",
    "Heavy_Makeup",
    "High_Cheekbones",
    "Male",
    "Mouth_Slightly_Open",
    "Mustache",
    "Narrow_Eyes",
    "No_Beard",
    "Oval_Face",
    "Pale_Skin",
    "Pointy_Nose",
    "Receding_Hairline",
    "Rosy_Cheeks",
    "Sideburns",
    "Smiling",
    "Straight_Hair",
    "Wavy_Hair",
    "Wearing_Earrings",
    "Wearing_Hat",
    "Wearing_Lipstick",
    "Wearing_Necklace",
    "Wearing_Necktie",
    "Young",
)


def prepared(images: Tensor) -> Tensor:
    """Bring FFHQ-aligned RGB images `[B, 3, S, S]`, about [-1, 1], to the predictor's input `[B, 3, 256, 256]`.

    Clamps to [-1, 1] and interpolates between the corners' centres, without smoothing, as tools/extract_edit_directions
    of the repository does it.
    """
    return F.interpolate(images.clamp(-1, 1), size=(SIZE, SIZE), mode="bilinear", align_corners=True)


def probabilities(logits: Tensor) -> Tensor:
    """Probabilities `[B, 40]` that the attributes are present, from logits `[B, 80]`."""
    return logits.unflatten(1, (-1, 2)).softmax(2)[..., 1]


class AttributePredictor(ResNet50):
    """Logits of the 40 attributes (checkpoint attribute_predictor.pt, entry state_dict)."""

    attributes = ATTRIBUTES

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(FEATURES, 2 * len(ATTRIBUTES))

    def forward(self, images: Tensor) -> Tensor:
        """Map FFHQ-aligned RGB images `[B, 3, 256, 256]` in [-1, 1], see `prepared`, to logits `[B, 80]`: absent and
        present of every attribute in turn, in the order of `attributes`.
        """
        return self.fc(super().forward(images))

    def labels(self, images: Tensor) -> dict[str, Tensor]:
        """What the scorers are taught about FFHQ-aligned RGB images `[B, 3, S, S]`, about [-1, 1]: probabilities `[B]`
        of a smile as emotion, of not being young as age, of a man as sex.
        """
        found = dict(zip(ATTRIBUTES, probabilities(self(prepared(images))).unbind(1), strict=True))
        return {"emotion": found["Smiling"], "age": 1 - found["Young"], "sex": found["Male"]}
