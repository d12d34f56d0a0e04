"""Faces to lead to, in a world where every reading is a known linear function of the latents."""

import numpy as np
import pytest

from peekaboo.latent.others import NEAREST, others

ENTRIES, HELD = 40, ("yaw", "emotion")


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(4)
    ways = {name: rng.normal(size=ENTRIES) / ENTRIES for name in (*HELD, "age", "sex", "identity")}
    mixing = rng.normal(size=(ENTRIES, ENTRIES)) * np.linspace(0.3, 2, ENTRIES)
    return ways, (rng.normal(size=(900, ENTRIES)) @ mixing).astype(np.float32), rng.normal(size=(7, ENTRIES)) / 3


def read(ways, latents):
    return {name: latents @ way for name, way in ways.items()}


def test_they_hold_what_is_held_and_lose_the_identity_at_the_same_age(world):
    ways, faces, rows = world
    found, own = read(ways, faces), read(ways, rows)
    alike, away = others(faces, found, rows, own, HELD)
    led = read(ways, alike + away)
    assert len(alike) == int(NEAREST * len(faces))
    for name in HELD:
        np.testing.assert_allclose(led[name], own[name].mean(), atol=0.1 * found[name].std())
    off = sum(np.abs(found[name] - own[name].mean()) / found[name].std() for name in ("age", "sex"))
    chosen = np.argsort(off)[: len(alike)]
    # On the way away from the infant the age does not change.
    np.testing.assert_allclose(led["age"], alike @ ways["age"], atol=0.01 * found["age"].std())
    np.testing.assert_allclose(led["identity"], alike @ ways["identity"] - 1, atol=0.05)
    assert np.corrcoef(led["identity"], found["identity"][chosen])[0, 1] > 0.5


def test_a_world_without_ages_has_other_faces_too(world):
    ways, faces, rows = world
    told = {name: ways[name] for name in (*HELD, "identity")}
    found = others(faces, read(told, faces), rows, read(told, rows), HELD)
    assert all(np.isfinite(values).all() for values in found)
