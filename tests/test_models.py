import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from peekaboo import gpu, models
from peekaboo.nets.residual import FaceEmbedder
from peekaboo.nets.stylegan3 import Generator

TINY = {"z_dim": 8, "w_dim": 8, "img_resolution": 16, "channel_base": 128, "channel_max": 16, "num_layers": 4}


def test_a_saved_network_comes_back_with_its_constructor_and_weights(tmp_path):
    torch.manual_seed(0)
    generator = Generator(**TINY).eval()
    path = tmp_path / "generator.safetensors"
    models.save(path, generator, TINY)
    assert models.constructor(path) == TINY
    loaded = models.load(path)
    z = torch.randn(2, 8)
    # Parameters are stored as float16: three decimal digits.
    torch.testing.assert_close(loaded(z), generator(z), rtol=0.02, atol=0.02)
    for name, buffer in generator.named_buffers():
        assert torch.equal(loaded.get_buffer(name), buffer)
    assert not any(p.requires_grad for p in loaded.parameters())
    assert not any(module.training for module in loaded.modules())


def test_a_file_that_names_no_known_network_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, path, {"network": "os.system"})
    with pytest.raises(ValueError, match=r"other.safetensors: expected one of .*, found 'os.system'"):
        models.load(path)


def test_a_starting_latent_of_another_shape_is_refused(tmp_path):
    path = tmp_path / "encoder.safetensors"
    settings = {"network": "irse.PspEncoder", "constructor": '{"n_styles": 1}'}
    for shape in ((16, 512), (256,)):
        save_file({"latent_avg": torch.zeros(shape)}, path, settings)
        with pytest.raises(ValueError, match=r"encoder.safetensors: latent_avg: expected a latent \[512\], found \["):
            models.load(path)


def test_tuned_parameters_replace_those_of_a_copy():
    generator = Generator(**TINY)
    name = "L1_36_16.bias"
    tuned = models.tuned(generator, {name: np.arange(16, dtype=np.float32)})
    assert tuned.synthesis.get_parameter(name).tolist() == list(range(16))
    assert generator.synthesis.get_parameter(name).tolist() == [0] * 16
    torch.testing.assert_close(tuned.synthesis.L0_36_16.weight, generator.synthesis.L0_36_16.weight, rtol=0, atol=0)


def test_a_file_is_loaded_once_until_it_changes(tmp_path):
    path = tmp_path / "generator.safetensors"
    models.save(path, Generator(**TINY), TINY)
    first = models.load(path)
    assert models.load(path) is first
    models.save(path, Generator(**TINY), TINY)
    os.utime(path, ns=(0, 0))
    assert models.load(path) is not first


def test_crops_and_images_are_the_same_picture():
    crops = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    images = gpu.to_images(crops, torch.device("cpu"))
    assert images.shape == (2, 3, 16, 16)
    assert (images.min(), images.max()) == (-1, 1)
    np.testing.assert_array_equal(gpu.to_crops(images), crops)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a card is here")
def test_cuda_without_a_card_is_an_error_not_a_fallback():
    with pytest.raises(RuntimeError, match="cuda was asked for"):
        gpu.device("cuda")
    assert gpu.device("auto").type == "cpu"


def test_embeddings_are_unit_vectors_at_any_resolution():
    net = FaceEmbedder([8, 8, 8, 8], 16, 64, 64).eval()
    for size in (64, 100, 128):
        torch.testing.assert_close(net(torch.randn(3, 3, size, size)).norm(dim=1), torch.ones(3))
