"""Losses that end a run, and those that it gets over."""

import math

import pytest

from expressnet_jax.config.settings import Config, Data
from expressnet_jax.train.divergence import PATIENCE, Diverged, Divergence
from expressnet_jax.train.early_stop import EarlyStop

CONFIG = Config(data=Data(classes=("a", "b", "c")))
LIMIT = CONFIG.recovery.explosion * math.log(len(CONFIG.data.classes))


def record(step, loss, row=0):
    return {"step": step, "loss": loss, "nonfinite_in_a_row": row, "nonfinite": row}


def test_an_exploded_loss_ends_a_run_after_some_intervals_in_a_row():
    found = Divergence()
    for step, loss in enumerate([LIMIT, LIMIT + 1, LIMIT + 1, 1.0, *[2 * LIMIT] * (PATIENCE - 1)]):
        found.interval(record(10 * step, loss), CONFIG)
    assert (found.since, found.bad) == (30, PATIENCE - 1)
    with pytest.raises(Diverged, match=f"the loss is {2 * LIMIT:.4g}, over 10 times that of guessing, at step 60") as e:
        found.interval(record(60, 2 * LIMIT), CONFIG)
    assert e.value.since == 30 and e.value.exit_code == 1


def test_gradients_that_are_not_finite_end_a_run():
    found, most = Divergence(), CONFIG.optimizer.max_nonfinite
    found.interval(record(10, 1.0), CONFIG)
    found.interval(record(20, math.nan, most - 1), CONFIG)
    with pytest.raises(Diverged, match=f"not finite in the last {most} steps before step 30") as caught:
        found.interval(record(30, math.nan, most), CONFIG)
    assert caught.value.since == 10


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_validation_without_a_number_ends_a_run(loss):
    Divergence().validation(8, 1e9, CONFIG)
    with pytest.raises(Diverged, match="the validation loss at step 8 is not finite"):
        Divergence().validation(8, loss, CONFIG)


@pytest.mark.parametrize(("loss", "said"), [(math.nan, "no step had finite gradients"), (1e5, "the loss is 1e")])
def test_a_last_interval_that_is_lost_is_no_success(loss, said):
    found = Divergence()
    found.interval(record(4, loss, 4 * math.isnan(loss)), CONFIG)
    with pytest.raises(Diverged, match=f"{said}.* at the last step, 4"):
        found.end(4, CONFIG)


def test_skipped_steps_count_as_max_nonfinite_says_however_short_the_intervals():
    found, most = Divergence(), CONFIG.optimizer.max_nonfinite
    found.interval(record(1, 1.0), CONFIG)
    for row in range(1, most):
        found.interval(record(1 + row, math.nan, row), CONFIG)
    assert found.bad == 0 and found.since == 1 and most > PATIENCE
    found.end(most, CONFIG)  # few enough: the weights are those of step 1
    with pytest.raises(Diverged):
        found.interval(record(1 + most, math.nan, most), CONFIG)
    with pytest.raises(Diverged, match="no step had finite gradients at the last step"):
        found.end(1 + most, CONFIG)


def test_intervals_that_explode_count_in_a_row():
    found = Divergence()
    for step, (loss, row) in enumerate([(2 * LIMIT, 0), (2 * LIMIT, 0), (1.0, 1), (2 * LIMIT, 0), (math.nan, 1)], 1):
        found.interval(record(step, loss, row), CONFIG)
    assert found.bad == 1 and found.since == 0
    with pytest.raises(Diverged):
        found.end(9, CONFIG)


def test_a_loss_that_is_not_finite_is_never_the_best():
    early = EarlyStop(patience=2)
    for step, loss in enumerate([float("nan"), 2.0, 1.0, float("inf")]):
        early.update(step, loss)
        assert not early.due
    assert early.best_loss == 1.0 and early.waited == 1
    early.update(5, 1.5)
    assert early.due
