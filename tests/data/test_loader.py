"""Batches: everything drawn as often as it should be, the same for all, the same whether they stay or are streamed."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from bench.data import augment
from bench.data.loader import Batches, Draws, HeldOut, channel_stats
from bench.plan.recipes import shared
from bench.plan.spec import Recipe
from tests.data.test_augment import SIGNIFICANT, Watch, reads

CPU = torch.device("cpu")
RNG = np.random.default_rng(3)
IMAGES = RNG.integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(50, dtype=np.int64)
PLAIN = replace(shared(), batch_size=16, crop_padding=2)
STRONG = replace(PLAIN, policy="trivialaugment", cutout=3, mixup=0.2, cutmix=1.0)
STRONGEST = replace(STRONG, policy="randaugment", random_erasing=0.25)
RECIPES = {
    "plain": PLAIN,
    "policy": replace(PLAIN, policy="trivialaugment"),
    "cutout": replace(PLAIN, cutout=3),
    "mixup": replace(PLAIN, mixup=0.2),
    "cutmix": replace(PLAIN, cutmix=1.0, crop_padding=0),
    "strong": STRONG,
    "randaugment": replace(PLAIN, policy="randaugment"),
    "erasing": replace(PLAIN, random_erasing=0.5),
    "strongest": STRONGEST,
}


def batches(recipe: Recipe = PLAIN, seed: int = 0, **options: Any) -> Batches:
    return Batches.create(IMAGES, LABELS, recipe, 50, seed, CPU, **options)


def test_the_first_records_draws_are_still_drawn() -> None:
    """Order, offsets and coins as the first version drew them, for every recipe: its results can be had again."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence([7, 2]).generate_state(1)[0]))
    order = torch.randperm(50, generator=generator)[:48]
    top, left = torch.randint(0, 5, (2, 48), generator=generator)
    coins = torch.rand(48, generator=generator) < 0.5
    for recipe in (PLAIN, STRONG, STRONGEST):
        drawn = batches(recipe, seed=7).draw(2)
        assert torch.equal(drawn.order, order)
        assert torch.equal(drawn.offsets, torch.stack([top, left]))
        assert torch.equal(drawn.coins, coins)
    mean, std = (torch.tensor(figures)[:, None, None] for figures in channel_stats(IMAGES))
    made = torch.cat([x for x, _ in batches(seed=7).epoch(2)])
    for i in range(48):
        image = np.pad(IMAGES[order[i]], ((2, 2), (2, 2), (0, 0)))[top[i] : top[i] + 8, left[i] : left[i] + 8]
        image = torch.from_numpy(image[:, ::-1].copy() if coins[i] else image.copy()).permute(2, 0, 1)
        assert torch.equal(made[i], (image.float() - mean) / std)


def test_the_next_records_draws_are_still_drawn() -> None:
    """The policy's ways, the cutouts and the mixes as the second version drew them, for the recipes that it had."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence([7, 2]).generate_state(1)[0]))
    torch.randperm(50, generator=generator)
    torch.randint(0, 5, (2, 48), generator=generator)
    torch.rand(48, generator=generator)
    ways = torch.randint(0, augment.WAYS, (48,), generator=generator)
    centres = torch.randint(0, 8, (2, 48), generator=generator)
    mixes = augment.draw_mixes(0.2, 1.0, torch.rand(4, 3, generator=generator, dtype=torch.float64), 8)
    for recipe in (STRONG, STRONGEST):
        drawn = batches(recipe, seed=7).draw(2)
        assert torch.equal(drawn.ways, ways)
        assert torch.equal(drawn.centres, centres)
        assert torch.equal(drawn.mixes, mixes)


def test_channel_stats_are_those_of_numpy() -> None:
    mean, std = channel_stats(IMAGES)
    np.testing.assert_allclose(mean, IMAGES.reshape(-1, 3).mean(0))
    np.testing.assert_allclose(std, IMAGES.reshape(-1, 3).std(0))


def test_an_epoch_shows_each_image_once_but_the_rest_of_a_batch() -> None:
    labels = torch.cat([y for _, y in batches().epoch(0)])
    assert len(labels) == 48
    assert len(set(labels.tolist())) == 48


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
def test_shapes_types_and_layout_are_always_the_same(name: str, layout: str) -> None:
    recipe = RECIPES[name]
    formats = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
    for images, labels in batches(recipe, memory_format=layout).epoch(0):
        assert images.shape == (16, 3, 8, 8)
        assert images.dtype == torch.float32
        assert images.is_contiguous(memory_format=formats[layout])
        soft = bool(recipe.mixup or recipe.cutmix)
        assert labels.shape == ((16, 50) if soft else (16,))
        assert labels.dtype == (torch.float32 if soft else torch.int64)
        if soft:
            torch.testing.assert_close(labels.sum(1), torch.ones(16))


def test_seed_and_epoch_alone_decide() -> None:
    def order(seed: int, epoch: int, recipe: Recipe = PLAIN) -> list[int]:
        return batches(recipe, seed).draw(epoch).order.tolist()

    same = [order(0, 0, recipe) for recipe in (*RECIPES.values(), replace(PLAIN, flip=False))]
    assert all(one == order(0, 0) for one in same)
    assert len({tuple(order(s, e)) for s in (0, 1) for e in (0, 1)}) == 4


@pytest.mark.parametrize("name", RECIPES)
def test_an_epoch_again_from_its_middle_or_streamed_is_the_same(name: str) -> None:
    recipe = RECIPES[name]
    whole = list(batches(recipe).epoch(3))
    assert len(whole) == 3
    for made in (batches(recipe), batches(recipe, resident=False)):
        for first in range(4):
            again = list(made.epoch(3, first))
            assert len(again) == 3 - first
            for (x, y), (x2, y2) in zip(whole[first:], again, strict=True):
                assert torch.equal(x, x2)
                assert torch.equal(y, y2)
    assert not torch.equal(whole[0][0], next(batches(recipe).epoch(4))[0])


def drawing_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("draw")]


@pytest.mark.parametrize("resident", [True, False])
def test_steps_are_those_of_their_epochs_though_the_draws_come_ahead(resident: bool) -> None:
    made = batches(STRONGEST, resident=resident)
    whole = [batch for epoch in range(4) for batch in made.epoch(epoch)]
    for first, end in ((0, 12), (0, 1), (2, 7), (3, 9), (5, 6), (7, 7)):
        taken = list(made.steps_between(first, end))
        assert len(taken) == end - first
        for (x, y), (x2, y2) in zip(whole[first:end], taken, strict=True):
            assert torch.equal(x, x2)
            assert torch.equal(y, y2)
    assert not drawing_threads()


def test_each_epoch_is_drawn_once_by_a_thread_and_none_beyond_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    made, plain, drawn = batches(), Batches.draw, list[tuple[int, bool]]()

    def watched(self: Batches, epoch: int) -> Draws:
        drawn.append((epoch, threading.current_thread() is threading.main_thread()))
        return plain(self, epoch)

    monkeypatch.setattr(Batches, "draw", watched)
    assert len(list(made.steps_between(1, 9))) == 8
    assert drawn == [(0, True), (1, False), (2, False)]
    steps = made.steps_between(0, 9)
    next(steps)
    assert not drawing_threads(), "nothing is drawn beside the first step, which may compile and fork"
    next(steps)
    steps.close()
    assert not drawing_threads()
    assert drawn[3:] == [(0, True), (1, False)]


def test_a_failed_draw_is_the_trainings_own(monkeypatch: pytest.MonkeyPatch) -> None:
    made, plain = batches(), Batches.draw

    def fails(self: Batches, epoch: int) -> Draws:
        if epoch:
            raise MemoryError("no room")
        return plain(self, epoch)

    monkeypatch.setattr(Batches, "draw", fails)
    steps = made.steps_between(0, 9)
    for _ in range(3):
        next(steps)
    with pytest.raises(MemoryError, match="no room"):
        next(steps)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_no_draw_is_under_way_where_a_process_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The draw can end only once the fork was asked for: hooks run newest first, the loader's after the test's."""
    made, plain, release, alive = batches(), Batches.draw, threading.Event(), list[int]()

    def waits(self: Batches, epoch: int) -> Draws:
        assert epoch == 0 or release.wait(60)
        return plain(self, epoch)

    monkeypatch.setattr(Batches, "draw", waits)
    steps = made.steps_between(0, 9)
    next(steps)
    next(steps)
    assert drawing_threads()
    os.register_at_fork(before=release.set, after_in_parent=lambda: alive.append(len(drawing_threads())))
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    assert alive == [0]
    assert len(list(steps)) == 7


def test_a_streamed_batch_stays_as_it_was_put_out() -> None:
    """The buffers are used again, what was made of them is not."""
    kept = [(x, x.clone()) for x, _ in batches(resident=False).epoch(0)]
    assert all(torch.equal(x, copy) for x, copy in kept)


def test_streaming_may_be_left_at_any_step() -> None:
    made = batches(resident=False)
    for _ in range(20):
        next(made.epoch(0))
    assert len(list(made.epoch(0))) == 3


def test_one_option_leaves_the_draws_of_the_others_alone() -> None:
    plain, strong = batches().draw(0), batches(STRONG).draw(0)
    assert all(torch.equal(a, b) for a, b in zip(plain[:5], strong[:5], strict=True))
    assert plain.mixes.shape == (6, 0)
    assert strong.mixes.shape == (6, 3)
    assert torch.equal(plain.second_ways, strong.second_ways)
    assert strong.erasures.shape == (4, 0)
    alone, beside = (batches(recipe).draw(0) for recipe in (replace(PLAIN, random_erasing=0.25), STRONGEST))
    assert torch.equal(alone.erasures, beside.erasures)
    assert torch.equal(beside.mixes, strong.mixes)


def test_randaugment_is_two_ops_with_draws_of_their_own() -> None:
    """Each image of a batch through one op after the other, one by one."""
    made = batches(RECIPES["randaugment"])
    drawn, ways, index = made.draw(0), augment.rand_ways(8), torch.zeros(1, dtype=torch.int64)
    found = torch.cat([x for x, _ in made.epoch(0)])
    for i in range(48):
        one, where = made.images[drawn.order[i]][None], drawn.offsets[:, i : i + 1]
        crop = augment.gather_crop(one, index, *where, drawn.coins[i : i + 1], 8)
        for way in (drawn.ways[i : i + 1], drawn.second_ways[i : i + 1]):
            image = crop.permute(0, 2, 3, 1).contiguous()
            crop = augment.trivialaugment(image, index, index, index, index.bool(), 8, ways.take(way))
        assert torch.equal(found[i], augment.normalise(crop, made.mean, made.std)[0])


def test_only_what_is_drawn_is_erased() -> None:
    plain, erased = (torch.cat([x for x, _ in batches(r).epoch(0)]) for r in (PLAIN, RECIPES["erasing"]))
    edges = batches(RECIPES["erasing"]).draw(0).erasures.T.tolist()
    for image, (top, bottom, left, right) in zip(plain, edges, strict=True):
        image[:, top:bottom, left:right] = 0
    assert torch.equal(plain, erased)
    assert 10 < sum(bottom > top for top, bottom, _, _ in edges) < 38


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("recipe", [STRONG, STRONGEST], ids=["strong", "strongest"])
def test_nothing_is_read_back_within_an_epoch(resident: bool, recipe: Recipe) -> None:
    epoch = batches(recipe, resident=resident).epoch(0)
    next(epoch)
    with Watch() as watch:
        assert len(list(epoch)) == 2
    assert len(watch.names) > 100
    assert not list(reads(watch.names))


# --- distributions -------------------------------------------------------------------------------------------------


def seen_placements(padding: int, flip: bool, epochs: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Offsets and the share of flips, read off images whose pixels are their own coordinates."""
    rows, columns = np.mgrid[1:9, 1:9].astype(np.uint8)
    coded = np.ascontiguousarray(np.broadcast_to(np.stack([rows, columns, columns], -1), (48, 8, 8, 3)))
    recipe = replace(PLAIN, batch_size=48, crop_padding=padding, flip=flip)
    made = Batches.create(coded, np.zeros(48, np.int64), recipe, 1, 0, CPU)
    made.mean, made.std = torch.zeros(3), torch.ones(3)
    images = torch.cat([x for e in range(epochs) for x, _ in made.epoch(e)]).numpy()
    middle = images[:, :, 4, 3:5]  # inside the padding whatever the offset
    flipped = middle[:, 1, 0] > middle[:, 1, 1]
    top = middle[:, 0, 0] - 5 + padding
    left = np.where(flipped, middle[:, 1, 0] - 5, middle[:, 1, 0] - 4) + padding
    return top, left, float(flipped.mean())


def test_every_offset_equally_often_and_half_are_flipped() -> None:
    top, left, flipped = seen_placements(padding=2, flip=True, epochs=100)
    for offsets in (top, left):
        counts = np.bincount(offsets.astype(int), minlength=5)
        assert len(counts) == 5
        assert stats.chisquare(counts).pvalue > SIGNIFICANT
    assert stats.binomtest(round(flipped * len(top)), len(top)).pvalue > SIGNIFICANT
    table = np.histogram2d(top, left, bins=5)[0]
    assert stats.chi2_contingency(table).pvalue > SIGNIFICANT, "rows and columns are drawn independently"


def test_no_crop_and_no_flip_where_the_recipe_has_none() -> None:
    top, left, flipped = seen_placements(padding=0, flip=False, epochs=2)
    assert set(top) == {0}
    assert set(left) == {0}
    assert flipped == 0


def test_every_op_strength_sign_and_centre_equally_often_and_independently() -> None:
    made = batches(STRONG)
    drawn = [made.draw(epoch) for epoch in range(600)]
    ways = torch.cat([d.ways for d in drawn]).numpy()
    rows, columns = torch.cat([d.centres for d in drawn], 1).numpy()
    coins = torch.cat([d.coins for d in drawn]).numpy().astype(int)
    op, strength, negative = ways // 62, ways // 2 % 31, ways % 2
    second = torch.cat([d.second_ways for d in drawn]).numpy()
    op2, negative2 = second // 62, second % 2
    for values, kinds in ((op, 14), (strength, 31), (rows, 8), (columns, 8), (ways, augment.WAYS), (op2, 14)):
        counts = np.bincount(values, minlength=kinds)
        assert len(counts) == kinds
        assert stats.chisquare(counts).pvalue > SIGNIFICANT
    for signs in (negative, negative2):
        assert stats.binomtest(int(signs.sum()), len(signs)).pvalue > SIGNIFICANT
    pairs = [(op, strength), (op, negative), (op, coins), (op, rows), (rows, columns), (op[1:], op[:-1])]
    for a, b in [*pairs, (op, op2), (negative, negative2), (op2, negative2), (op2[1:], op2[:-1])]:
        table = np.histogram2d(a, b, bins=(a.max() + 1, b.max() + 1))[0]
        assert stats.chi2_contingency(table).pvalue > SIGNIFICANT
    batch = op[: len(op) // 16 * 16].reshape(-1, 16)
    assert len({tuple(row) for row in batch.tolist()}) == len(batch), "each image of a batch has its own"


def test_one_lambda_a_batch_from_beta() -> None:
    recipe = replace(PLAIN, mixup=0.2, batch_size=2)
    made = batches(recipe)
    shares = torch.cat([made.draw(epoch).mixes[1] for epoch in range(80)])
    assert len(shares) == 80 * 25
    assert stats.kstest(shares.double().numpy(), stats.beta(0.2, 0.2).cdf).pvalue > SIGNIFICANT


# --- evaluation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 500, 501])
def test_evaluation_sees_every_image_in_order_and_nothing_else_is_done(count: int) -> None:
    images = np.random.default_rng(count).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    training = batches(STRONG)
    parts = list(HeldOut.create(images, np.arange(count), training).batches())
    assert torch.cat([y for _, y in parts]).tolist() == list(range(count))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    expected = (pixels - training.mean[:, None, None]) / training.std[:, None, None]
    assert torch.equal(torch.cat([x for x, _ in parts]), expected)
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x, _ in parts)


def test_a_constant_channel_stays_finite() -> None:
    mean, std = channel_stats(np.full((2, 4, 4, 3), 7, np.uint8))
    assert mean == [7.0] * 3
    assert std == [1.0] * 3
