"""Models whose attention differs between layers: their MLPs are elastic, and what is not known of them is refused."""

import pytest

from evaluators import Macs
from nas_engine import heal, train
from nas_engine.compression.sparsification import sparsify
from nas_engine.deploy.targets import TARGETS
from nas_engine.errors import CompressionError, ExportError, FamilyError
from nas_engine.training import Example
from search_spaces import SpaceError, attention_heads, layer_skip, lora_rank, mlp_width
from tests.supernets import CALIBRATION, HYBRIDS, OF_HYBRIDS, supernetwork
from tests.tiny import tiny_gemma4

EXAMPLES = [Example(f"{a} + {b} =", f" {a + b}") for a in range(5) for b in range(5)]


@pytest.mark.parametrize("family", HYBRIDS)
def test_hybrids_train_heal_and_tell_what_matters(family: str) -> None:
    supernet = supernetwork(HYBRIDS[family](), OF_HYBRIDS)
    settings = {"batch_size": 5, "learning_rate": 1e-2, "progress": False}
    report = train(supernet, EXAMPLES, steps=9, strategy="sandwich", refit=True, **settings)
    assert sum(report.losses[-3:]) < sum(report.losses[:3])
    found = supernet.sensitivity(CALIBRATION, progress=False)
    assert all(found[f"layers.1.mlp.{what}"][0] > 0 for what in ("width", "keep"))
    subnet = supernet.subnetwork(supernet.space.configuration(supernet.space.largest) | {"layers.0.mlp.width": 24})
    healed = heal(subnet, EXAMPLES, steps=2, **settings)
    assert sum(p.numel() for p in healed.extract().parameters()) == subnet.parameter_count()


@pytest.mark.parametrize("family", HYBRIDS)
@pytest.mark.parametrize(
    ("space", "message"),
    [
        (attention_heads((1.0, 0.5)), "attention is not elastic"),
        (lora_rank((4,), ("q", "up")), "no projection 'q'"),
        (mlp_width((1.0, 0.5)) + layer_skip(), r"moves layers.0.attention, which this model does not have"),
    ],
)
def test_space_that_moves_attention_is_refused(family: str, space, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        supernetwork(HYBRIDS[family](), space)


@pytest.mark.parametrize("family", HYBRIDS)
def test_what_is_not_known_of_hybrids_is_refused(family: str) -> None:
    with pytest.raises(CompressionError, match="hybrids of several kinds of attention"):
        sparsify(HYBRIDS[family](), CALIBRATION, 0.5)
    with pytest.raises(FamilyError, match="several kinds of attention, of which cost models know nothing yet"):
        Macs()(supernetwork(HYBRIDS[family](), OF_HYBRIDS).largest)
    for target in ("llama.cpp", "vllm", "openvino", "onnxruntime"):
        with pytest.raises(ExportError, match="_text'"):
            TARGETS[target].limits(HYBRIDS[family]())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_kv_shared_layers": 1, "layer_types": ["sliding_attention", "full_attention", "full_attention"]}, "is 1"),
        ({"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 8}, "is True"),
    ],
)
def test_gemma4_that_its_description_does_not_cover_is_refused(config, message: str) -> None:
    with pytest.raises(FamilyError, match=f"config.{next(iter(config))} {message}, and models of type 'gemma4_text'"):
        supernetwork(tiny_gemma4(**config), OF_HYBRIDS)
