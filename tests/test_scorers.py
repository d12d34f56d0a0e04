import numpy as np
import pytest
import torch
from scipy.special import expit

from peekaboo.latent.readings import fit_readings
from peekaboo.latent.scorers import Scorer, direction, explained, fit, reach

NONE = fit_readings(np.eye(2, 40, dtype=np.float32), {})


def scorers(rng, dimensions=40):
    return [Scorer(rng.normal(size=dimensions).astype(np.float32) / 3, float(rng.normal()), 1.0) for _ in range(4)]


@pytest.mark.parametrize("top_k", [0, 3, 12])
def test_all_frames_go_where_the_plain_loop_of_gradient_steps_takes_the_one_that_gets_furthest(top_k):
    rng = np.random.default_rng(0)
    target, *retained = scorers(rng)
    latents = rng.normal(size=(5, 40)).astype(np.float32)
    v = torch.from_numpy(latents).double()
    for _ in range(300):
        gradients = []
        for scorer in (target, *retained):
            x = v.clone().requires_grad_()
            score = torch.sigmoid(x @ torch.from_numpy(scorer.weight).double() + scorer.bias)
            gradients.append(torch.autograd.grad(score.sum(), x)[0])
        mask = torch.ones_like(v)
        for gradient in gradients[1:]:
            mask.scatter_(1, gradient.abs().topk(top_k, dim=1).indices, 0)
        v = v - 0.75 * mask * gradients[0]
    moved = v.numpy() - latents
    along = direction(target, retained, top_k, NONE)
    distance = reach(target.logits(latents), target, along, alpha=-0.75, steps=300)
    np.testing.assert_allclose(distance * along, moved[np.linalg.norm(moved, axis=1).argmax()], atol=1e-4)


def test_a_frame_of_which_the_scorer_is_sure_is_not_left_behind():
    target = Scorer(np.ones(4, np.float32), 0.0, 1.0)
    logits = np.array([0.5, 40.0])
    both, first, second = (
        reach(some, target, target.weight, alpha=-0.75, steps=100) for some in (logits, logits[:1], logits[1:])
    )
    assert both == first < -1 and abs(second) < 1e-6


def test_direction_is_zero_where_a_retained_gradient_is_largest():
    target = Scorer(np.ones(6, np.float32), 0.0, 1.0)
    first = Scorer(np.array([9, 0, 0, 0, -8, 1], np.float32), 0.0, 1.0)
    second = Scorer(np.array([0, 7, 0, 0, 0, -6], np.float32), 0.0, 1.0)
    none = fit_readings(np.eye(2, 6, dtype=np.float32), {})
    assert direction(target, [first, second], 2, none).tolist() == [0, 0, 1, 1, 0, 0]


@pytest.mark.parametrize("top_k", [1, 9])
def test_a_walk_that_would_not_lead_away_is_refused(top_k):
    target = Scorer(np.array([1, 0, 0, 0], np.float32), 0.0, 1.0)
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(500, 4)).astype(np.float32)
    # The reading is the identity itself: nothing of the way is left.
    same = fit_readings(latents, {"yaw": latents[:, 0]}, ridge=1e-6)
    with pytest.raises(ValueError, match=r"leads away from the identity.*lower traverse\.top_k"):
        direction(target, [target], top_k, same)


def test_the_identity_scorer_sees_what_the_identity_tells_of_the_latents_alone():
    # Of eight axes the first three make the embedding. The clip's frames lie off in the first, by who it is, and in
    # the fifth, by the room it is in; the sixth changes within it.
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(1120, 8)).astype(np.float32)
    latents[:120, :3] = [3, 0, 0]
    latents[:120, 4] = 5
    latents[:120, 5] *= 4
    told = explained(latents, latents[:, :3] @ rng.normal(size=(3, 3)), 120, ridge=1e-6)
    np.testing.assert_allclose(told[:, :3], latents[:, :3], atol=0.02)
    # What has nothing to do with it is at the mean of the others, but for what a thousand of them err by.
    np.testing.assert_allclose(told[:, 3:] - latents[120:, 3:].mean(0), 0, atol=0.35)
    plain, blind = (fit(each, np.arange(1120) < 120, 1.0, 0) for each in (latents, told))
    assert plain.weight[4] > plain.weight[0] > 0.1
    assert blind.weight[0] > 10 * np.abs(blind.weight[3:]).max()


def test_what_an_embedding_of_noise_tells_is_little():
    rng = np.random.default_rng(1)
    latents, noise = (rng.normal(size=(600, width)).astype(np.float32) for width in (40, 128))
    sure, wary = (explained(latents, noise, 0, ridge).std() for ridge in (1e-6, 3.0))
    assert wary < 0.5 * sure


def test_fit_recovers_the_logistic_model_that_made_the_labels():
    rng = np.random.default_rng(1)
    weight = np.array([2.0, -1.0, 0.0, 0.5])
    latents = rng.normal(size=(20000, 4)).astype(np.float32)
    labels = rng.random(20000) < expit(latents @ weight + 0.3)
    scorer = fit(latents, labels, weight_decay=1e-6, seed=0)
    # Balancing the classes moves the bias, not the direction.
    np.testing.assert_allclose(scorer.weight, weight, atol=0.12)
    bayes = ((latents @ weight + 0.3 > 0) == labels).mean()
    assert abs(scorer.accuracy - bayes) < 0.02


def test_fit_says_when_a_class_is_missing():
    with pytest.raises(ValueError, match="two latents of each class, found 10 positive of 10"):
        fit(np.zeros((10, 3), np.float32), np.ones(10), weight_decay=0.1, seed=0)
