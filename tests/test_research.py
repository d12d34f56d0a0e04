"""The set-up of config/research.yaml from clip to summary, on checkpoints of the published form filled by formula."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from golden import Fixture, draw
from project import HOME, copy, snakemake
from test_pickles import network_pickle, official  # noqa: F401 - a fixture

from peekaboo import media, stagefile
from peekaboo.nets import anycost, deca, emonet, irse, lpips
from peekaboo.nets.stylegan3 import Generator

MODELS = HOME.parent / "shared" / "models"
FRAMES = 6
# The layers of stylegan3-r-ffhq-1024x1024, fewer channels and pixels.
SMALL = {
    "z_dim": 512,
    "c_dim": 0,
    "w_dim": 512,
    "img_resolution": 64,
    "img_channels": 3,
    "channel_base": 2048,
    "channel_max": 64,
    "conv_kernel": 1,
    "use_radial_filters": True,
    "mapping_kwargs": {"num_layers": 2},
}
LICENCES = ["NVIDIA Source Code License for StyleGAN3", "CC BY-NC-ND 4.0"]


def without_sums(folder: Path) -> Path:
    """A copy of the project whose registry expects no checksums, and a small generator."""
    copy(folder, "demo")
    registry = yaml.safe_load((HOME / "resources" / "models.yaml").read_text())
    for name, entry in registry.items():
        if entry["tier"] in ("permissive", "research") and name != "mediapipe_face_landmarker":
            entry.pop("sha256", None)
            entry.pop("size", None)
    registry["stylegan3_r_ffhq_1024"]["resolution"] = SMALL["img_resolution"]
    (folder / "resources" / "models.yaml").write_text(yaml.safe_dump(registry, sort_keys=False))
    return folder


def checkpoints(folder: Path, official) -> None:  # noqa: F811
    """Files with the names, containers and keys of the published ones."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    generator = Generator(**SMALL).eval()
    (folder / "stylegan3-r-ffhq-1024x1024.pkl").write_bytes(network_pickle(official, generator, SMALL, 4))

    def weights(fixture, network):
        fixture = Fixture(fixture)
        return fixture.fill(
            network, **(fixture.constructor if network in (irse.E4eEncoder, emonet.EmoNet) else {})
        ).state_dict()

    encoder = {f"encoder.{key}": value for key, value in weights("restyle_sg3_encoder", irse.E4eEncoder).items()}
    average = torch.from_numpy(0.1 * draw("latent_avg", [512]))
    opts = {"encoder_type": "ProgressiveBackboneEncoder", "exp_dir": Path("experiment")}
    torch.save({"opts": opts, "state_dict": encoder, "latent_avg": average}, folder / "restyle_e4e_ffhq.pt")
    torch.save(weights("ir_se50", irse.ArcFace), folder / "recognition_arcface_ir_se50.pth")
    torch.save(
        {"state_dict": weights("anycost_attributes", anycost.AttributePredictor)}, folder / "attribute_predictor.pt"
    )
    torch.save({"E_flame": weights("deca_e_flame", deca.CoarseEncoder)}, folder / "deca_model.tar")
    found = weights("emonet_8", emonet.EmoNet)
    torch.save({f"module.{key}": value for key, value in found.items()}, folder / "emonet_8.pth")
    state = Fixture("lpips_alex").state_dict()
    trunk = {"features." + key.split(".", 2)[2]: value for key, value in state.items() if key.startswith("net.slice")}
    torch.save(trunk, folder / "alexnet-owt-7be5be79.pth")
    heads = {
        key: torch.rand(value.shape)
        for key, value in lpips.Lpips().state_dict().items()
        if key.startswith("lin") and not key.startswith("lins")
    }
    torch.save(heads, folder / "alex.pth")
    for name in ("mobilefacenet.pt", "face_landmarker_v2_with_blendshapes.task"):
        shutil.copy(MODELS / name, folder)


@pytest.mark.slow
@pytest.mark.skipif(not MODELS.exists(), reason="the networks in ../shared are not there")
def test_the_paper_s_set_up_lacks_nothing_but_the_weights(tmp_path, official):  # noqa: F811
    home, folder = without_sums(tmp_path / "home"), tmp_path / "run"
    checkpoints(home / "resources" / "downloaded", official)
    clips = folder / "clips"
    clips.mkdir(parents=True)
    source = HOME / "resources" / "demo" / "infant.mp4"
    info = media.probe(source)
    short = dataclasses.replace(info, pts=info.pts[:FRAMES], durations=info.durations[:FRAMES], has_audio=False)
    with media.writer(clips / "infant.mp4", short, lossless=True) as write:
        for _, frame in zip(range(FRAMES), media.frames(source), strict=False):
            write(frame)
    settings = {
        "models": "research",
        "clips": "clips",
        "methods": ["pti_traversal"],
        "device": "cpu",
        "accept_licences": [*LICENCES, "DECA, Max Planck, non-commercial scientific research"],
        # No ONNX file can be filled by formula: a real network stands in for buffalo_l.
        "measure": {"identity": "mobilefacenet"},
        "tune": {"epochs": 1},
        "score": {"samples": 10, "batch": 4},
        "invert": {"batch": 2},
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    code, output = snakemake(folder, "--configfile", "settings.yaml", home=home)
    assert code == 0, output[-6000:]
    result = folder / "results" / "infant"
    with stagefile.read(result / "invert.h5") as file:
        assert file["latents"].shape[2:] == (16, 512) and np.isfinite(file["latents"][:]).all()
        # Every face turns a little against its smoothed crop.
        assert (file["placements"][:] != np.eye(3)).any((2, 3)).all()
    assert list(media.probe(result / "pti_traversal" / "anonymized.mp4").pts) == list(info.pts[:FRAMES])
    summary = stagefile.read_json(result / "pti_traversal" / "summary.json")
    names = " ".join(judge["name"].lower() for judge in summary["judges"])
    assert all(name in names for name in ("mobilefacenet", "emonet", "deca", "anycost", "blendshapes"))
    table = pd.read_csv(result / "pti_traversal" / "metrics.tsv", sep="\t")
    assert len(table) == FRAMES and (table["covered"] == 1).all()
    # By formula the generator draws no face, so that there is no pose to compare.
    read = [f"{name}_{clip}" for name in ("valence", "arousal", "age", "sex") for clip in ("original", "anonymized")]
    assert np.isfinite(table[[*read, "identity_cos", "yaw_original"]]).all(axis=None)
