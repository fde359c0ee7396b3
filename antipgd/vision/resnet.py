"""ResNet18 for images of 32 x 32 pixels (He et al., 2016; paper, sections 4 and D.4)."""

import torch
from torch import nn
from torch.nn.functional import relu


class Block(nn.Module):
    """Two 3 x 3 convolutions with batch normalisation, and the input added before the last ReLU.

    (N, c_in, H, W) -> (N, c_out, H / stride, W / stride).
    """

    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        same_shape = stride == 1 and c_in == c_out
        self.shortcut = nn.Identity() if same_shape else Projection(c_in, c_out, stride)

    def forward(self, x):
        out = relu(self.bn1(self.conv1(x)))
        return relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class Projection(nn.Sequential):
    """The shortcut where the shape changes: a 1 x 1 convolution and a normalisation."""

    def __init__(self, c_in, c_out, stride):
        super().__init__(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))


class ResNet18(nn.Module):
    """(N, 3, 32, 32) -> scores (N, classes). 11,173,962 parameters at width 64 and 10 classes.

    width: channels of the first stage; the paper's is 64, and the work and the parameters grow with its square.
    In place of the large first convolution and the pooling that ResNet18 has for larger images stands one 3 x 3
    convolution, as in the code that the paper names for its network.
    """

    def __init__(self, width=64, classes=10):
        super().__init__()
        if width < 1 or classes < 2:
            raise ValueError(f"width is {width} and classes {classes}: a network has at least 1 channel and 2 classes.")
        self.conv = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.stages = nn.Sequential(
            *stage(width, width, 1),
            *stage(width, 2 * width, 2),
            *stage(2 * width, 4 * width, 2),
            *stage(4 * width, 8 * width, 2),
        )
        self.head = nn.Linear(8 * width, classes)

    def forward(self, x):
        out = self.stages(relu(self.bn(self.conv(x))))
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(out, 1), 1))


def stage(c_in, c_out, stride):
    """Two blocks, of which the first may halve the image."""
    return Block(c_in, c_out, stride), Block(c_out, c_out, 1)
