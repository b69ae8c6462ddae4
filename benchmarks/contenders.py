"""Training loops that compete, each in a process of its own. Example: best(task, Turn(ask, answer, now, synchronize))

benchmarks/duel.py starts them:

plain  as most CIFAR repositories have it: PIL images, transforms in a DataLoader with 2 workers, fp32, eager,
       contiguous, an optimizer with its defaults, loss.item() and accuracy.item() at every step
best   written by hand for this one purpose, none of our code but the model's builder: arrays in memory, a gather crop,
       channels_last, a fused optimizer, the recipe's precision, one transfer of losses an epoch
ours   bench.measure.run.run_one as a sweep's child process runs it, with progress events, checkpoints and clocks

All three do the same work: the same model, the same number of training images, AdamW with decay on matrices only,
crop + flip, label smoothing, clipping, and validation after each epoch. Each calls turn.step_done() after each step.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

BEGIN = time.perf_counter()
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

if TYPE_CHECKING:
    from bench.core.events import Event, Report
    from bench.data.datasets import Dataset
    from bench.plan.spec import RunSpec

# Of CIFAR-10, as every repository has them; their values do not change the time.
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
LR, WEIGHT_DECAY, SMOOTHING, CLIP, PADDING = 1e-3, 0.05, 0.1, 1.0, 4  # the recipe `shared`
EPOCHS = 1000  # more than any duel lasts


@dataclass(frozen=True)
class Task:
    """What both sides of a duel do. `images`, `held_out`: how many training images to train and to validate on."""

    model: str
    data: str  # an .npz file
    device: str  # cpu | cuda
    precision: str  # fp32 | bf16, of best and ours; plain is fp32
    setting: str  # one of SETTINGS, of best and ours
    batch_size: int
    images: int
    held_out: int
    folder: str  # where ours may write its store

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return self.images // self.batch_size


class Over(BaseException):
    """The duel has ended. Not an Exception: the harness must not treat it as a failing run."""


class Turn:
    """A contender's side of the duel: call `start` before the first step and `step_done` after each.

    Both block during the other's turn, or raise Over. The clock runs from the start of a turn to its last step, and the
    device has finished before it is read. `ask` waits for the next line: a number of steps, or nothing at the end.
    """

    def __init__(
        self,
        ask: Callable[[], str],
        answer: Callable[[dict[str, Any]], None],
        now: Callable[[], float],
        synchronize: Callable[[], None],
    ) -> None:
        self._ask, self._answer, self._now, self._synchronize = ask, answer, now, synchronize
        self._left, self._begin, self._worked = 0, 0.0, 0.0
        self.over = False

    def start(self) -> None:
        """Everything is built; the first step comes next."""
        self._synchronize()
        self._answer({"ready_seconds": self._now() - BEGIN})
        self._wait()

    def step_done(self) -> None:
        """A step was launched."""
        self._left -= 1
        if self._left:
            return
        self._synchronize()
        seconds = self._now() - self._begin
        self._worked += seconds
        self._answer({"seconds": seconds})
        self._wait()

    def worked(self) -> float:
        """Seconds of this contender's own turns."""
        return self._worked + (self._now() - self._begin if self._left else 0.0)

    def _wait(self) -> None:
        line = self._ask().strip()
        if not line:
            self.over = True
            raise Over
        self._left, self._begin = int(line), self._now()


def split(task: Task) -> tuple[Any, Any, Any, Any, int]:
    """Training images and labels, held-out ones, and the number of classes."""
    with np.load(task.data) as data:
        images, labels = data["train_x"], data["train_y"].astype(np.int64)
    assert task.images + task.held_out <= len(labels), f"{task.data} has only {len(labels)} training images"
    held_out = slice(len(labels) - task.held_out, len(labels))
    # copies, so that the file's arrays can be freed
    parts = (images[: task.images].copy(), labels[: task.images].copy(), images[held_out].copy(), labels[held_out])
    return *parts, int(labels.max()) + 1


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """Decay for matrices only, as the recipe has it."""
    matrices, vectors = [p for p in model.parameters() if p.ndim > 1], [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]


# --- as in most repositories ---------------------------------------------------------------------------------------


class Pictures(torch.utils.data.Dataset[Any]):
    """PIL images one by one, as torchvision.datasets.CIFAR10 gives them."""

    def __init__(self, images: Any, labels: Any, transform: Callable[[Any], Tensor]) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])

    def __len__(self) -> int:
        return len(self.labels)


def plain(task: Task, turn: Turn) -> None:
    from models.registry import build
    from models.torchvision_import import ensure_torchvision

    ensure_torchvision()
    from torchvision import transforms as T

    device = torch.device(task.device)
    train_x, train_y, val_x, val_y, classes = split(task)
    size = train_x.shape[1]
    usual = [T.ToTensor(), T.Normalize(MEAN, STD)]
    augment = T.Compose([T.RandomCrop(size, padding=PADDING), T.RandomHorizontalFlip(), *usual])
    loading = {"batch_size": task.batch_size, "num_workers": 2, "pin_memory": device.type == "cuda"}
    loader = torch.utils.data.DataLoader(Pictures(train_x, train_y, augment), shuffle=True, drop_last=True, **loading)
    held_out = torch.utils.data.DataLoader(Pictures(val_x, val_y, T.Compose(usual)), **loading)
    model = build(task.model, classes, size).to(device)
    criterion = nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
    optimizer = torch.optim.AdamW(groups(model), lr=LR)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS)
    turn.start()
    for _ in range(EPOCHS):
        model.train()
        running_loss, running_accuracy = 0.0, 0.0
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            outputs = model(images)
            loss = criterion(outputs, labels)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            running_loss += loss.item()
            running_accuracy += (outputs.argmax(1) == labels).float().mean().item()
            turn.step_done()
        scheduler.step()
        model.eval()
        correct = 0
        with torch.no_grad():
            for images, labels in held_out:
                outputs = model(images.to(device))
                correct += (outputs.argmax(1) == labels.to(device)).sum().item()


# --- by hand, as fast as possible ---------------------------------------------------------------------------------


def best(task: Task, turn: Turn) -> None:
    from models.registry import build

    device = torch.device(task.device)
    torch.backends.cudnn.benchmark = True
    train_x, train_y, val_x, val_y, classes = split(task)
    size, batch = train_x.shape[1], task.batch_size
    padded = F.pad(torch.from_numpy(train_x), (0, 0, PADDING, PADDING, PADDING, PADDING)).to(device)
    labels = torch.from_numpy(train_y).to(device)
    val_x, val_y = torch.from_numpy(val_x).to(device), torch.from_numpy(val_y).to(device)
    del train_x, train_y
    mean = 255 * torch.tensor(MEAN, device=device)[:, None, None]
    std = 255 * torch.tensor(STD, device=device)[:, None, None]
    # Does what the setting says, and shares no code with it.
    model = build(task.model, classes, size).to(device, memory_format=torch.channels_last)
    if task.setting.endswith("explicit"):
        for module in model.modules():
            if hasattr(module, "fused_attn"):  # timm's switch
                module.fused_attn = False
    forward = torch.compile(model) if task.setting.startswith("compiled") else model
    optimizer = torch.optim.AdamW(groups(model), lr=LR, fused=True)
    bf16 = task.precision == "bf16"
    total, warmup = EPOCHS * task.steps, 0.05 * EPOCHS * task.steps
    steps = torch.arange(size, device=device)
    backwards = steps.flip(0)
    turn.start()
    done = 0
    for _ in range(EPOCHS):
        model.train()
        order = torch.randperm(len(labels), device=device)
        offsets = torch.randint(0, 2 * PADDING + 1, (2, len(labels)), device=device)
        coins = torch.rand(len(labels), device=device) < 0.5
        losses = torch.zeros(task.steps, device=device)
        for step in range(task.steps):
            part = slice(step * batch, (step + 1) * batch)
            index = order[part]
            rows = offsets[0, part, None] + steps
            columns = offsets[1, part, None] + torch.where(coins[part, None], backwards, steps)
            images = padded[index[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
            images = images.float().sub_(mean).div_(std)
            share = (done - warmup) / (total - warmup)
            lr = LR * ((done + 1) / (warmup + 1) if done < warmup else 0.5 * (1 + math.cos(math.pi * share)))
            for group in optimizer.param_groups:
                group["lr"] = lr
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                loss = F.cross_entropy(forward(images), labels[index], label_smoothing=SMOOTHING)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            losses[step] = loss.detach()
            done += 1
            turn.step_done()
        losses.mean().item()
        model.eval()
        correct = torch.zeros((), dtype=torch.int64, device=device)
        with torch.no_grad():
            for images, truth in zip(val_x.split(500), val_y.split(500), strict=True):
                images = images.permute(0, 3, 1, 2).float().sub_(mean).div_(std)
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    correct += (forward(images).argmax(1) == truth).sum()
        correct.item()


# --- the harness ---------------------------------------------------------------------------------------------------

# The settings of a duel; `best` reads the same names.
SETTINGS: dict[str, dict[str, Any]] = {
    "eager": {},
    "eager-explicit": {"attention": "explicit"},
    "compiled": {"name": "compiled", "compile_mode": "default"},
    "compiled-explicit": {"name": "compiled", "compile_mode": "default", "attention": "explicit"},
}


def ours(task: Task, turn: Turn) -> None:
    """The child of a sweep, whose reports are sent and thrown away."""
    import pickle
    from multiprocessing import Pipe
    from multiprocessing.connection import Connection

    from bench.executors import child
    from bench.executors.processes import Surroundings

    nowhere = Connection(os.open(os.devnull, os.O_WRONLY), readable=False)
    life, lifeline = Pipe(duplex=False)  # `lifeline` is never used, and must stay open
    SIDE[:] = [(task, turn)]
    voice = Connection(os.dup(2), readable=False)  # what it prints
    child._child(Surroundings(), nowhere, life, voice, pickle.dumps((run_ours, ())))
    if turn.over:
        raise Over  # a child makes every exception an event
    lifeline.close()


SIDE: list[tuple[Task, Turn]] = []  # of `ours`: a child's arguments are pickled, and a Turn cannot be


def run_ours(report: Report) -> None:
    """A whole run of the harness, which waits for its turns."""
    import traceback

    from bench.core.events import StepDone
    from bench.measure import run
    from bench.measure.checkpoint import Checkpoints
    from bench.measure.train import Training
    from bench.store.disk import Store

    task, turn = SIDE[0]
    make_keeper, begin = run.make_keeper, run.begin

    def keeper(*arguments: Any) -> Checkpoints:
        """Its share is of the time in which this contender works."""
        kept = make_keeper(*arguments)
        kept._now, kept._start = turn.worked, 0.0
        return kept

    def training(*arguments: Any) -> Training:
        """The last thing before the first step."""
        ready = begin(*arguments)
        turn.start()
        return ready

    def on_event(event: Event) -> None:
        report(event)
        if isinstance(event, StepDone):
            turn.step_done()

    run.make_keeper, run.begin = keeper, training
    try:
        spec, dataset = our_run(task)
        run.run_one(spec, dataset, Store(Path(task.folder)), on_event)
    except Exception:
        traceback.print_exc()
        raise


def our_run(task: Task) -> tuple[RunSpec, Dataset]:
    """The task in the harness's terms."""
    from dataclasses import replace

    from bench.data import datasets
    from bench.measure.device import device_name
    from bench.plan import recipes
    from bench.plan.spec import RunSpec, Setting
    from models import registry

    dataset = datasets.load(f"npz:{task.data}", Path(task.folder))
    assert task.images <= len(dataset.train_index), f"at most {len(dataset.train_index)} images: the rest validates"
    train, held_out = dataset.train_index[: task.images], dataset.val_index[: task.held_out]
    dataset = replace(dataset, train_index=train, val_index=held_out)
    # whatever else `shared` may have: crop and flip are what the other two do
    recipe = replace(recipes.shared(), epochs=EPOCHS, batch_size=task.batch_size, precision=task.precision)
    recipe = replace(recipe, crop_padding=PADDING, flip=True, policy="", cutout=0, mixup=0.0, cutmix=0.0)
    recipe = replace(recipe, random_erasing=0.0, drop_path=0.0)
    figures = (recipe.optimizer, recipe.lr, recipe.weight_decay, recipe.label_smoothing, recipe.clip_grad_norm)
    assert figures == ("adamw", LR, WEIGHT_DECAY, SMOOTHING, CLIP), "the recipe is no longer the other contenders'"
    setting = Setting(**SETTINGS[task.setting])
    device = (task.device, device_name(torch.device(task.device)))
    source = registry.source_hash(task.model)
    return RunSpec(task.model, dataset.ref, recipe, setting, *device, seed=0, model_source=source), dataset


# `again`: if a contender is not as fast as itself, the duel cannot be trusted
CONTENDERS: dict[str, Callable[[Task, Turn], None]] = {"plain": plain, "best": best, "ours": ours, "again": best}


def main() -> None:
    """A contender's process, `contenders.py NAME TASK-AS-JSON`: reads turns from its input, answers on its output."""
    name, text = sys.argv[1:]
    task = Task(**json.loads(text))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer

    def answer(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=answers, flush=True)

    sync = torch.cuda.synchronize if task.device == "cuda" else lambda: None
    try:
        CONTENDERS[name](task, Turn(sys.stdin.readline, answer, time.perf_counter, sync))
    except Over:
        # only now: a hand-written loop's memory must hold none of it
        from bench.measure.device import device_name, peak_memory_bytes

        device = torch.device(task.device)
        facts = {"torch": torch.__version__, "threads": torch.get_num_threads(), "device_name": device_name(device)}
        answer({"peak_memory_bytes": peak_memory_bytes(device), **facts})
        # Without clean-up: a DataLoader has workers, and a thread waits for the end of a parent.
        answers.close()
        os._exit(0)
    raise SystemExit(f"{name} ended before the duel did")


if __name__ == "__main__":
    main()
