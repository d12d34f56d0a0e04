import torch
from golden import Fixture
from torch.nn import functional as F

from peekaboo.latent import falco


def test_losses_equal_the_official_ones():
    fixture = Fixture("falco_losses")
    get = lambda name: torch.from_numpy(fixture.input(name))  # noqa: E731
    raw, other = get("id_features_anon_raw"), get("id_features_real_raw")
    # Cosines of both signs.
    mixed = 0.5 * other + torch.tensor([[0.5], [-0.3]]) * raw
    anonymized, real = F.normalize(raw).requires_grad_(), F.normalize(mixed).requires_grad_()
    fixture.check("id_features_real", real.detach())
    for margin in (0.0, 0.3, 0.9):
        fixture.check(f"id_loss_m{margin}", falco.identity_loss(anonymized, real, margin).detach()[None])
    falco.identity_loss(anonymized, real, 0.3).backward()
    fixture.check("id_loss_m0.3_grad", anonymized.grad)
    assert real.grad is None
    first, second = get("attr_features_a"), get("attr_features_b")
    attributes = falco.attribute_loss(first, second)
    fixture.check("attr_loss", attributes[None])
    fixture.check("attr_loss_small", falco.attribute_loss(first[:, :3, :16], second[:, :3, :16])[None])
    fixture.check(
        "total_loss_default", falco.objective(falco.identity_loss(anonymized, real), attributes).detach()[None]
    )


def test_the_start_takes_the_middle_layers_of_the_neighbour_and_leaves_both_as_they_are():
    fixture = Fixture("falco_losses")
    real, fake = (torch.from_numpy(fixture.input(name)) for name in ("code_real", "code_fake_nn"))
    before = fake.clone()
    code = falco.start(real, fake)
    fixture.check("code_start", code)
    code[:, falco.FIRST : falco.LAST] += 1
    fixture.check("code_after_plus_one", code[..., :4], "out.code_after_plus_one.layers")
    assert torch.equal(fake, before)
