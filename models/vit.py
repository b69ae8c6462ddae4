"""Small Vision Transformers from timm and vit-pytorch. Example: vit_tiny(num_classes=10, image_size=32)

Patches grow with the image: there are always 8x8, which at 32 px is the literature's patch size of 4, so that 64 px
does not mean four times the tokens. Dropout and stochastic depth are 0 everywhere: regularisation belongs to the
recipe.
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from models.seresnet import stem
from models.torchvision_import import ensure_torchvision

ensure_torchvision()  # timm and vit-pytorch import torchvision, each in a builder below

GRID = 8  # patches per side: patch size 4 at 32 px, as in the published models for CIFAR


def patch_size(image_size: int) -> int:
    """Side of a patch in pixels, for 8x8 patches. Raises ValueError where the image does not divide evenly."""
    if image_size % GRID:
        raise ValueError(f"image size {image_size} is not a multiple of {GRID}, which this model's patches need")
    return image_size // GRID


def _timm_vit(num_classes: int, image_size: int, **shape: Any) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    patch = patch_size(image_size)
    return VisionTransformer(img_size=image_size, patch_size=patch, num_classes=num_classes, **shape)


def vit_tiny(num_classes: int, image_size: int) -> nn.Module:
    """ViT-Tiny (Touvron et al. 2021, arXiv:2012.12877: dim 192, depth 12, 3 heads) with small patches."""
    return _timm_vit(num_classes, image_size, embed_dim=192, depth=12, num_heads=3)


def vit_params(num_classes: int, image_size: int) -> nn.Module:
    """ViT with SE-ResNet-56's parameters: 855,658 against 861,818 at 32 px and 10 classes."""
    return _timm_vit(num_classes, image_size, embed_dim=144, depth=5, num_heads=3, mlp_ratio=2)


def vit_flops(num_classes: int, image_size: int) -> nn.Module:
    """ViT with SE-ResNet-56's FLOPs: within 1 % of 127.1M multiply-adds at 32 px."""
    return _timm_vit(num_classes, image_size, embed_dim=128, depth=9, num_heads=4)


def simple_vit(num_classes: int, image_size: int) -> nn.Module:
    """SimpleViT (Beyer et al. 2022, arXiv:2205.01580) at vit_tiny's size: sine positions, average pooling."""
    from vit_pytorch import SimpleViT

    shape = {"dim": 192, "depth": 12, "heads": 3, "mlp_dim": 768}
    return SimpleViT(image_size=image_size, patch_size=patch_size(image_size), num_classes=num_classes, **shape)


def vit_lite(num_classes: int, image_size: int) -> nn.Module:
    """ViT-Lite-7/4 (Hassani et al. 2021, arXiv:2104.05704): dim 256, depth 7, 4 heads, MLP ratio 2, class token."""
    from vit_pytorch import ViT

    shape = {"dim": 256, "depth": 7, "heads": 4, "mlp_dim": 512}
    return ViT(image_size=image_size, patch_size=patch_size(image_size), num_classes=num_classes, **shape)


def vit_small_data(num_classes: int, image_size: int) -> nn.Module:
    """ViT with shifted patch tokenisation and locality self-attention (Lee et al. 2021, arXiv:2112.13492)."""
    from vit_pytorch.vit_for_small_dataset import ViT

    shape = {"dim": 192, "depth": 9, "heads": 12, "dim_head": 16, "mlp_dim": 384}
    return ViT(image_size=image_size, patch_size=patch_size(image_size), num_classes=num_classes, **shape)


def _cct(name: str, convolutions: int, num_classes: int, image_size: int) -> nn.Module:
    from vit_pytorch import cct

    # The first convolution's stride reduces a larger image to about 32 px, so that the number of tokens stays the same;
    # vit-pytorch's own `stride` would act in every convolution.
    stride = max(1, image_size // 32)
    model: nn.Module = getattr(cct, name)(
        img_size=math.ceil(image_size / stride),  # decides the number of positions
        num_classes=num_classes,
        n_conv_layers=convolutions,
        kernel_size=3,
        positional_embedding="learnable",
        dropout_rate=0.0,
        attention_dropout=0.0,
        stochastic_depth_rate=0.0,
    )
    first = model.get_submodule("tokenizer.conv_layers.0")
    assert isinstance(first, nn.Sequential)
    assert isinstance(first[0], nn.Conv2d)
    if stride > 1:
        first[0] = stem(first[0].out_channels, image_size)
        nn.init.kaiming_normal_(first[0].weight)  # as the tokeniser's own
    return model


def cct_2(num_classes: int, image_size: int) -> nn.Module:
    """CCT-2/3x2 (Hassani et al. 2021): two convolutions, two layers of dim 128, sequence pooling; 0.284M."""
    return _cct("cct_2", 2, num_classes, image_size)


def cct_7(num_classes: int, image_size: int) -> nn.Module:
    """CCT-7/3x1 (Hassani et al. 2021): one convolution, seven layers of dim 256, sequence pooling; 3.76M."""
    return _cct("cct_7", 1, num_classes, image_size)


def swin(num_classes: int, image_size: int) -> nn.Module:
    """Small Swin (Liu et al. 2021, arXiv:2103.14030): dim 96, depths 2-6-4, patch 2 at 32 px, window 4."""
    from timm.models.swin_transformer import SwinTransformer

    return SwinTransformer(
        img_size=image_size,
        patch_size=max(1, patch_size(image_size) // 2),
        num_classes=num_classes,
        embed_dim=96,
        depths=(2, 6, 4),
        num_heads=(3, 6, 12),
        window_size=4,
        mlp_ratio=2,
        drop_path_rate=0.0,
    )
