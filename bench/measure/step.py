"""A training step under a given setting. Example: step = make_step(model, optimizer, recipe, setting, device)

The loop and the speed session use this same step, so that what is timed is what trains. A compiled or graphed step is
made at its first call, on real images; whatever that leaves behind in weights, statistics, optimizer and random streams
is undone, so that training begins where an eager one would. Where it cannot be made, the next simpler one takes over,
last of all the eager step, and a note says why.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.core.status import one_line, status_of
from bench.data.loader import FORMATS
from bench.plan.spec import Recipe, Setting

T = TypeVar("T")
Plain = Callable[[Tensor, Tensor], Tensor]
Forward = Callable[[Tensor], Tensor]  # of images
Make = Callable[[Tensor, Tensor], Plain]  # from a first batch
Note = Callable[[str], None]
# Takes a call without arguments, returns another that repeats its kernels and gives the same tensor, filled anew.
Capture = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]
RandomStreams = dict[str, Any]  # the state of each global random generator, as tensors and plain data
COMPILATIONS = 4096  # of one function in a process at most: models x settings x batch sizes
WARM_UP = 3  # calls before a capture, as torch's notes on CUDA graphs ask: workspaces, the optimizer's state


class Step(Protocol):
    """(images, targets) -> loss, one whole training step. `used` is the setting that really runs it.

    `from_cache`: whether all that its first call needed compiled was in torch's cache; None where nothing was compiled.
    """

    used: str
    from_cache: bool | None

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """Targets: classes (B,) or, where images are mixed, shares of classes (B, C)."""


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """bf16 autocast where the recipe's precision, already resolved for the device, says so."""
    assert precision in ("fp32", "bf16")
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def make_optimizer(model: nn.Module, recipe: Recipe, capturable: bool = False) -> torch.optim.Optimizer:
    """The recipe's optimizer; biases, norms and other vectors are not decayed, in every model alike.

    Fused, unless a weight is complex. `capturable`: for a CUDA graph, the learning rate is a tensor on the device,
    which replays read anew.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = not any(p.is_complex() for p in trainable)
    lr = torch.tensor(recipe.lr, device=trainable[0].device) if capturable else recipe.lr
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=fused)
    assert recipe.optimizer == "adamw"
    return torch.optim.AdamW(groups, lr=lr, betas=(recipe.momentum, 0.999), fused=fused, capturable=capturable)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate of the next step; into the tensor in place where it is one."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def has_attention_choice(model: nn.Module) -> bool:
    """Whether a model can compute its attention in more than one way: timm's modules say so by `fused_attn`."""
    return any(hasattr(module, "fused_attn") for module in model.modules())


def arrange(model: nn.Module, setting: Setting) -> nn.Module:
    """The model in the setting's memory layout, with its way to compute attention where it has the choice.

    timm reads its global switch when a model is built, hence the switch in each module. Returns the same module.
    """
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = setting.attention != "explicit"  # type: ignore[assignment]
    return model.to(memory_format=layout(setting))  # type: ignore[call-overload]


def layout(setting: Setting) -> torch.memory_format:
    """torch's name of the setting's memory format."""
    return FORMATS[setting.memory_format]


def attention(setting: Setting) -> contextlib.AbstractContextManager[object]:
    """Within, scaled_dot_product_attention is torch's best kernel, or under `math` a sequence of plain operators."""
    return sdpa_kernel(SDPBackend.MATH) if setting.attention == "math" else contextlib.nullcontext()


def compiled(function: Callable[..., Tensor], setting: Setting) -> Callable[..., Tensor]:
    """The function through torch.compile where the setting has a mode; shapes are fixed.

    torch counts compilations by the code of the function, which all models of a process share, and beyond a limit of 8
    would run eagerly with a warning in a log. Here the limit is above any session's, and reaching it is an error.
    """
    if not setting.compile_mode:
        return function
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = COMPILATIONS
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    return torch.compile(function, mode=setting.compile_mode, dynamic=False)


def make_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    setting: Setting,
    device: torch.device,
    note: Note = lambda text: None,
    capture: Capture | None = None,
) -> Step:
    """Forward, loss, backward, clip, update, as the setting says.

    If the setting fails, `note` is called with the reason: a fused step that cannot be made is graphed instead.
    A graphed step needs an optimizer made `capturable`, and batches of one shape. `capture`: a test's own.
    """

    def plain(loss_of: Plain) -> Plain:
        def step(images: Tensor, targets: Tensor) -> Tensor:
            loss = loss_of(images, targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if recipe.clip_grad_norm:
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_grad_norm)
            optimizer.step()
            return loss.detach()

        return step

    def loss_of(images: Tensor, targets: Tensor) -> Tensor:
        with attention(setting), autocast(device, recipe.precision):
            return F.cross_entropy(model(images), targets, label_smoothing=recipe.label_smoothing)

    eager = plain(loss_of)
    if not (setting.compile_mode or setting.graphed):
        return Eager(eager)
    fast = plain(compiled(loss_of, setting))

    def made(step: Plain, images: Tensor, targets: Tensor) -> Plain:
        if setting.graphed:
            return graphed(step, images, targets, capture or cuda_capture)
        step(images, targets)
        return step

    ways = [(name, partial(made, step)) for name, step in ways_of(setting, fast, eager)]
    return Made(ways, eager, lambda: remember(model, optimizer, device), note)


def ways_of(setting: Setting, fast: T, plain: T) -> list[tuple[str, T]]:
    """What to try, by name: the setting's own way, and for one that cannot be compiled *and* captured, `graphed`."""
    both = bool(setting.compile_mode) and setting.graphed
    return [(setting.name, fast), *([("graphed", plain)] if both else [])]


def first_that_works(
    ways: Sequence[tuple[str, Callable[[], T]]], eager: T, note: Note, what: str = ""
) -> tuple[str, T]:
    """(name, what was made) of the first way that does not fail, else ("eager", `eager`); `note` hears each failure.

    Raises what says that memory is short: that is the model's own failure.
    """
    after = [*(name for name, _ in ways[1:]), "eager"]
    for (name, make), other in zip(ways, after, strict=True):
        try:
            return name, make()
        except Exception as error:  # compilers and captures fail in many ways
            if status_of(error) == "oom":
                raise
            note(f"{what}{name} failed, falling back to {other}: {one_line(error)}")
    return "eager", eager


def make_inference(
    model: nn.Module,
    recipe: Recipe,
    setting: Setting,
    device: torch.device,
    note: Note = lambda text: None,
    capture: Capture | None = None,
) -> Forward:
    """(B, 3, S, S) images -> (B, C) probabilities, as the setting says; rebuilt for each new batch size B."""

    def plain(images: Tensor) -> Tensor:
        with attention(setting), autocast(device, recipe.precision):
            return F.softmax(model(images), dim=1)

    eager: Forward = plain
    fast = compiled(eager, setting)
    made: dict[int, Forward] = {}

    def make(function: Forward, images: Tensor) -> Forward:
        if not setting.graphed:
            function(images)
            return function
        own = images.clone()
        replay = (capture or cuda_capture)(lambda: function(own))
        return lambda images: (own.copy_(images), replay())[1]

    def infer(images: Tensor) -> Tensor:
        with torch.inference_mode():
            if not (setting.compile_mode or setting.graphed):
                return plain(images)
            if len(images) not in made:
                ways: list[tuple[str, Callable[[], Forward]]] = [
                    (name, partial(make, way, images)) for name, way in ways_of(setting, fast, eager)
                ]
                made[len(images)] = first_that_works(ways, eager, note, f"inference of {len(images)}: ")[1]
            return made[len(images)](images)

    return infer


class Eager:
    """A step as torch runs it, operator by operator."""

    used = "eager"
    from_cache: bool | None = None

    def __init__(self, step: Plain) -> None:
        self._step = step

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        return self._step(images, targets)


class Made:
    """A step that is made at its first call, for batches of that size: the first of `ways` that works, else `eager`."""

    def __init__(
        self, ways: Sequence[tuple[str, Make]], eager: Plain, remember: Callable[[], Callable[[], None]], note: Note
    ) -> None:
        self.used = ways[0][0]
        self.from_cache: bool | None = None
        self._ways, self._eager, self._remember, self._note = ways, eager, remember, note
        self._step: Plain | None = None
        self._size = 0

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        if self._step is None:
            self._step, self._size = self._first(images, targets), len(images)
        # the single short batch that ends a run is not worth a compilation or a capture of its own
        return (self._step if len(images) == self._size else self._eager)(images, targets)

    def _first(self, images: Tensor, targets: Tensor) -> Plain:
        def undone(make: Make) -> Plain:
            undo = self._remember()
            try:
                return make(images, targets)
            finally:
                undo()

        ways, before = [(name, partial(undone, make)) for name, make in self._ways], compilations()
        self.used, step = first_that_works(ways, self._eager, self._note)
        hits, misses = (now - then for now, then in zip(compilations(), before, strict=True))
        self.from_cache = misses == 0 if hits or misses else None
        return step


def compilations() -> tuple[int, int]:
    """How many graphs this process took from torch's cache, and how many it compiled."""
    if "torch._dynamo" not in sys.modules:
        return 0, 0
    counts = torch._dynamo.utils.counters["inductor"]
    return counts["fxgraph_cache_hit"], counts["fxgraph_cache_miss"] + counts["fxgraph_cache_bypass"]


def remember(model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> Callable[[], None]:
    """Take down what a step changes; the function returned puts it back, in place, as a graph needs it.

    Optimizer state that did not exist is set to zero, from which the first step of SGD and AdamW comes out the same.
    """

    def changing() -> Iterator[tuple[object, Tensor]]:
        yield from model.named_parameters()
        yield from model.named_buffers()
        for index, state in enumerate(optimizer.state.values()):
            yield from (((index, name), value) for name, value in state.items() if isinstance(value, Tensor))

    kept = {name: tensor.detach().clone() for name, tensor in changing()}
    streams = random_streams(device)

    @torch.no_grad()
    def undo() -> None:
        for name, tensor in changing():
            if name in kept:
                tensor.copy_(kept[name])
            else:
                tensor.zero_()
        set_random_streams(streams, device)

    return undo


def random_streams(device: torch.device) -> RandomStreams:
    """The states of every global random generator, as tensors and plain data: dropout draws from them."""
    version, words, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    streams = {
        "torch": torch.get_rng_state(),
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *(float(x) for x in rest)],
    }
    return streams | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_streams(streams: RandomStreams, device: torch.device) -> None:
    """What random_streams took, put back."""
    torch.set_rng_state(streams["torch"])
    version, words, gauss = streams["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = streams["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), int(position), int(has_gauss), cached))
    if device.type == "cuda":
        torch.cuda.set_rng_state(streams["cuda"], device)


@contextlib.contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Whatever is drawn within, the random streams go on from where they were."""
    streams = random_streams(device)
    try:
        yield
    finally:
        set_random_streams(streams, device)


def graphed(step: Plain, images: Tensor, targets: Tensor, capture: Capture) -> Plain:
    """The step as a replay over copies of its inputs. Raises what the warm-up or the capture raises, and RuntimeError
    for a model that draws from Python's or numpy's random numbers: a graph would repeat one draw for ever.
    """
    own_images, own_targets = images.clone(), targets.clone()  # clone keeps the strides
    drawn = _host_draws()
    replay = capture(lambda: step(own_images, own_targets))
    if drawn != _host_draws():
        raise RuntimeError("the model draws from Python's or numpy's random numbers, and a graph would repeat one draw")

    def again(images: Tensor, targets: Tensor) -> Tensor:
        own_images.copy_(images)
        own_targets.copy_(targets)
        return replay().clone()  # the next replay overwrites it

    return again


def _host_draws() -> tuple[Any, ...]:
    """Python's and numpy's random streams, to be compared."""
    _, keys, position, *_ = np.random.get_state()
    return random.getstate(), position, np.asarray(keys).tobytes()


def cuda_capture(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Capture a call as a CUDA graph, warmed up on a side stream as torch's notes on CUDA graphs ask for."""
    stream = torch.cuda.Stream()  # for the capture, too: graphs of one stream would share cuBLAS' workspace
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(
        graph, stream=stream, capture_error_mode="thread_local"
    ):  # the loader's thread may allocate meanwhile
        out = call()

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay
