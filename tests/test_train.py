import copy
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu
from torch import nn
from torch.nn import functional as F

from peekaboo import stagefile
from peekaboo.nets.residual import FaceAttributes, FaceEmbedder
from peekaboo.nets.stylegan3 import Generator
from peekaboo.synth import train
from peekaboo.synth.head import IDENTITY, N_PARAMETERS, PARAMETERS


def write_renders(path, identities=4, images=3, held_out=1, singles=500, size=16):
    rng = np.random.default_rng(0)
    n = singles + identities * images
    with stagefile.write(path) as file:
        for name in ("images", "recorded"):
            file[name] = rng.integers(0, 256, (n, size, size, 3), np.uint8)
        parameters = rng.standard_normal((n, N_PARAMETERS)).astype(np.float32)
        file["parameters"] = parameters
        # Products are what one linear layer can't read.
        file["description"] = np.hstack([5 + parameters[:, :3] * parameters[:, 3:6], 9 * parameters[:, :2]])
        several = np.repeat(np.arange(identities), images)
        file["identity"] = np.concatenate([identities + np.arange(singles), several])
        file.attrs["singles"] = singles
        file.attrs["held_out"] = held_out * images
        for name in train.TRUTHS:
            file[name] = np.zeros(n, np.float32)
        return file["images"][:], file["recorded"][:]


def test_states_of_one_identity_share_its_parameters_alone():
    parameters = train.sample_renders(np.random.default_rng(0), 5, 3).reshape(5, 3, N_PARAMETERS)
    same = (parameters == parameters[:, :1]).all((0, 1))
    np.testing.assert_array_equal(np.flatnonzero(same), IDENTITY)


def test_an_identity_keeps_its_features_in_training_and_not_its_marks():
    parameters = train.training_parameters({"singles": 4, "identities": 5, "images": 3}, 0)
    assert parameters.shape == (19, N_PARAMETERS)
    assert (np.abs(np.corrcoef(parameters[:4, IDENTITY]) - np.eye(4)) < 0.5).all()
    pictures = parameters[4:].reshape(5, 3, N_PARAMETERS)
    same = (pictures == pictures[:, :1]).all((0, 1))
    changing = [PARAMETERS[name] for name in ("skin", "marks", "iris")]
    features = set(IDENTITY.tolist()) - {i for part in changing for i in range(part.start, part.stop)}
    assert set(np.flatnonzero(same).tolist()) == features


def test_renders_are_read_from_the_file(tmp_path):
    images, recorded = write_renders(tmp_path / "renders.h5")
    renders = train.Renders(tmp_path / "renders.h5", torch.device("cpu"))
    assert renders.trained == 509
    assert renders.held().tolist() == [509, 510, 511]
    indices = torch.tensor([7, 2])
    found = renders.picture(indices)
    np.testing.assert_array_equal(((found + 1) * 127.5).round().permute(0, 2, 3, 1).numpy(), images[[7, 2]])
    np.testing.assert_array_equal(renders.recorded[2], recorded[2])
    assert torch.equal(renders.batch(5, 4), renders.batch(5, 4))
    assert renders.batch(5, 5000).unique().tolist() == list(range(509))
    assert renders.batch(5, 1000, renders.singles).unique().tolist() == list(range(500, 509))


def test_descriptions_are_standardised(tmp_path):
    write_renders(tmp_path / "renders.h5")
    renders = train.Renders(tmp_path / "renders.h5", torch.device("cpu"))
    spread, mean = torch.std_mean(renders.description[: renders.trained], 0)
    torch.testing.assert_close(mean, torch.zeros(5), atol=0.05, rtol=0)
    torch.testing.assert_close(spread, torch.ones(5), atol=0.05, rtol=0)
    # A held-out parameter in a description is on the scale of those that are trained on.
    torch.testing.assert_close(renders.description[509:, 3:], renders.parameters[509:, :2], atol=0.3, rtol=0.1)


def test_the_mapping_learns_what_the_parameters_mean(tmp_path):
    write_renders(tmp_path / "renders.h5")
    renders = train.Renders(tmp_path / "renders.h5", torch.device("cpu"))
    torch.manual_seed(0)
    net = Generator(N_PARAMETERS, 64, 16, mapping_kwargs={"lr_multiplier": 1}, num_layers=4, channel_base=64)
    train.learn_mapping(renders, {"steps": 200, "batch": 64, "learning_rate": 4e-3}, tmp_path / "mapping", net)
    curve = [json.loads(line) for line in (tmp_path / "mapping" / "curve.jsonl").read_text().splitlines()]
    assert curve[1]["loss"] < 0.5 * curve[0]["loss"]
    assert curve[-1].keys() == {"step", "explained"}


def test_the_mapping_learns_again_near_where_it_is(tmp_path):
    write_renders(tmp_path / "renders.h5")
    renders = train.Renders(tmp_path / "renders.h5", torch.device("cpu"))
    torch.manual_seed(0)
    net = Generator(N_PARAMETERS, 64, 16, mapping_kwargs={"lr_multiplier": 1}, num_layers=4, channel_base=64)
    before = net.mapping(renders.parameters)[:, 0].detach()
    found = {}
    for keep in (0, 10):
        again = copy.deepcopy(net)
        settings = {"steps": 150, "batch": 64, "learning_rate": 4e-3, "noise": 0.1, "keep": keep}
        train.relearn_mapping(renders, settings, tmp_path / f"{keep}", again)
        curve = [json.loads(line) for line in (tmp_path / f"{keep}" / "curve.jsonl").read_text().splitlines()]
        assert curve[1]["loss"] < 0.8 * curve[0]["loss"]
        moved = again.mapping(renders.parameters)[:, 0].detach() - before
        found[keep] = (moved / before.std(0)).square().mean().item()
        np.testing.assert_allclose(curve[1]["moved"], found[keep], rtol=0.5)
    assert 0 < found[10] < 0.1 * found[0]


def test_descriptions_are_read_off_latents_as_if_these_were_noisy():
    rng = torch.Generator().manual_seed(0)
    latents, told = torch.randn(2000, 6, generator=rng), torch.randn(6, 3, generator=rng)
    # The last entry says the same as the first, a hundred times more quietly.
    latents = torch.cat([latents, latents[:, :1] / 100], 1)
    readout = train.described(latents, latents[:, :6] @ told)
    noisy = latents.repeat(50, 1) + 0.1 * torch.randn(100000, 7, generator=rng)
    expected = np.linalg.lstsq(noisy.numpy(), (latents[:, :6] @ told).repeat(50, 1).numpy(), rcond=None)[0]
    np.testing.assert_allclose(readout, expected, atol=0.01)
    assert readout[6].abs().max() < 0.05


def test_processes_share_a_batch_and_descend_as_one(tmp_path):
    script = tmp_path / "descend.py"
    script.write_text(
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from torch import distributed, nn\n"
        "from peekaboo.synth import train\n"
        "if distributed.is_torchelastic_launched():\n"
        "    distributed.init_process_group()\n"
        "torch.manual_seed(0)\n"
        "net = nn.Linear(3, 1)\n"
        "folder = Path(sys.argv[1])\n"
        "run = train.Run(folder, {'steps': 20, 'learning_rate': 0.1}, {'net': net}, ['net'])\n"
        "for step in run:\n"
        "    x = train.share(torch.randn(8, 3, generator=torch.Generator().manual_seed(step)))\n"
        "    run.descend((net(x).sum(1) - x.sum(1)).square().mean())\n"
    )
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, how in (("one", []), ("two", launch)):
        subprocess.run([sys.executable, *how, script, tmp_path / name], check=True, capture_output=True, timeout=120)
    one, two = (torch.load(tmp_path / name / "checkpoint.pt")["net"] for name in ("one", "two"))
    torch.testing.assert_close(one["weight"], two["weight"])
    torch.manual_seed(0)
    assert (one["weight"] - nn.Linear(3, 1).weight).abs().max() > 0.01


def test_photographs_are_seeded_and_come_from_both_kinds(tmp_path):
    write_renders(tmp_path / "renders.h5")
    renders = train.Renders(tmp_path / "renders.h5", torch.device("cpu"))
    indices = torch.zeros(64, dtype=torch.long)
    first, second = (renders.photograph(indices, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)
    drawn, recorded = (
        torch.from_numpy(np.array(images[:1])).permute(0, 3, 1, 2) / 127.5 - 1
        for images in (renders.images, renders.recorded)
    )
    to_drawn, to_recorded = ((first - x).square().mean([1, 2, 3]) for x in (drawn, recorded))
    share = (to_drawn < to_recorded).float().mean()
    assert 0.3 < share < 0.7


def test_recoloured_faces_keep_their_shape_and_lose_their_colours():
    images = torch.rand(200, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 1.8 - 0.9
    images[:, 0] = images[:, 0].clamp(0.2)  # reddish, all of them
    found = train.recoloured(images, torch.Generator().manual_seed(1))
    assert (found.abs() <= 1).all()
    assert torch.equal(found, train.recoloured(images, torch.Generator().manual_seed(1)))
    red = (found[:, 0] - found[:, 1:].mean(1)).mean((1, 2))
    was = (images[:, 0] - images[:, 1:].mean(1)).mean((1, 2))
    assert (was > 0).all() and 0.05 < (red < 0).float().mean() < 0.5
    # Where a picture of one grey is brighter, so it is in every channel afterwards.
    grey = torch.linspace(-0.9, 0.9, 64).reshape(1, 1, 8, 8).expand(5, 3, 8, 8)
    bent = train.recoloured(grey, torch.Generator().manual_seed(2)).flatten(2)
    assert (bent.diff(dim=2) > 0).all()


def test_a_face_and_its_mirror_image_show_the_same_affect():
    torch.manual_seed(0)
    net = FaceAttributes([8, 16], 32, 32).eval()
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        found, mirrored = net(images), net(images.flip(-1))
        one, other = (net.read(net.features(each)) for each in (images, images.flip(-1)))
    for name, value in found.items():
        torch.testing.assert_close(value, mirrored[name])
        torch.testing.assert_close(value, (one[name] + other[name]) / 2)
        assert not torch.allclose(one[name], other[name], atol=1e-4)


def test_verification_auc_is_the_rank_statistic():
    rng = np.random.default_rng(0)
    identity = np.repeat(np.arange(10), 4)
    embeddings = F.normalize(
        torch.from_numpy(rng.standard_normal((40, 8)) + 2 * rng.standard_normal((10, 8))[identity])
    )
    pairs = np.triu_indices(40, 1)
    cosines, same = (embeddings @ embeddings.T).numpy()[pairs], (identity[:, None] == identity)[pairs]
    expected = mannwhitneyu(cosines[same], cosines[~same]).statistic / (same.sum() * (~same).sum())
    assert train.verification_auc(embeddings, torch.from_numpy(identity)) == pytest.approx(expected)


def test_what_varies_within_an_identity_counts_alike_in_the_end():
    rng = np.random.default_rng(0)
    identity = np.repeat(np.arange(500), 4)
    mixed = rng.standard_normal((6, 6))
    outputs = 3 * rng.standard_normal((500, 6))[identity] + rng.standard_normal((2000, 6)) @ mixed + 5
    mean, transform = train.within_class(torch.from_numpy(outputs), torch.from_numpy(identity), 0.0)
    turned = (outputs - mean.numpy()) @ transform.numpy()
    off = (turned.reshape(500, 4, 6) - turned.reshape(500, 4, 6).mean(1, keepdims=True)).reshape(-1, 6)
    np.testing.assert_allclose(off.T @ off / 1500, np.eye(6), atol=1e-9)
    # A large ridge leaves all directions as they are.
    _, kept = train.within_class(torch.from_numpy(outputs), torch.from_numpy(identity), 1e9)
    np.testing.assert_allclose(kept / kept[0, 0], np.eye(6), atol=1e-6)


def test_a_map_of_the_embedding_becomes_part_of_the_network():
    torch.manual_seed(0)
    net = FaceEmbedder([4, 4], dimensions=5, size=32, inner=20)
    images = torch.randn(8, 3, 32, 32)
    for _ in range(5):
        net(images + torch.randn_like(images))
    nn.init.normal_(net.norm.weight)
    nn.init.normal_(net.norm.bias)
    net.eval()
    mean, transform = torch.randn(5).double(), torch.randn(5, 5).double()
    with torch.no_grad():
        outputs = net.norm(net.head(net.features(images))).double()
        train.fold(net, mean, transform)
        found = net(images)
    torch.testing.assert_close(found, F.normalize((outputs - mean) @ transform).float(), atol=1e-5, rtol=1e-4)


def test_arcface_widens_the_angle_to_the_true_class():
    cosines = torch.tensor([[0.6, 0.2], [0.1, 0.5]], dtype=torch.float64)
    labels = torch.tensor([0, 1])
    expected = 0.0
    for row, label in zip(cosines.tolist(), labels.tolist(), strict=True):
        logits = [8 * np.cos(np.arccos(c) + (0.3 if i == label else 0)) for i, c in enumerate(row)]
        expected -= logits[label] - np.log(np.exp(logits).sum())
    assert train.arcface(cosines, labels, 8, 0.3).item() == pytest.approx(expected / 2)


def test_pyramid_loss_is_blind_to_nothing_but_equality():
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert train.pyramid_loss(images, images) == 0
    # A constant difference shows in the pixels of three scales and in no step.
    assert train.pyramid_loss(images + 0.1, images).item() == pytest.approx(0.3, rel=1e-4)


def test_muon_takes_steps_without_a_long_or_a_short_side(tmp_path):
    torch.manual_seed(0)
    net = nn.Conv2d(8, 12, 3)
    kernel, bias = net.weight.detach().clone(), net.bias.detach().clone()
    run = train.Run(tmp_path, {"steps": 200, "learning_rate": 0.01, "optimiser": "muon"}, {"net": net}, ["net"])
    pull = torch.randn_like(kernel)
    next(iter(run))
    run.descend((net.weight * pull).sum() + net.bias.sum())
    step = (kernel - net.weight.detach()).view(12, -1)
    u, _, vh = torch.linalg.svd(pull.view(12, -1), full_matrices=False)
    # The orthogonal factor of the gradient, to what five iterations leave, at the first of a hundred steps of warm-up.
    sides = (u.T @ step @ vh.T) / (0.01 / 100 * 0.2 * np.sqrt(72))
    assert sides.diag().min() > 0.6 and sides.diag().max() < 1.3
    assert (sides - sides.diag().diag()).abs().max() < 0.1
    # Adam's first step is as long as its rate.
    torch.testing.assert_close(bias - net.bias.detach(), torch.full([12], 1e-4), rtol=1e-3, atol=0)


@pytest.mark.parametrize("stopped", [500, 700])
@pytest.mark.parametrize("optimiser", ["adam", "muon"])
def test_a_training_goes_on_from_its_checkpoint(tmp_path, stopped, optimiser):
    settings = {"steps": 1000, "learning_rate": 0.01, "optimiser": optimiser}

    def trained(folder, until):
        torch.manual_seed(0)
        net = nn.Linear(6, 5)
        run = train.Run(folder, settings, {"net": net}, ["net"])
        for step in run:
            if step == until:
                break
            x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
            run.descend((net(x).sum(1) - x.sum(1)).square().mean())
            if step % 100 == 0:
                run.log(step, loss=1.0)
        return net.weight.detach()

    whole = trained(tmp_path / "whole", None)
    trained(tmp_path / "broken", stopped)
    assert torch.equal(trained(tmp_path / "broken", None), whole)
    curve = [json.loads(line)["step"] for line in (tmp_path / "whole" / "curve.jsonl").read_text().splitlines()]
    assert curve == list(range(0, 1000, 100))


def test_what_a_stage_needs_is_named(capsys):
    with pytest.raises(SystemExit):
        train.main(
            ["encoder", "--settings", "training.yaml", "--renders", "renders.h5", "--output", "encoder.safetensors"]
        )
    assert "encoder needs --checkpoints, --perceptual, --affect, --generator" in capsys.readouterr().err
