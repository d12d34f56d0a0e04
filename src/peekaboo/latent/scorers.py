"""Single-layer scorers over flattened W+ latents, and the walk along their gradients (the project's paper, section
III-C).
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from peekaboo.latent.readings import Readings

# Attributes that have scorers, whose largest components the walk leaves alone.
RETAINED = ("emotion", "age", "sex")
HELD_OUT = 0.2  # share of the samples that tells the accuracy


@dataclass(frozen=True)
class Scorer:
    """f(v) = sigmoid(weight . v + bias) over flattened latents; `accuracy` is that on held-out ones."""

    weight: np.ndarray  # [num_ws * w_dim] float32
    bias: float
    accuracy: float

    def logits(self, latents: np.ndarray) -> np.ndarray:
        """Logits `[B]` of flattened latents `[B, num_ws * w_dim]`, float64."""
        return (latents @ self.weight + self.bias).astype(np.float64)

    def __call__(self, latents: np.ndarray) -> np.ndarray:
        """Probabilities `[B]` of flattened latents `[B, num_ws * w_dim]`."""
        return expit(self.logits(latents))


def fit(latents: np.ndarray, labels: np.ndarray, weight_decay: float, seed: int) -> Scorer:
    """Fit a scorer to flattened latents `[M, D]` and labels `[M]` of 0 and 1 by class-balanced logistic regression.

    `weight_decay` is the factor of |weight|^2 / 2 beside the mean loss. A share HELD_OUT of the samples, drawn by
    `seed`, is kept for the accuracy, which is balanced too. Raises ValueError when a class has fewer than two samples.
    """
    labels = labels.astype(bool)
    if min(labels.sum(), (~labels).sum()) < 2:
        raise ValueError(
            f"expected two latents of each class, found {labels.sum()} positive of {len(labels)}; raise score.samples"
        )
    order = np.random.default_rng(seed).permutation(len(labels))
    # Stratified, so that a small class is in both parts.
    test = np.concatenate([c[: max(1, int(len(c) * HELD_OUT))] for c in (order[labels[order]], order[~labels[order]])])
    train = np.setdiff1d(order, test)
    x, y = latents[train].astype(np.float64), labels[train]
    centre = x.mean(0)
    balance = np.where(y, 0.5 / y.mean(), 0.5 / (1 - y.mean())) / len(y)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        w, b = parameters[:-1], parameters[-1]
        logits = (x - centre) @ w + b
        slope = balance * (expit(logits) - y)
        value = balance @ np.logaddexp(0, np.where(y, -logits, logits)) + weight_decay / 2 * w @ w
        return value, np.append((x - centre).T @ slope + weight_decay * w, slope.sum())

    found = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    weight, bias = found[:-1].astype(np.float32), float(found[-1] - centre @ found[:-1])
    right = (latents[test] @ weight + bias > 0) == labels[test]
    accuracy = (right[labels[test]].mean() + right[~labels[test]].mean()) / 2
    return Scorer(weight, bias, float(accuracy))


def explained(latents: np.ndarray, embeddings: np.ndarray, own: int, ridge: float = 0.3) -> np.ndarray:
    """What of flattened latents `[M, D]` the faces' identity embeddings `[M, E]` tell: the expected latent of each.

    A scorer fitted to these sees nothing else. The difference between the infant's mean and that of others is then
    spread over all that makes an identity, each part as far as it goes among faces, and holds neither expression nor
    pose, light and room, which in random faces have nothing to do with who it is. So the relation is learned from the
    random latents, those after the first `own`, by linear regression; `ridge` is the penalty as a share of the
    embedding's mean variance.
    """
    x, y = embeddings[own:].astype(np.float64), latents[own:].astype(np.float64)
    centre, mean = x.mean(0), y.mean(0)
    x, y = x - centre, y - mean
    gram = x.T @ x
    gram[np.diag_indices(len(gram))] += ridge * np.trace(gram) / len(gram)
    return ((embeddings - centre) @ np.linalg.solve(gram, x.T @ y) + mean).astype(np.float32)


def direction(target: Scorer, retained: list[Scorer], top_k: int, readings: Readings) -> np.ndarray:
    """The target's weight `[D]` with zeros where any retained scorer has one of its `top_k` largest gradient
    components, and clear of what would change the readings.

    A single layer's gradient is p(1 - p) times its weight: the largest components are the same wherever it is taken.
    Raises ValueError where what is left of the weight no longer raises the target, so that a walk would lead back.
    """
    masked = target.weight.copy()
    for scorer in retained:
        masked[np.argsort(-np.abs(scorer.weight), kind="stable")[:top_k]] = 0
    along = readings.clear(masked)
    if along @ target.weight <= 0:
        raise ValueError(
            f"expected a way that leads away from the identity, found none: without the {top_k} largest components of "
            "each attribute and what changes the readings the rest points back; lower traverse.top_k"
        )
    return along


def reach(logits: np.ndarray, target: Scorer, along: np.ndarray, alpha: float, steps: int) -> float:
    """How far along the direction `along` [D] all frames of a track go, in `steps` steps v <- v + alpha * along *
    f(v) (1 - f(v)).

    `logits` [N] are those of the target's f in the frames. The direction is constant, so only the distance is iterated.
    Frames differ in how far they get: where f is sure, its gradient vanishes, and such a frame would be left as it is.
    So all go as far as the one that gets furthest.
    """
    slope, distance = float(along @ target.weight), np.zeros(len(logits))
    for _ in range(steps):
        score = expit(logits + distance * slope)
        distance += alpha * score * (1 - score)
    return float(distance[np.abs(distance).argmax()])
