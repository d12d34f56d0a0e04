"""The walk, in a world where all that judges see is a known function of the latents; and each of its steps."""

from itertools import islice

import numpy as np
import pytest
import torch

from peekaboo.latent import walk
from peekaboo.latent.descent import strangeness
from peekaboo.latent.frames import Frames
from peekaboo.latent.others import TRUNCATION, others, random_latents
from peekaboo.latent.readings import PLACE, Judges, drawn, fit_readings, seen

HELD = walk.HELD
OTHERS = len(HELD) + 1
ENTRIES = 120


class World:
    """A generator, a reader and an identity network in one: pictures are a row of numbers, bent functions of ENTRIES
    of the latents; the first are what is held, the next is not, the others are the identity but for the last: the
    square of the face, which the placement moves as well.
    """

    num_ws, z_dim, w_dim = 2, ENTRIES // 2, ENTRIES // 2

    def __init__(self, bend=0.3):
        rng = np.random.default_rng(7)
        self.mixing = torch.from_numpy(rng.normal(size=(ENTRIES, OTHERS + 12)).astype(np.float32) / 10)
        self.squares = torch.from_numpy(rng.normal(size=(ENTRIES, 3)).astype(np.float32) / 140)
        self.bend = bend
        self.mapping = self
        self.w_avg = torch.zeros(ENTRIES // 2)

    def __call__(self, z, truncation_psi):
        return truncation_psi * z[:, None].expand(-1, 2, -1)

    def synthesis(self, latents, dtype, transform=None):
        straight = latents.flatten(1) @ self.mixing
        images = (straight + self.bend * straight.roll(1, 1) ** 2) / 8
        square = latents.flatten(1) @ self.squares
        placed = torch.eye(3).expand(len(latents), 3, 3) if transform is None else torch.linalg.inv(transform)
        middle = placed[:, :2, :2] @ square[:, :2, None] + placed[:, :2, 2:]
        size = square[:, 2:] + torch.linalg.det(placed).log()[:, None] / 2
        images[:, HELD.index("roll")] += torch.atan2(placed[:, 1, 0], placed[:, 0, 0]).rad2deg() / 8
        return torch.cat([images, middle[..., 0], size], 1)[:, None, None]

    def read(self, images):
        table = images[:, 0, 0].double().numpy()
        found = {name: 8 * table[:, i] for i, name in enumerate((*HELD, "age"))}
        return found | dict(zip(PLACE, (table[:, -3:] + [0.5, 0.5, 0]).T, strict=True))

    def shapes(self, images):
        """Six points by the identity's numbers."""
        return images[:, 0, 0, OTHERS:-3].numpy().reshape(len(images), 6, 2)

    def labels(self, images):
        return {name: 8 * images[:, 0, 0, HELD.index(name)] for name in walk.FELT}

    def embed(self, images):
        return torch.nn.functional.normalize(images[:, 0, 0, OTHERS:-3], dim=1)


class Told(Judges):
    """Judges of which the one of affect tells all."""

    def read(self, images):
        return self.affect.read(images)

    def shapes(self, images):
        return self.affect.shapes(images)


class Shown(Frames):
    """Frames that show what is drawn as it is."""

    def own(self, batch, device):
        numbers = np.arange(len(self.placements))
        return map(self.crops, np.split(numbers, range(batch, len(numbers), batch)))

    def shown(self, images, numbers):
        return images


@pytest.fixture(autouse=True)
def in_the_worlds_units(monkeypatch):
    """Half a standard deviation of a reading may err."""
    monkeypatch.setattr(walk, "LIMITS", dict.fromkeys(HELD, 0.5))


def walked(world, judges, parts=4):
    """The places of a walk of 40 frames; readings and embeddings of the frames and of where the walk ends."""
    rng = np.random.default_rng(8)
    infant = rng.normal(size=ENTRIES).astype(np.float32)
    frames = infant + rng.normal(size=(40, ENTRIES)).astype(np.float32) / 2
    placed = np.tile(np.eye(3, dtype=np.float32), (40, 1, 1))

    def crops(numbers):
        return next(drawn(frames[numbers], placed[numbers], world, len(numbers)))

    clip = Shown(placed, [], np.ones(40, bool), crops)
    places = list(islice(walk.walk(frames, -infant / 2, clip, world, judges, 16, 0), parts))
    end = places[-1]
    return places, [seen(drawn(*each, world, 16), judges) for each in ((frames, placed), (end.latents, end.placements))]


def off(first, second):
    """Root mean squares of what the held readings differ by."""
    return np.array([np.sqrt(np.mean((first[name] - second[name]) ** 2)) for name in HELD])


def test_what_a_walk_changes_is_taken_back_and_the_identity_is_not(monkeypatch):
    world = World()
    judges = Told(world, world, None)
    places, ((wanted, own), (found, held)) = walked(world, judges)
    again, _ = walked(world, judges)
    np.testing.assert_array_equal(again[-1].latents, places[-1].latents)
    monkeypatch.setattr(walk, "LIMITS", dict.fromkeys(HELD, np.inf))
    monkeypatch.setattr(walk, "ROUNDS", 0)
    alone, (_, (astray, away)) = walked(world, judges)
    assert len(places) == len(alone) == 4
    before, after = off(wanted, astray), off(wanted, found)
    # What hardly changed may change a little more.
    assert (after < np.maximum(before, 0.15)).all() and after.sum() < 0.4 * before.sum()
    # Hardly any of the way is gone back; the cosine to the infant is what the walk tells.
    mean = own.mean(0) / np.linalg.norm(own.mean(0))
    start, straight_on, end = ((each @ mean).mean() for each in (own, away, held))
    assert start - end > 0.8 * (start - straight_on) > 0.7
    np.testing.assert_allclose(places[-1].cosine, end, atol=1e-5)


def test_faces_stay_where_they_were_and_as_large(monkeypatch):
    world = World()
    monkeypatch.setattr(walk, "ACROSS", 0)
    judges = Told(world, world, None)
    places, ((own, _), _) = walked(world, judges)
    kept, astray = [], []
    for latents, placements, *_ in places:
        # One framing for all frames, a similarity.
        np.testing.assert_array_equal(placements, np.broadcast_to(placements[0], placements.shape))
        (a, b, _), (c, d, _), last = placements[0]
        assert a == pytest.approx(d) and b == pytest.approx(-c, abs=1e-6) and (last == [0, 0, 1]).all()
        unmoved = np.tile(np.eye(3, dtype=np.float32), (len(placements), 1, 1))
        for where, off in ((placements, kept), (unmoved, astray)):
            found, _ = seen(drawn(latents, where, world, 16), judges)
            off.append([abs(np.median(found[name] - own[name])) for name in (*PLACE, "roll")])
    # What is taken back after the framing moves faces a little.
    assert (np.max(kept, 0) < [0.03, 0.03, 0.03, 0.5]).all()
    assert (np.mean(kept, 0) < 0.6 * np.mean(astray, 0)).all()


def test_a_walk_leads_to_another_face_and_keeps_its_frames_expressions(monkeypatch):
    monkeypatch.setattr(walk, "ROUNDS", 0)
    world = World(bend=0.0)
    judges = Told(world, world, None)
    random = random_latents(world, walk.RANDOM, 0).flatten(1).numpy()
    faces = random.mean(0) + (random - random.mean(0)) / np.float32(TRUNCATION)
    found, embeddings = seen(drawn(faces, None, world, 16), judges)
    monkeypatch.setattr(walk, "LIMITS", dict.fromkeys(HELD, np.inf))
    rows = []
    monkeypatch.setattr(walk, "others", lambda *given: rows.append(given[2]) or others(*given))
    (first, *_, place), ((wanted, own), (shown, _)) = walked(world, judges, 1 + walk.ACROSS)
    mean = own.mean(0) / np.linalg.norm(own.mean(0))
    told, away = others(faces, found | {"identity": embeddings @ mean}, rows[0], wanted, HELD)
    told += np.float32(walk.FADED) * away
    # All have come to one of them.
    nearest, second, *_ = np.sort(np.linalg.norm(told - place.latents.mean(0), axis=1))
    assert nearest < 0.2 * second
    assert place.cosine < np.quantile(embeddings @ mean, 0.05) and place.cosine < first.cosine - 0.5
    # Which other faces show something else of.
    apart = off({name: np.mean(wanted[name]) for name in HELD}, found)
    assert off(wanted, shown).sum() < 0.5 * apart.sum()


def test_of_two_faces_as_unlike_the_one_of_another_shape_is_led_to(monkeypatch):
    monkeypatch.setattr(walk, "LIMITS", dict.fromkeys(HELD, np.inf))
    world = World(bend=0.0)
    rng = np.random.default_rng(4)
    rows = np.float32(0.5) * rng.normal(size=(20, ENTRIES)).astype(np.float32)
    numbers = np.zeros((2, OTHERS + 12))
    # Twice as much of the same is about as unlike by its direction, and of a shape that is twice as far away.
    numbers[:, OTHERS:-1] = np.outer([1, 2], -(rows.mean(0) @ world.mixing.numpy())[OTHERS:-1])
    faces = rows.mean(0) + np.float32(numbers @ np.linalg.pinv(world.mixing.numpy()) * 20)
    placed = np.tile(np.eye(3, dtype=np.float32), (20, 1, 1))
    clip = Shown(placed, [], np.ones(20, bool), lambda few: next(drawn(rows[few], placed[few], world, len(few))))
    subject = walk.subject_of(clip, world, Told(world, world, None), 16)
    monkeypatch.setattr(walk, "others", lambda *_: (faces, 0 * faces[0]))
    random = random_latents(world, walk.RANDOM, 0).flatten(1).numpy()
    chosen = [walk.another(rows, np.arange(20)[::step], clip, subject, random) for step in (1, 5)]
    np.testing.assert_array_equal(chosen, faces[[1, 1]])
    monkeypatch.setattr(walk, "SHAPED", -2.0)
    np.testing.assert_array_equal(walk.another(rows, np.arange(20), clip, subject, random), faces[0])


def test_a_walk_that_leads_no_further_away_ends(monkeypatch):
    world = World(bend=0.0)
    monkeypatch.setattr(walk, "ACROSS", 0)
    monkeypatch.setattr(walk, "STRANGEST", np.inf)
    places, _ = walked(world, Told(world, world, None), 50)
    cosines = [place.cosine for place in places]
    assert 2 <= len(cosines) < 50
    assert (np.diff(cosines) <= -walk.LEAST).all() and cosines[-1] < -0.5


def test_a_walk_ends_where_latents_become_strange(monkeypatch):
    world = World(bend=0.0)
    monkeypatch.setattr(walk, "LEAST", 0.03)
    monkeypatch.setattr(walk, "ACROSS", 0)
    monkeypatch.setattr(walk, "others", lambda faces, *_: (faces[:1], 0 * faces[0]))
    random = random_latents(world, walk.RANDOM, 0).flatten(1).numpy()
    middle = random.mean(0)
    out = []
    for strangest in (np.inf, 0.55):
        monkeypatch.setattr(walk, "STRANGEST", strangest)
        places, _ = walked(world, Told(world, world, None), 50)
        out.append([strangeness(place.latents - middle, random - middle) for place in places])
    on, ended = out
    # The infant is no stranger than random latents, the other face is. The first place that is too strange is the last.
    other = strangeness((random[[0]] - middle) / TRUNCATION, random - middle)
    assert on[0] < 1 < other and len(ended) >= 3 and ended == on[: len(ended)]
    assert max(ended[:-1]) <= 0.55 * other < ended[-1] < on[-1]


def test_a_part_that_mends_what_the_first_lost_counts(monkeypatch):
    """However much is lacking after the first part, the walk goes on while that gets less."""
    world = World(bend=0.0)
    monkeypatch.setattr(walk, "STRANGEST", np.inf)
    monkeypatch.setattr(walk, "ACROSS", 0)
    monkeypatch.setattr(walk, "others", lambda faces, *_: (faces[:1], 0 * faces[0]))
    # The first is of the choice of the other face.
    errors = iter([0.0, 4.0, 3.0, 3.5, 2.0, 2.5, 2.5, 2.5])
    monkeypatch.setattr(walk, "worst", lambda *_: next(errors))
    monkeypatch.setattr(walk, "ROUNDS", 0)
    places, _ = walked(world, Told(world, world, None), 50)
    # 3.5 is undone, half as long a part leads to 2, and then no half and no quarter of one is any better.
    assert [place.error for place in places] == [4.0, 3.0, 2.0]


def test_a_crossing_that_errs_too_much_is_undone_and_the_walk_goes_on(monkeypatch):
    """Where not even a quarter of a part to the other's face may be kept, the gradient leads on from before it."""
    world = World(bend=0.0)
    monkeypatch.setattr(walk, "STRANGEST", np.inf)
    monkeypatch.setattr(walk, "others", lambda faces, *_: (faces[:1], 0 * faces[0]))
    errors = iter([0.0, 0.1, 0.2, 1.5, 1.6, 1.7, 0.3])
    monkeypatch.setattr(walk, "worst", lambda *_: next(errors))
    monkeypatch.setattr(walk, "ROUNDS", 0)
    places, _ = walked(world, Told(world, world, None), 3)
    assert [place.error for place in places] == [0.1, 0.2, 0.3]
    first, halfway, on = (place.latents.mean(0) for place in places)
    # Half of the way, to where the other is; then as long a part of the gradient, whichever way that is.
    random = random_latents(world, walk.RANDOM, 0).flatten(1).numpy()
    other = random.mean(0) + (random[0] - random.mean(0)) / TRUNCATION
    assert np.corrcoef(halfway - first, other - first)[0, 1] > 0.9
    stride = walk.PART / walk.STRIDES * np.sqrt(np.square(random - random.mean(0)).sum(1).mean())
    assert 0.1 * stride < np.linalg.norm(on - halfway) <= walk.STRIDES * stride * 1.01


def test_a_walk_that_loses_the_face_ends_before():
    class Masked(World):
        """A reader that finds no face where the first of the identity's numbers has changed its sign."""

        def read(self, images):
            found = super().read(images)
            lost = (images[:, 0, 0, OTHERS:-3] @ self.infant).numpy() < 0
            return {name: np.where(lost, np.nan, value) for name, value in found.items()}

    world = Masked(bend=0.0)
    world.infant = (torch.from_numpy(np.random.default_rng(8).normal(size=ENTRIES).astype(np.float32)) @ world.mixing)[
        OTHERS:
    ]
    places, (_, (found, _)) = walked(world, Told(world, world, None), 50)
    assert places[-1].cosine > -0.2 and np.isfinite(found["yaw"]).mean() > 0.9


def test_a_walk_goes_no_further_than_it_must():
    walked = []

    def places():
        for cosine in (0.4, -0.2, -0.1, -0.3, -0.5):
            walked.append(cosine)
            yield walk.Place(np.zeros((1, 1)), np.eye(3)[None], cosine, 0.0)

    assert [place.cosine for place in walk.until(places(), -0.3)] == [0.4, -0.2, -0.1, -0.3]
    assert walked == [0.4, -0.2, -0.1, -0.3]
    # Where it never is as low, it goes to its end.
    assert len(list(walk.until(places(), -0.9))) == 5


def test_frames_are_moved_only_where_that_brings_them_nearer():
    rng = np.random.default_rng(9)
    latents = rng.normal(size=(300, 20)).astype(np.float32)
    readings = fit_readings(latents, {"yaw": latents[:, 0], "identity": latents[:, 1]}, ridge=1e-6)
    rows = latents[:4]
    found = {"yaw": rows[:, 0].astype(np.float64), "identity": rows[:, 1].astype(np.float64)}
    wanted = found | {"yaw": found["yaw"] + 0.8}

    def look(moved, frames):
        """The first frame answers as it was fitted to, the second by four times as much, the third loses its face."""
        steps = moved[:, 0] - rows[frames, 0]
        yaw = found["yaw"][frames] + np.choose(frames, [steps, 4 * steps, np.full(len(steps), np.nan)])
        return {"yaw": yaw, "identity": moved[:, 1].astype(np.float64)}

    step = walk.lacking(wanted, found, readings, walk.NEXT) @ readings.moves()
    moving = np.array([2, 0, 1])  # the fourth is not to be moved
    moved, seen_then = walk.taken_back(rows, moving, step[moving], wanted, found, readings, look)
    steps = (moved - rows)[:, 0]
    np.testing.assert_allclose(steps, [0.8, 0.2, 0, 0], atol=0.02)
    np.testing.assert_allclose(seen_then["yaw"], [*wanted["yaw"][:2], *found["yaw"][2:]], atol=0.06)
    np.testing.assert_array_equal(moved[2:], rows[2:])


def test_steps_are_kalman_updates_by_each_frames_own_slope_of_what_is_felt():
    rng = np.random.default_rng(13)
    random = (rng.normal(size=(500, 6)) * [3, 1, 0.5, 2, 1, 1]).astype(np.float32)
    random -= random.mean(0)
    values = {"yaw": random[:, 0], "arousal": random[:, 1] + 0.5 * rng.normal(size=500), "age": random[:, 2]}
    readings = fit_readings(random, values)
    # The second frame answers otherwise than the first; of emotion, which is not read, nothing is made.
    felt = rng.normal(size=(2, len(walk.FELT), 6)).astype(np.float32)
    lack = np.float32([[0.5, -1, 0], [0, 0.3, 1]])
    moves = walk.steps(lack, readings, felt, random)
    covariance = np.cov(random.T, bias=True)
    for move, own, lacks in zip(moves, felt, lack, strict=True):
        h = readings.gradients.astype(np.float64)
        h[1] = own[walk.FELT.index("arousal")] / readings.scales[1]
        error = np.diag([readings.noise[0], walk.BENT, readings.noise[2]])
        expected = covariance @ h.T @ np.linalg.solve(h @ covariance @ h.T + error, lacks)
        np.testing.assert_allclose(move, expected, atol=1e-4)


def test_an_identity_further_off_is_no_lack():
    latents = np.random.default_rng(10).normal(size=(300, 20)).astype(np.float32)
    readings = fit_readings(latents, {"yaw": latents[:, 0], "identity": latents[:, 1]})
    found = {"yaw": np.zeros(3), "identity": np.array([-0.2, 0.3, np.nan])}
    wanted = {"yaw": np.array([0, 9, np.nan]), "identity": np.zeros(3)}
    lack = walk.lacking(wanted, found, readings, 3)
    np.testing.assert_array_equal(lack[:, 0], [0, 3, np.nan])
    np.testing.assert_allclose(lack[:, 1], [0, -0.3 / readings.scales[1], np.nan])
    # What cannot be read counts as far off.
    np.testing.assert_allclose(walk.errors(wanted, found, readings)[[0, 2]], [0, 9])


def test_what_errs_the_most_counts_as_a_multiple_of_what_may():
    rng = np.random.default_rng(12)
    own = {name: rng.normal(size=20) for name in HELD}
    found = own | {"roll": own["roll"] + 0.1, "arousal": own["arousal"] + np.where(np.arange(20) % 2, 0.4, -0.2)}
    expected = np.sqrt((0.4**2 + 0.2**2) / 2) / 0.5
    assert walk.worst(own, found) == pytest.approx(expected)
    # A face that was there and is lost errs by more than may; one that never was read says nothing.
    found["yaw"] = np.where(np.arange(20) < 5, np.nan, own["yaw"])
    assert walk.worst(own, found) == pytest.approx(walk.LOST / 2)
    assert (walk.erring(own, found)[:, HELD.index("yaw")] == np.where(np.arange(20) < 5, walk.LOST, 0)).all()
    own["yaw"][:5] = np.nan
    assert walk.worst(own, found) == pytest.approx(expected)
    own["yaw"][:] = np.nan
    assert walk.worst(own, found) == pytest.approx(expected)
