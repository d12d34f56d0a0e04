"""Invert, tune, score, traverse and decode, one after the other, on a small generator and a clip of made-up crops."""

import numpy as np
import pytest
import torch

from peekaboo import gpu, models, stagefile
from peekaboo.faces import alignment
from peekaboo.latent import restyle
from peekaboo.latent.tuning import Tuner
from peekaboo.nets.residual import FaceAttributes, FaceEmbedder, PerceptualFeatures, RestyleEncoder
from peekaboo.nets.stylegan3 import Generator
from peekaboo.stages import decode, invert, score, traverse, tune

FRAMES, SIDE = 12, 16
# Latents wide enough that a way is left which changes none of what is read off a face.
GENERATOR = {"z_dim": 64, "w_dim": 64, "img_resolution": SIDE, "channel_base": 128, "channel_max": 16, "num_layers": 4}
NETWORKS = {
    "generator": (Generator, GENERATOR),
    "encoder": (RestyleEncoder, {"num_ws": 6, "w_dim": 64, "widths": [8, 16], "squeezed": 4, "size": SIDE}),
    "perceptual": (PerceptualFeatures, {"widths": [8, 16], "outputs": 4, "size": SIDE}),
    "identity": (FaceEmbedder, {"widths": [8, 16], "dimensions": 16, "size": SIDE, "inner": SIDE}),
    "affect": (FaceAttributes, {"widths": [8, 16], "size": SIDE, "inner": SIDE}),
}


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Run the five stages; the clip has two tracks, the second without any aligned crop, the first without frame 5."""
    folder = tmp_path_factory.mktemp("chain")
    torch.manual_seed(1)
    for name, (network, constructor) in NETWORKS.items():
        models.save(folder / f"{name}.safetensors", network(**constructor).eval(), constructor)
    crops = np.random.default_rng(0).integers(0, 256, (FRAMES, 2, SIDE, SIDE, 3), np.uint8)
    aligned = np.zeros((FRAMES, 2), bool)
    aligned[:, 0] = True
    aligned[5] = False
    with stagefile.write(folder / "extract.h5") as file:
        file["crops"], file["aligned"] = crops, aligned
        # Faces in the middle of their crops, by their boxes alone.
        file["boxes"] = np.tile(np.float32([4, 4, 12, 12]), (FRAMES, 2, 1))
        file["landmarks"] = np.full((FRAMES, 2, 478, 3), np.nan, np.float32)
        file["transforms"] = np.tile(np.eye(2, 3, dtype=np.float32), (FRAMES, 2, 1, 1))
        file["meshed"], file["confidence"] = np.zeros((FRAMES, 2), bool), np.zeros((FRAMES, 2), np.float32)

    def run(stage, output, **inputs):
        options = [f"--{name.replace('_', '-')}={value}" for name, value in inputs.items()]
        stage.main([*options, f"--output={folder / output}", f"--report={folder / output}.json"])

    path = {name: folder / f"{name}.safetensors" for name in NETWORKS}
    faces, first = folder / "extract.h5", folder / "invert.h5"
    run(invert, "invert.h5", faces=faces, generator=path["generator"], encoder=path["encoder"], device="cpu")
    tuning = {"faces": faces, "latents": first, "generator": path["generator"], "perceptual": path["perceptual"]}
    run(tune, "tune.h5", **tuning, epochs=2, device="cpu", locality_weight=0.1)
    judges = {"identity": path["identity"], "affect": path["affect"], "generator": path["generator"]}
    run(score, "score.h5", latents=first, tuned=folder / "tune.h5", **judges, samples=40, device="cpu")
    walking = {"faces": faces, "latents": first, "tuned": folder / "tune.h5", "scorers": folder / "score.h5"}
    walking["top_k"] = 0  # these latents are shorter than the mask in use is wide
    run(traverse, "traverse.h5", **walking, **judges, device="cpu")
    run(traverse, "straight.h5", **walking, **judges, parts=0, device="cpu")
    for name in ("invert", "traverse"):
        drawing = {"latents": folder / f"{name}.h5", "generator": path["generator"], "tuned": folder / "tune.h5"}
        run(decode, f"{name}.crops.h5", **drawing, device="cpu")
    return folder, aligned, tuning


def test_every_aligned_face_and_no_other_gets_a_latent_and_a_crop(chain):
    folder, aligned, _ = chain
    for name in ("invert", "traverse"):
        with stagefile.read(folder / f"{name}.h5") as file:
            np.testing.assert_array_equal(np.isfinite(file["latents"][:]).all((2, 3)), aligned)
        with stagefile.read(folder / f"{name}.crops.h5") as file:
            np.testing.assert_array_equal(file["decoded"][:], aligned)
            assert file["crops"].shape == (FRAMES, 2, SIDE, SIDE, 3)


def test_the_walk_lowers_the_identity_score_and_changes_the_picture(chain):
    folder, aligned, _ = chain
    # What is taken back may change the score of networks that have learned nothing; the way itself lowers it.
    scores = stagefile.read_json(folder / "straight.h5.json")["identity_score"]["track_000"]
    assert scores["after"] < scores["before"]
    assert 1 <= len(stagefile.read_json(folder / "traverse.h5.json")["cosine_and_error"]["track_000"]) <= 8
    with stagefile.read(folder / "invert.crops.h5") as before, stagefile.read(folder / "traverse.crops.h5") as after:
        changed = (before["crops"][:] != after["crops"][:]).any((2, 3, 4))
    np.testing.assert_array_equal(changed, aligned)


def test_the_identity_threshold_gives_way_before_a_class_is_empty():
    cosines = np.array([0.9, 0.95, 0.97, 0.8, 0.85, 0.99])
    # Of three frames and three random faces: too low a threshold, one in between, too high a one.
    assert score.same_identity(cosines, 3, 0.1).tolist() == [True, True, True, False, True, True]
    assert score.same_identity(cosines, 3, 0.92).tolist() == [False, True, True, False, False, True]
    assert score.same_identity(cosines, 3, 2.0).tolist() == [False, True, True, False, False, True]


def test_reports_name_the_networks_by_checksum(chain):
    folder, _, _ = chain
    found = stagefile.read_json(folder / "score.h5.json")
    assert found["models"] == {
        n: stagefile.checksum(folder / f"{n}.safetensors") for n in ("generator", "identity", "affect")
    }
    with stagefile.read(folder / "score.h5") as file:
        track = file["track_000"]
        stored = {name: track[name].attrs["accuracy"] for name in ("identity", "emotion", "age", "sex")}
    assert found["held_out_accuracy"]["track_000"] == pytest.approx(stored, abs=1e-4)


def test_tuning_again_gives_the_same_bytes_and_leaves_no_checkpoint(chain):
    folder, _, tuning = chain
    options = [f"--{name}={value}" for name, value in tuning.items()]
    options += ["--epochs=2", "--device=cpu", "--locality-weight=0.1"]
    tune.main([*options, f"--output={folder / 'again.h5'}", f"--report={folder / 'again.json'}"])
    assert (folder / "again.h5").read_bytes() == (folder / "tune.h5").read_bytes()
    assert not list(folder.glob("*.checkpoint"))


def test_an_interrupted_tuning_goes_on_from_its_last_epoch_to_the_same_bytes(chain, monkeypatch):
    folder, _, tuning = chain
    options = [f"--{name}={value}" for name, value in tuning.items()]
    options += ["--epochs=2", "--device=cpu", "--locality-weight=0.1"]
    options += [f"--output={folder / 'interrupted.h5'}", f"--report={folder / 'interrupted.json'}"]
    epoch, done = Tuner.epoch, []

    def interrupted(tuner, *args):
        if done:
            raise KeyboardInterrupt
        done.append(epoch(tuner, *args))

    monkeypatch.setattr(Tuner, "epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune.main(options)
    assert not (folder / "interrupted.h5").exists()
    counted = []
    monkeypatch.setattr(Tuner, "epoch", lambda tuner, *args: counted.append(epoch(tuner, *args)))
    tune.main(options)
    assert len(counted) == 1
    assert (folder / "interrupted.h5").read_bytes() == (folder / "tune.h5").read_bytes()


def test_smoothing_in_runs_equals_smoothing_at_once_and_fine_layers_become_their_mean(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(23, 2, 12, 3)).astype(np.float32)
    latents[[4, 17], 1] = np.nan
    monkeypatch.setattr(invert, "RUN", 5)
    with stagefile.write(tmp_path / "invert.h5") as file:
        stored = stagefile.frame_dataset(file, "latents", latents.shape, "f4", np.nan)
        stored[:] = latents
        invert.smooth(stored, 1)
        found = stored[:]
    np.testing.assert_array_equal(found[:, 0], latents[:, 0])
    expected = restyle.smooth(latents[:, 1])
    np.testing.assert_allclose(found[:, 1, :9], expected[:, :9], atol=1e-6)
    known = np.isfinite(latents[:, 1, 0, 0])
    np.testing.assert_allclose(
        found[known, 1, 9:], np.broadcast_to(latents[known, 1, 9:].mean(0), (21, 3, 3)), atol=1e-6
    )
    assert np.isnan(found[~known, 1]).all()


def test_faces_are_inverted_upright_and_drawn_where_they_were(chain, tmp_path):
    folder, aligned, _ = chain
    rng = np.random.default_rng(0)
    landmarks = np.tile(rng.normal(100, 30, (478, 3)), (FRAMES, 2, 1, 1)).astype(np.float32)
    pose = alignment.ffhq_pose(landmarks) + np.array([2.0, 0, 0, 0.2])
    with stagefile.read(folder / "extract.h5") as source, stagefile.write(tmp_path / "extract.h5") as file:
        source.copy("crops", file)
        source.copy("aligned", file)
        file["landmarks"], file["transforms"] = landmarks, alignment.to_transform(pose, SIDE)
    weights = [f"--{name}={folder / f'{name}.safetensors'}" for name in ("generator", "encoder")]
    output = [f"--output={tmp_path / 'invert.h5'}", f"--report={tmp_path / 'invert.json'}"]
    invert.main([f"--faces={tmp_path / 'extract.h5'}", *weights, "--place", "--device=cpu", *output])
    with stagefile.read(tmp_path / "invert.h5") as placed, stagefile.read(folder / "invert.h5") as still:
        turned = placed["placements"][:][aligned]
        np.testing.assert_allclose(np.arctan2(turned[:, 1, 0], turned[:, 0, 0]), -0.2, atol=1e-4)
        assert (placed["placements"][:][~aligned] == np.eye(3)).all()
        assert (placed["latents"][:][aligned] != still["latents"][:][aligned]).any()
    drawing = [f"--latents={tmp_path / 'invert.h5'}", f"--generator={folder / 'generator.safetensors'}"]
    decode.main([*drawing, "--device=cpu", f"--output={tmp_path / 'crops.h5'}", f"--report={tmp_path / 'crops.json'}"])
    generator = models.load(folder / "generator.safetensors")
    with stagefile.read(tmp_path / "invert.h5") as placed, stagefile.read(tmp_path / "crops.h5") as drawn:
        latents, place = (torch.from_numpy(placed[name][0, 0])[None] for name in ("latents", "placements"))
        with torch.inference_mode():
            expected = gpu.to_crops(generator.synthesis(latents, transform=torch.linalg.inv(place)))[0]
        np.testing.assert_array_equal(drawn["crops"][0, 0], expected)
