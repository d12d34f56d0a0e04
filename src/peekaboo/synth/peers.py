"""Other infants, filmed alike: how far apart an identity judge sees two infants of whom it is known that they are two.

Recognisers tell adults apart. How well they tell infants apart that are as old, of one sex and complexion, and do the
same in the same light, says what their thresholds are worth here, and how far away another infant is at all.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from peekaboo import metrics
from peekaboo.judges.landmarks import REGION
from peekaboo.synth import clips, render
from peekaboo.synth.benchmark import ALIKE, equal_error
from peekaboo.synth.head import IDENTITY, PARAMETERS, HeadModel, sample

PEERS, FRAMES = 8, 8  # other infants a clip, and its frames, evenly spaced, that they are rendered in
SEED = 20260102


class Distances(NamedTuple):
    """Of a clip's infant: to itself in other frames, and to its peers in the same ones."""

    own: np.ndarray  # [FRAMES * (FRAMES - 1)]
    peers: np.ndarray  # [PEERS * FRAMES], of each peer all frames
    same_frame: np.ndarray  # the same, where the infant's mean does not count
    cosines: np.ndarray  # the same, of the same frames' embeddings


def peer(parameters: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Parameters [N, P] of another infant that does what that of `parameters` [N, P] does: of another identity, but
    for ALIKE.
    """
    other = parameters.copy()
    other[:, IDENTITY] = sample(rng, 1)[0, IDENTITY]
    for name in ALIKE:
        other[:, PARAMETERS[name]] = parameters[:, PARAMETERS[name]]
    return other


def nearest(found: np.ndarray, own: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Distances [N] of embeddings [N, D], or of one [D], to an infant's [N, D] or to their mean [D], the lower ones, as
    the verdict takes them; of one that is NaN the other.
    """
    return np.fmin(metrics.distance(found, own), metrics.distance(found, mean))


def to_itself(own: np.ndarray) -> np.ndarray:
    """Distances [N * (N - 1)] of each of an infant's embeddings [N, D] to those of the other frames or to their mean,
    whichever is lower.
    """
    rest = [np.delete(own, n, 0) for n in range(len(own))]
    return np.concatenate([nearest(one, others, np.nanmean(others, 0)) for one, others in zip(own, rest, strict=True)])


def threshold(found: Iterable[Distances]) -> tuple[float, float]:
    """The distance from which infants filmed alike are two: as many frames of one infant lie beyond it as frames of its
    peers below; and that share.
    """
    own, peers = (np.concatenate(part) for part in zip(*((d.own, d.peers) for d in found), strict=True))
    own, peers = own[np.isfinite(own)], peers[np.isfinite(peers)]
    return equal_error(np.concatenate([own, peers]), np.arange(len(own) + len(peers)) < len(own))


def compare(head: HeadModel, clip: clips.Clip, embed: Callable[[np.ndarray], np.ndarray]) -> Distances:
    """Render a clip's infant and its peers in the clip's frames, and compare what `embed` makes of aligned pictures,
    uint8 RGB [N, 256, 256, 3]: embeddings [N, D], NaN where it finds no face.
    """
    script = clips.script(clip)
    script = script[np.linspace(0, len(script) - 1, FRAMES).round().astype(int)]
    # The framing is the clip's camera's, not the crop's.
    script[:, PARAMETERS["framing"]] = 0
    rng = np.random.default_rng([SEED, clip.seed])

    def seen(parameters: np.ndarray) -> np.ndarray:
        return embed(np.stack([render.aligned(head, row, REGION)[0] for row in parameters]))

    own = seen(script)
    found = [seen(peer(script, rng)) for _ in range(PEERS)]
    return Distances(
        to_itself(own),
        np.concatenate([nearest(embeddings, own, np.nanmean(own, 0)) for embeddings in found]),
        np.concatenate([metrics.distance(embeddings, own) for embeddings in found]),
        np.concatenate([metrics.cosine(embeddings, own) for embeddings in found]),
    )
