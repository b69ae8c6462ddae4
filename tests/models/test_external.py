"""Models from timm, torchvision, a file and a module."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.measure.probe import check_model
from models.errors import ModelError
from models.external import parse_options
from models.files import sources_of
from models.registry import build, source_hash, split_names
from tests.conftest import ROOT


@pytest.fixture
def factory(tmp_path: Path) -> Path:
    path = tmp_path / "my models" / "größe.py"  # a space and an umlaut: paths are not ours to choose
    path.parent.mkdir()
    return Path(shutil.copy(ROOT / "tests" / "misbehaving.py", path))


def test_a_file(factory: Path) -> None:
    assert build(f"{factory}:fine", 7, 16)(torch.zeros(2, 3, 16, 16)).shape == (2, 7)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("wide", r"returns \(2, 1000\) for 2 images, not \(2, 10\)"),
        ("breaks", "ZeroDivisionError: my own mistake"),
        ("text", "returned a str"),
        ("fien", "no function 'fien'; did you mean 'fine'"),
    ],
)
def test_a_bad_factory_is_refused_in_a_sentence(factory: Path, function: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        check_model(f"{factory}:{function}", 10, 16)


def test_missing_file_and_broken_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no file"):
        build(f"{tmp_path}/none.py:f", 10, 32)
    broken = tmp_path / "broken.py"
    broken.write_text("def f(:")
    with pytest.raises(ModelError, match="SyntaxError"):
        build(f"{broken}:f", 10, 32)


def test_a_module() -> None:
    assert build("models.seresnet:resnet20", 10, 32)(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    with pytest.raises(ModelError, match="ModuleNotFoundError"):
        build("no_such_package:f", 10, 32)


def test_timm_by_name_and_with_options() -> None:
    model = build("timm:vit_tiny_patch16_224[patch_size=4,depth=2,embed_dim=64,num_heads=2]", 5, 32)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
    assert len(model.blocks) == 2
    assert build("timm:resnet18", 5, 32)(torch.zeros(2, 3, 32, 32)).shape == (2, 5)  # takes no img_size
    with pytest.raises(ModelError, match="did you mean 'resnet18'"):
        build("timm:resnet81", 5, 32)
    with pytest.raises(ModelError, match="could not be built"):
        build("timm:resnet18[nonsense=3]", 5, 32)


def test_torchvision_by_name() -> None:
    assert build("torchvision:squeezenet1_1", 5, 32)(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    with pytest.raises(ModelError, match="torchvision has no classifier 'resnet81'"):
        build("torchvision:resnet81", 5, 32)


def test_few_tokens_are_warned_of() -> None:
    warnings = check_model("timm:vit_tiny_patch16_224[depth=1]", 10, 32)
    assert len(warnings) == 1
    assert "only 4 tokens" in warnings[0]
    assert check_model("vit_flops", 10, 32) == []


def test_options() -> None:
    assert parse_options("depth=2,act=gelu,drop=0.1", "x") == {"depth": 2, "act": "gelu", "drop": 0.1}
    for bad in ("depth", "=2", "a b=1"):
        with pytest.raises(ModelError, match="not key=value"):
            parse_options(bad, "x")


def test_options_that_are_tuples_lists_and_texts() -> None:
    text = "depths=(2, 2,2),layers=[1,1],args={'a': 1, 'b': (2, 3)},name='x, y',act=gelu"
    expected = {"depths": (2, 2, 2), "layers": [1, 1], "args": {"a": 1, "b": (2, 3)}, "name": "x, y", "act": "gelu"}
    assert parse_options(text, "x") == expected
    with pytest.raises(ModelError, match=r"'depths=\(2,act=gelu' in x opens a bracket"):
        parse_options("depths=(2,act=gelu", "x")
    (name, other) = split_names("timm:resnet26[layers=[1,1,1,1]],resnet20")
    assert other == "resnet20"
    assert [len(getattr(build(name, 5, 32), f"layer{i}")) for i in (1, 2, 3, 4)] == [1, 1, 1, 1]


@pytest.mark.parametrize("option", ["pretrained=True", "checkpoint_path=x.pt", "pretrained_cfg={'file': 'x'}"])
def test_trained_weights_are_refused_without_a_connection(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("tried to connect"))
    with pytest.raises(ModelError, match="asks for trained weights; every model here starts from its seed"):
        build(f"timm:resnet10t[{option}]", 5, 32)
    build("timm:resnet10t[pretrained=False]", 5, 32)
    with pytest.raises(ModelError, match="torchvision has no classifier"):  # it takes no options
        build("torchvision:squeezenet1_1[weights=DEFAULT]", 5, 32)
    build("torchvision:squeezenet1_1", 5, 32)


def test_classifiers_with_auxiliary_outputs_have_one(recwarn: pytest.WarningsRecorder) -> None:
    model = build("torchvision:googlenet", 5, 32)
    assert model.train()(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
    assert not [warning for warning in recwarn if "torchvision" in warning.filename]
    with torch.device("meta"):
        assert build("torchvision:inception_v3", 5, 75).train()(torch.zeros(2, 3, 75, 75)).shape == (2, 5)


ZOO_FILE = """
def from_torchvision(classes, size):
    import torchvision
    return torchvision.models.squeezenet1_1(num_classes=classes)

def from_timm(classes, size):
    import timm
    return timm.create_model("resnet10t", num_classes=classes)

def from_vit_pytorch(classes, size):
    from vit_pytorch import SimpleViT
    return SimpleViT(image_size=size, patch_size=8, num_classes=classes, dim=32, depth=1, heads=2, mlp_dim=32)
"""
BUILD = """
import sys
from models.registry import build, source_hash, split_names
for function in ("from_torchvision", "from_timm", "from_vit_pytorch"):
    print(type(build(f"{sys.argv[1]}:{function}", 3, 32)).__name__)
"""


def test_files_that_build_on_the_zoos(tmp_path: Path) -> None:
    """In a new process: with a CPU torch, `import torchvision` alone may fail."""
    (tmp_path / "zoo.py").write_text(ZOO_FILE)
    command = [sys.executable, "-c", BUILD, str(tmp_path / "zoo.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.stdout.split() == ["SqueezeNet", "ResNet", "SimpleViT"], done.stderr


NETWORK = """
from torch import nn
{line}
def make(num_classes, image_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, WIDTH), nn.Linear(WIDTH, num_classes))
"""


def test_a_file_may_import_its_neighbours_and_each_file_has_its_own(tmp_path: Path) -> None:
    """Cases 18 and 19: by their name or relatively; a changed neighbour is a changed model."""
    lines = ("from sizes import WIDTH", "from .sizes import WIDTH", "from inner.sizes import WIDTH")
    for width, line in zip((5, 6, 7), lines, strict=True):
        folder = tmp_path / str(width)
        (folder / "inner").mkdir(parents=True)
        (folder / "net.py").write_text(NETWORK.format(line=line))
        for place in (folder, folder / "inner"):
            (place / "sizes.py").write_text(f"WIDTH = {width}")
    for width in (5, 6, 7, 5):
        name = f"{tmp_path / str(width)}/net.py:make"
        assert build(name, 2, 4)[1].out_features == width
        before = source_hash(name)
        for place in ("sizes.py", "inner/sizes.py"):
            with (tmp_path / str(width) / place).open("a") as file:
                file.write("  # changed")
        assert source_hash(name) != before


def test_a_package_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "net.py").write_text(NETWORK.format(line="from mine.sizes import WIDTH"))
    (tmp_path / "mine" / "sizes.py").write_text("WIDTH = 9")
    monkeypatch.chdir(tmp_path)
    assert build("mine.net:make", 2, 4)[1].out_features == 9
    assert len(source_hash("mine.net:make")) == 64
    (tmp_path / "models" / "sub").mkdir(parents=True)
    for name in ("models/net.py", "models/sub/net.py", "models/seresnet.py", "bench/net.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(NETWORK.format(line="WIDTH = 3"))
        module = name.removesuffix(".py").replace("/", ".")
        package = module.partition(".")[0]
        with pytest.raises(ModelError, match=rf"`{package}` is this tool's own package; name your file: {name}:make"):
            build(f"{module}:make", 2, 4)
        assert build(f"{name}:make", 2, 4)[1].out_features == 3
    assert build("models.vit:vit_flops", 2, 32) is not None  # no file of that name here
    with pytest.raises(ModelError, match=r"No module named 'models\.nothing'"):
        build("models.nothing:make", 2, 4)


def test_a_file_elsewhere_may_import_a_package_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, width in (("a", 4), ("b", 5)):
        package = tmp_path / place / "parts"
        package.mkdir(parents=True)
        (package / "sizes.py").write_text(f"WIDTH = {width}")
    (tmp_path / "nets").mkdir()
    net = tmp_path / "nets" / "net.py"
    net.write_text(NETWORK.format(line="from parts.sizes import WIDTH\nfrom models.vit import vit_tiny"))
    hashes = set()
    for place, width in (("a", 4), ("b", 5), ("a", 4)):
        monkeypatch.chdir(tmp_path / place)
        assert build(f"{net}:make", 2, 4)[1].out_features == width
        hashes.add(source_hash(f"{net}:make"))
    assert len(hashes) == 2
    monkeypatch.chdir(ROOT)
    assert source_hash(f"{net}:make") not in hashes  # this tool's own files are not the model's
    assert [path.name for path in sources_of(str(net))] == ["net.py"]
