"""What a CPU forgives and a GPU does not: tensors on two devices, and values that are read back.

So often the processor waits for the device. A training step: four times (the real tokens are chosen
in states and targets; the loss; the gradient's norm, before anything may change). A decoding step,
greedy or beam: twenty times. `beam_search` 7 (5 rows chosen by a mask, the sentences that are
done, one list), `continuations` 5, `follow` 4, `read` 2 (the prefixes compared), `read_step` 1 and
`leave` 1; a few more where a sentence leaves.
"""

from collections import Counter

import pytest
import torch
from elsewhere import DEVICE, Elsewhere

from course.attention import record_attention
from course.cache import translate_batch
from course.masking import Batch
from course.speed import FastStep, Switches
from course.training import TrainingConfig, evaluate_loss, make_optimizer, train_step
from course.transformer import Transformer, TransformerConfig

SOURCES = [[5, 6, 2], [7, 8, 9, 2], [5, 2]]
RECIPE = TrainingConfig()


def tiny(**changes) -> Transformer:
    """A model on the device that is not there."""
    torch.manual_seed(0)
    config = TransformerConfig(50, 50, d_model=16, n_heads=2, d_ff=32, n_layers=2, **changes)
    return Transformer(config).to(DEVICE)


def batch() -> Batch:
    """A batch as `make_batches` makes it: on the processor."""
    return Batch.from_sequences(SOURCES, SOURCES, 0, 1)


def test_the_mistakes_that_it_is_made_for_are_seen():
    with Elsewhere() as device:
        x = torch.ones(3, device=DEVICE)
        assert x.device == DEVICE and (2 * x).sum().device == DEVICE
        assert torch.ones(3).device.type == "cpu" and not device.read_back
        for mistake in (lambda: x + torch.ones(3), lambda: x @ torch.ones(3, 2),
                        lambda: torch.ones(3).add_(x), lambda: torch.cat([x, torch.ones(3)])):
            with pytest.raises(RuntimeError, match="stands on the processor, another one on the"):
                mistake()
        assert (x + torch.tensor(1.0)).device == DEVICE  # a number without a dimension may mix
        assert x[torch.tensor([0, 2])].device == DEVICE  # and an index
        for read in (lambda: x[0].item(), lambda: bool(x[0] > 0), lambda: x.tolist(),
                     lambda: x.cpu(), lambda: x.to("cpu"), lambda: x[x > 0], lambda: x.nonzero(),
                     lambda: torch.equal(x, x), lambda: int(x[0])):
            before = device.read_back.total()
            read()
            assert device.read_back.total() > before
        assert x.cpu().device.type == "cpu" and (x.cpu() + torch.ones(3)).device.type == "cpu"


def test_a_batch_that_was_not_moved_is_seen():
    with Elsewhere():
        model = tiny()
        with pytest.raises(RuntimeError, match="in transformer"):
            train_step(model, [batch()], make_optimizer(model, RECIPE), 1e-3, RECIPE)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_a_training_step_stays_on_the_device(norm, positions):
    with Elsewhere() as device:
        model = tiny(norm=norm, positions=positions)
        optimizer = make_optimizer(model, RECIPE)
        step = FastStep(model, optimizer, RECIPE, Switches())
        train_step(model, [batch().to(DEVICE)], optimizer, 1e-3, RECIPE)
        of_lesson_07, device.read_back = device.read_back, Counter()
        step.update([batch()], 1e-3)  # it moves the batch itself
        assert evaluate_loss(model, [batch()]) > 0
    # loss and norm: nothing may change if one of them is not finite; and the real tokens are chosen
    chosen = {("training.batch_loss", "boolean index"): 2,
              ("training.apply_gradient", "local_scalar_dense"): 1}
    assert of_lesson_07 == chosen | {("training.train_step", "local_scalar_dense"): 1}
    of_07c = {key: n for key, n in device.read_back.items() if "evaluate_loss" not in key[0]}
    assert of_07c["speed.update", "local_scalar_dense"] == 1


@pytest.mark.parametrize("beam", [1, 4])
def test_decoding_stays_on_the_device_and_waits_a_known_number_of_times(beam):
    with Elsewhere() as device:
        model = tiny(dropout=0.0).eval()
        written = translate_batch(model, SOURCES, beam, 0.6)
    steps = max(map(len, written)) + 1
    assert device.read_back.total() < 22 * steps  # see above; fewer would be faster
    per_step = {place for place, _ in device.read_back}
    assert per_step <= {"cache.beam_search", "cache.continuations", "cache.read", "cache.follow",
                        "cache.leave", "cache.read_step", "cache.keep", "decoding.limits_of"}


def test_what_a_model_looks_at_can_be_recorded_on_a_device():
    with Elsewhere():
        model = tiny(dropout=0.0).eval()
        with record_attention(model) as seen, torch.no_grad():
            made = batch().to(DEVICE)
            model(made.src, made.tgt_in, made.src_mask, made.tgt_mask)
        assert seen and all(weights.device == DEVICE for weights in seen.values())
