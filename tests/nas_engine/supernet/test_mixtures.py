"""Mixtures of experts: which experts are kept, what a space may ask of them, and what is refused."""

import pytest
import torch
from torch.nn import functional as F

from evaluators import LatencyTable
from nas_engine import heal, train
from nas_engine.compression.sparsification import sparsify
from nas_engine.deploy.targets import TARGETS
from nas_engine.errors import CompressionError, ExportError, FamilyError
from nas_engine.supernet import SuperNetwork
from nas_engine.training import Example
from search_spaces import SpaceError, experts, lora_rank, mlp_width
from tests.supernets import CALIBRATION, MIXTURES, OF_MIXTURES, logits, random_adapters, supernetwork
from tests.tiny import tiny_llama, tiny_mixtral, tiny_qwen3_moe

FEWER = lora_rank((4,), ("q", "v")) + experts((1.0, 0.5)) + mlp_width((1.0, 0.5))
EXAMPLES = [Example(f"{a} + {b} =", f" {a + b}") for a in range(5) for b in range(5)]


def naive_saliency(model) -> list[torch.Tensor]:
    """REAP's, token by token, from each layer's own modules."""
    found = []
    for layer in model.model.layers:
        heard = []
        handle = layer.mlp.register_forward_pre_hook(lambda module, args, heard=heard: heard.append(args[0]))
        for batch in CALIBRATION:
            model(input_ids=batch["input_ids"])
        handle.remove()
        sums, tokens = [0.0] * 6, [0] * 6
        for token in torch.cat([h.flatten(0, 1) for h in heard]):
            _, weights, chosen = layer.mlp.gate(token[None])
            for weight, expert in zip(weights[0].tolist(), chosen[0].tolist(), strict=True):
                gate, up = (layer.mlp.experts.gate_up_proj[expert] @ token).chunk(2)
                given = layer.mlp.experts.down_proj[expert] @ (F.silu(gate) * up)
                sums[expert] += weight * float(given.norm())
                tokens[expert] += 1
        found.append(torch.tensor([s / max(1, n) for s, n in zip(sums, tokens, strict=True)]))
    return found


@pytest.mark.parametrize("family", MIXTURES)
@torch.inference_mode()
def test_experts_are_kept_in_the_order_of_reaps_saliency(family: str) -> None:
    expected = naive_saliency(MIXTURES[family]())
    supernet = supernetwork(MIXTURES[family](), FEWER)
    assert not supernet.ordered
    supernet.order_by_importance(CALIBRATION)
    assert supernet.ordered
    for mixture, saliency in zip(supernet.mixtures, expected, strict=True):
        assert torch.equal(mixture.order, saliency.argsort(descending=True, stable=True))
        whole = torch.arange(32).expand(6, -1)
        assert torch.equal(mixture.channel_order.sort(1).values, whole)
        assert not torch.equal(mixture.channel_order, whole)


@pytest.mark.parametrize("implementation", ["eager", "batched_mm"])
def test_other_implementations_of_experts_compute_the_same(implementation: str) -> None:
    supernet = random_adapters(supernetwork(tiny_mixtral(), OF_MIXTURES))
    configuration = supernet.space.configuration(supernet.space.largest) | {
        "layers.0.mlp.experts": 3, "layers.1.mlp.width": 16, "layers.2.mlp.experts": 3, "layers.2.mlp.width": 24,
    }  # fmt: skip
    subnet = supernet.subnetwork(configuration)
    expected = logits(subnet.model)
    supernet.model.set_experts_implementation(implementation)
    extracted = subnet.extract()
    for network in (subnet.model, extracted):
        torch.testing.assert_close(logits(network), expected, atol=1e-4, rtol=1e-4)
    assert {m.config._experts_implementation for m in extracted.modules() if hasattr(m, "has_gate")} == {implementation}
    extracted.set_experts_implementation("grouped_mm")  # reaches every module
    torch.testing.assert_close(logits(extracted), expected, atol=1e-4, rtol=1e-4)


def test_saved_supernetwork_keeps_the_order_of_experts(tmp_path) -> None:
    supernet = random_adapters(supernetwork(tiny_mixtral(), FEWER))
    supernet.order_by_importance(CALIBRATION)
    supernet.order_by_importance([{name: tensor[:1] for name, tensor in CALIBRATION[0].items()}])  # on top of it
    smallest = supernet.space.configuration(supernet.space.smallest)
    supernet.save(tmp_path)
    loaded = SuperNetwork.load(tmp_path)
    assert loaded.fingerprint() == supernet.fingerprint()
    expected = logits(supernet.subnetwork(smallest).model)
    torch.testing.assert_close(logits(loaded.subnetwork(smallest).model), expected, atol=1e-5, rtol=1e-5)
    loaded.load_state(loaded.state())  # from one order to the same
    torch.testing.assert_close(logits(loaded.subnetwork(smallest).model), expected, atol=1e-5, rtol=1e-5)


def test_mixtures_train_and_heal() -> None:
    supernet = supernetwork(tiny_qwen3_moe(), FEWER)
    settings = {"batch_size": 5, "learning_rate": 1e-2, "progress": False}
    report = train(supernet, EXAMPLES, steps=12, strategy="sandwich", **settings)
    assert supernet.ordered
    assert sum(report.losses[-3:]) < sum(report.losses[:3])
    subnet = supernet.subnetwork(supernet.space.configuration(supernet.space.smallest))
    healed = heal(subnet, EXAMPLES, steps=3, **settings)
    extracted = healed.extract()
    assert extracted.config.num_local_experts == 3
    assert sum(p.numel() for p in extracted.parameters()) == subnet.parameter_count()


def test_sensitivity_by_gradients_sees_experts_and_their_widths() -> None:
    supernet = random_adapters(supernetwork(tiny_mixtral(), OF_MIXTURES))
    supernet.order_by_importance(CALIBRATION)
    for method in ("gradients", "divergence"):
        found = supernet.sensitivity(CALIBRATION, progress=False, method=method)
        for gene in ("layers.1.mlp.experts", "layers.1.mlp.width", "layers.1.mlp.keep"):
            assert found[gene][0] > 0
            assert found[gene][-1] == 0


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (experts((1,)), "6 experts and sends a token to 2, so give 2 to 6"),
        (experts((7,)), "6 experts and sends a token to 2"),
        (lora_rank((4,), ("q", "up")), "no projection 'up'"),
    ],
)
def test_space_that_no_mixture_can_have_is_refused(space, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        supernetwork(tiny_mixtral(), space)


def test_experts_of_a_dense_model_are_refused() -> None:
    with pytest.raises(SpaceError, match="no mixtures of experts"):
        supernetwork(tiny_llama(), experts((1.0, 0.5)))


@pytest.mark.parametrize("numbers", [(), (0,), (1.5,)])
def test_numbers_of_experts_out_of_range_are_refused(numbers) -> None:
    with pytest.raises(SpaceError, match="give whole numbers, or fractions"):
        experts(numbers)


def test_widths_of_experts_are_those_that_grouped_products_take() -> None:
    space = supernetwork(tiny_mixtral(), mlp_width((1.0, 0.7, 0.3, 0.01))).space
    assert space.genes[0].values == (8, 24, 32)


def test_layers_without_experts_among_others_are_refused() -> None:
    with pytest.raises(FamilyError, match="layers.1.experts are not there; layers that are no mixtures"):
        supernetwork(tiny_qwen3_moe(mlp_only_layers=[1]), FEWER)


def test_what_is_not_known_of_mixtures_is_refused(tmp_path) -> None:
    supernet = supernetwork(tiny_mixtral(), FEWER)
    smallest = supernet.subnetwork(supernet.space.configuration(supernet.space.smallest))
    with pytest.raises(ExportError, match="has 3 of 6 experts at 16 of 32 channels"):
        smallest.save_adapter(tmp_path)
    with pytest.raises(CompressionError, match="mixtures of experts"):
        sparsify(tiny_mixtral(), CALIBRATION, 0.5)
    with pytest.raises(ValueError, match="time mixtures of experts by Latency"):
        LatencyTable.calibrate(supernet)
    for target in ("llama.cpp", "vllm", "openvino", "onnxruntime"):
        with pytest.raises(ExportError, match="mixtral"):
            TARGETS[target].limits(tiny_mixtral())
        with pytest.raises(ExportError, match="mixtral|llama.cpp"):
            smallest.export(TARGETS[target].format, tmp_path / "out.gguf")
