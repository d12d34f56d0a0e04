import pytest
import torch
from golden import Fixture
from torch import Tensor
from torch.nn import functional as F

from peekaboo.latent import restyle
from peekaboo.nets import irse


@pytest.fixture(scope="module")
def arcface() -> tuple[Fixture, irse.ArcFace]:
    fixture = Fixture("ir_se50")
    return fixture, fixture.fill(irse.ArcFace, **fixture.constructor)


@pytest.fixture(scope="module")
def encoders() -> tuple[Fixture, dict[str, irse.PspEncoder]]:
    fixture = Fixture("restyle_sg3_encoder")
    e4e = fixture.fill(irse.E4eEncoder, **fixture.constructor)
    with torch.device("meta"):
        psp = irse.PspEncoder(**fixture.constructor)
    psp.load_state_dict(e4e.state_dict(), assign=True)
    return fixture, {"e4e": e4e, "psp": psp.eval()}


def test_arcface_equals_the_official_one(arcface):
    fixture, network = arcface
    faces, images = (torch.from_numpy(fixture.input(name)) for name in ("face112", "image256"))
    large = torch.from_numpy(fixture.input("image1024_cells")).repeat_interleave(16, 2).repeat_interleave(16, 3)
    with torch.no_grad():
        raw = network.output_layer(network.body(network.input_layer(faces)))
        fixture.check("before_normalisation", raw)
        fixture.check("embedding_face112", network(faces))
        embeddings = network(irse.face_region(images))
        fixture.check("embedding_image256", embeddings)
        fixture.check("embedding_image1024", network(irse.face_region(large)))
    fixture.check("id_loss", (1 - (embeddings.flip(0) * embeddings).sum(1)).mean().view(1))


def test_encoders_equal_the_official_ones(encoders):
    fixture, networks = encoders
    e4e, features = networks["e4e"], {}

    def keep(name: str):
        return lambda _module, _inputs, output: features.update({name: output})

    watched = {name: e4e.get_submodule(name) for name in ("input_layer", "styles.1")}
    watched |= {f"body.{i}": e4e.body[i] for i in (0, 2, 3, 7, 21, 23)}
    handles = [module.register_forward_hook(keep(name)) for name, module in watched.items()]
    x = torch.from_numpy(fixture.input("x"))
    with torch.no_grad():
        codes = e4e(x)
        for handle in handles:
            handle.remove()
        for name, feature in features.items():
            if feature.ndim == 4:
                middle = slice(feature.shape[-1] // 2 - 2, feature.shape[-1] // 2 + 2)
                fixture.check(f"feature.{name}", feature[:, :8, middle, middle], f"out.feature.{name}.crop")
            else:
                fixture.check(f"feature.{name}", feature)
        fixture.check("e4e_codes", codes)
        fixture.check("e4e_codes_stage5", e4e(x, stage=5))
        fixture.check("psp_codes", networks["psp"](x))


def test_loop_with_the_encoder_equals_the_official_one(encoders):
    fixture, networks = encoders
    get = lambda name: torch.from_numpy(fixture.input(f"loop.{name}")).float()  # noqa: E731
    weight, bias, turned = get("decoder_weight"), get("decoder_bias"), get("decoder_transform_weight")
    average = get("latent_avg").expand(16, -1)

    def decode(codes: Tensor, transform: Tensor | None = None) -> Tensor:
        v = codes.flatten(1) @ weight.T + bias
        if transform is not None:
            v = v + (transform - torch.eye(3)).flatten(1) @ turned.T
        return v.view(-1, 3, 16, 16).repeat_interleave(64, 2).repeat_interleave(64, 3)

    with torch.no_grad():
        latents, drawn = restyle.iterate(get("image"), networks["e4e"], decode, average, 3)
        final = decode(latents[:, -1], get("landmarks_transform"))
    pooled = F.adaptive_avg_pool2d(decode(average[None]), 256)[0]
    fixture.check("loop.average_image", pooled[:, 8::16, 8::16], "out.loop.average_image.cells")
    fixture.check("loop.latents", latents)
    fixture.check("loop.latents_with_transform", latents[:, -1])
    fixture.check("loop.images", drawn[..., 32::64, 32::64], "out.loop.images.cells")
    shown = torch.cat([drawn[:, :-1], final[:, None]], 1)
    name = "loop.images_with_transform"
    fixture.check(name, shown[..., 32::64, 32::64], f"out.{name}.cells")


@pytest.mark.parametrize("network", [irse.ArcFace, irse.PspEncoder, irse.E4eEncoder])
def test_gradients_equal_differences(network):
    torch.manual_seed(0)
    # Two heads and little pictures: the same layers at less work. Kinks are rare enough to miss in double precision.
    encoder = network is not irse.ArcFace
    module = (network(n_styles=2) if encoder else network()).eval().requires_grad_(False).double()
    x = torch.randn(1, *((6, 32, 32) if encoder else (3, 112, 112))).double().requires_grad_()
    direction = torch.randn_like(x)
    direction /= direction.norm()
    target = torch.randn_like(module(x.detach()))
    (gradient,) = torch.autograd.grad((module(x) * target).sum(), x)
    step = 1e-6
    with torch.no_grad():
        ahead, behind = ((module(x + side * step * direction) * target).sum() for side in (1, -1))
    torch.testing.assert_close((gradient * direction).sum(), (ahead - behind) / (2 * step), rtol=1e-4, atol=1e-7)
    assert gradient.abs().min(1).values.count_nonzero() == gradient[0, 0].numel()


@pytest.mark.parametrize(("layers", "blocks"), [(50, 24), (100, 49), (152, 50)])
@pytest.mark.parametrize("mode", ["ir", "ir_se"])
def test_other_depths_have_their_blocks(layers, blocks, mode):
    with torch.device("meta"):
        body = irse.body(layers, mode)
        assert body(torch.zeros(1, 64, 32, 32)).shape == (1, 512, 2, 2)
    assert len(body) == blocks
    assert any("fc1" in key for key in body.state_dict()) == (mode == "ir_se")


def test_wrong_sizes_and_settings_are_named():
    with torch.device("meta"):
        with pytest.raises(ValueError, match="num_layers: expected one of 50, 100, 152, found 34"):
            irse.PspEncoder(num_layers=34)
        with pytest.raises(ValueError, match="mode: expected ir or ir_se, found se"):
            irse.ArcFace(mode="se")
        with pytest.raises(ValueError, match="input_size: expected 112 or 224, found 160"):
            irse.ArcFace(input_size=160)
        with pytest.raises(ValueError, match="expected faces of 112 x 112, found 256 x 256"):
            irse.ArcFace()(torch.zeros(1, 3, 256, 256))
        with pytest.raises(ValueError, match="expected images of 256 x 256, found 512 x 512"):
            irse.E4eEncoder(n_styles=2)(torch.zeros(1, 6, 512, 512))
