"""Models whose attention differs between layers: their MLPs are elastic, and what is not known of them is refused."""

import numpy as np
import pytest

from evaluators import Macs, MultipleChoiceAccuracy
from nas_engine import heal, train
from nas_engine.compression.sparsification import sparsify
from nas_engine.deploy.targets import TARGETS
from nas_engine.errors import CompressionError, ExportError, FamilyError
from nas_engine.training import Example
from search_spaces import SpaceError, attention_heads, layer_skip, lora_rank, mlp_width
from tests.evaluators.multiple_choice.test_multiple_choice import questions
from tests.supernets import CALIBRATION, HYBRIDS, OF_HYBRIDS, random_adapters, supernetwork
from tests.tiny import tiny_gemma4, tiny_gemma4_shared

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


def test_gemma4_with_experts_is_refused() -> None:
    sizes = {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 8}
    with pytest.raises(
        FamilyError, match="config.enable_moe_block is True, and models of type 'gemma4_text' are known"
    ):
        supernetwork(tiny_gemma4(enable_moe_block=True, **sizes), OF_HYBRIDS)


def test_layers_whose_keys_later_ones_read_are_run_for_every_subnetwork() -> None:
    supernet = random_adapters(supernetwork(tiny_gemma4_shared(), OF_HYBRIDS))
    space = supernet.space
    genomes = sorted(space.sample(np.random.default_rng(0), 5).tolist())
    subnets = [supernet.subnetwork(space.configuration(genome)) for genome in [*genomes, genomes[-1]]]
    accuracy = MultipleChoiceAccuracy(questions(12))
    session = accuracy.session(subnets)
    assert [session.measure(i) for i in range(len(subnets))] == [accuracy(subnet) for subnet in subnets]
    assert session.reuse.layers_reused == 0


def test_whole_network_of_layers_of_different_widths_is_stock(tmp_path) -> None:
    supernet = supernetwork(tiny_gemma4_shared(), OF_HYBRIDS)
    assert [layer.full_width for layer in supernet.layers] == [48, 48, 96]
    supernet.largest.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
