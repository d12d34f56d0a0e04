"""The coarse encoder of DECA (Feng et al. 2021, arXiv:2012.04012): parameters of the FLAME head model from a face.

Names and shapes are those of `E_flame` in yfeng95/DECA. The head's rotation is among the parameters, so that it takes
neither the head model nor a renderer to read it.
"""

import torch
from torch import Tensor, nn

from peekaboo.nets.resnet import FEATURES, ResNet50

SIZE = 224
# The parameters' parts in their order (paper, section 4.1; the repository's configuration).
PARTS = {"shape": 100, "tex": 50, "exp": 50, "pose": 6, "cam": 3, "light": 27}


def rotation(axis_angle: Tensor) -> Tensor:
    """Rotation matrices `[B, 3, 3]` about axes `[B, 3]` by their lengths in radians.

    The exponential of the cross-product matrix, which is Rodrigues' formula and smooth at zero too.
    """
    x, y, z = axis_angle.unbind(1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).view(-1, 3, 3).matrix_exp()


class CoarseEncoder(nn.Module):
    """FLAME parameters, camera and light of a face crop (checkpoint deca_model.tar, entry E_flame)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = ResNet50()
        self.layers = nn.Sequential(nn.Linear(FEATURES, 1024), nn.ReLU(), nn.Linear(1024, sum(PARTS.values())))

    def forward(self, faces: Tensor) -> dict[str, Tensor]:
        """Read RGB faces `[B, 3, 224, 224]` in [0, 1], cut as DECA does: squares parallel to the frame, around the
        68 landmarks' box, of 1.375 times the mean of its width and height.

        Returns shape `[B, 100]`, tex (albedo) `[B, 50]`, exp (expression) `[B, 50]`, pose `[B, 6]`, cam (scale and
        shift) `[B, 3]` and light (spherical harmonics) `[B, 9, 3]`. Of the pose, the first three numbers are the
        head's rotation, see `rotation`, and the last three the jaw's; axes are x to the right of the image, y up, z
        towards the camera, and no rotation is a head that faces it. Raises ValueError for faces of another size.
        """
        if faces.shape[-2:] != (SIZE, SIZE):
            raise ValueError(
                f"DECA: expected faces of {SIZE} x {SIZE}, found {faces.shape[-2]} x {faces.shape[-1]}; resize the "
                "crops first"
            )
        parts = self.layers(self.encoder(faces)).split(list(PARTS.values()), 1)
        parameters = dict(zip(PARTS, parts, strict=True))
        return parameters | {"light": parameters["light"].unflatten(1, (9, 3))}
