"""Every family, with every dimension elastic at once: exact inside, extracted, saved and loaded elsewhere."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

from nas_engine.errors import FamilyError
from nas_engine.supernet import SuperNetwork
from nas_engine.supernet.subnetwork import Subnetwork
from search_spaces import Configuration
from tests import family_table
from tests.supernets import (
    CALIBRATION,
    DECODERS,
    EVERY_FAMILY,
    FAMILIES,
    HYBRIDS,
    MIXTURES,
    TOKENS,
    logits,
    random_adapters,
    supernetwork,
    whole_space,
)

WRITERS = [*DECODERS, *MIXTURES, *HYBRIDS]


def with_adapters(family: str) -> SuperNetwork:
    return random_adapters(supernetwork(EVERY_FAMILY[family](), whole_space(family)))


@pytest.fixture(scope="module", params=EVERY_FAMILY)
def ordered(request) -> SuperNetwork:
    supernet = with_adapters(request.param)
    supernet.order_by_importance(CALIBRATION)
    return supernet


@pytest.fixture(scope="module", params=WRITERS)
def decoder(request) -> SuperNetwork:
    supernet = with_adapters(request.param)
    supernet.order_by_importance(CALIBRATION)
    return supernet


def mixed(supernet: SuperNetwork) -> Configuration:
    """Layer 0 narrow with fewer heads and experts, layer 1 without attention, layer 2 without MLP."""
    space = supernet.space
    smallest, largest = space.configuration(space.smallest), space.configuration(space.largest)
    genes = ("layers.0.attention.heads", "layers.0.mlp.width", "layers.1.attention.keep", "layers.2.mlp.keep")
    genes = [gene for gene in (*genes, "layers.0.mlp.experts") if gene in largest]
    return largest | {gene: smallest[gene] for gene in genes}


def random_subnetwork(supernet: SuperNetwork, seed: int) -> Subnetwork:
    return supernet.subnetwork(supernet.space.configuration(supernet.space.sample(np.random.default_rng(seed))[0]))


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_largest_subnetwork_computes_what_the_original_model_computes(family: str) -> None:
    model = EVERY_FAMILY[family]()
    before = logits(model)
    torch.testing.assert_close(logits(supernetwork(model, whole_space(family)).largest.model), before)


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_ordering_leaves_the_largest_subnetwork_as_it_was(family: str) -> None:
    supernet = with_adapters(family)
    before = logits(supernet.largest.model)
    supernet.order_by_importance(CALIBRATION)
    assert supernet.ordered
    assert any(
        (order != torch.arange(len(order))).any() for layer in supernet.layers for order in layer.orders.values()
    )
    torch.testing.assert_close(logits(supernet.largest.model), before, atol=1e-5, rtol=1e-4)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_extracted_model_computes_what_the_active_subnetwork_computes(ordered: SuperNetwork, seed: int) -> None:
    subnet = random_subnetwork(ordered, seed)
    extracted = subnet.extract()
    assert (logits(extracted) - logits(subnet.model)).abs().max() < 1e-4
    assert sum(p.numel() for p in extracted.parameters()) == subnet.parameter_count()
    assert extracted.config.vocab_size == ordered.model.config.vocab_size


def test_smallest_subnetwork_without_any_layer_is_exact_too(decoder: SuperNetwork) -> None:
    subnet = decoder.subnetwork(decoder.space.configuration(decoder.space.smallest))
    extracted = subnet.extract()
    assert (logits(extracted) - logits(subnet.model)).abs().max() < 1e-4
    assert sum(p.numel() for p in extracted.parameters()) == subnet.parameter_count()


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows_generate_what_they_generate_alone_and_extracted(decoder: SuperNetwork, side: str) -> None:
    ids, mask = TOKENS[:, :6].clone(), torch.ones(2, 6, dtype=torch.long)
    padding = slice(0, 2) if side == "left" else slice(4, 6)
    ids[1, padding], mask[1, padding] = 1, 0
    subnet = decoder.subnetwork(mixed(decoder))
    generate = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 1}
    extracted = subnet.extract()
    got = extracted.generate(ids, attention_mask=mask, **generate)
    assert torch.equal(got, subnet.model.generate(ids, attention_mask=mask, **generate))
    # The cache changes nothing.
    assert torch.equal(got, extracted.generate(ids, attention_mask=mask, use_cache=False, **generate))
    if side == "left":
        alone = extracted.generate(ids[1:, 2:], **generate)
        assert torch.equal(got[1, 2:], alone[0])


@pytest.mark.parametrize("seed", range(3))
def test_gradients_are_those_of_the_extracted_model_and_inactive_slices_get_none(
    ordered: SuperNetwork, seed: int
) -> None:
    subnet = random_subnetwork(ordered, seed)
    if not subnet.trains:  # adapters of mixtures are in attention alone
        subnet = ordered.subnetwork(subnet.configuration | {"layers.1.attention.keep": 1})
    model, extracted = subnet.model, subnet.extract()
    model.zero_grad()
    for network in (model, extracted):
        network(TOKENS).logits.square().sum().backward()
    plain = weight_gradients(subnet, ordered, extracted)
    assert plain
    for name, linear in ordered.elastic_linears.items():
        assert linear.weight.grad is None
        if name not in plain:
            assert linear.lora_A.grad is None
            continue
        gradient, rank, inputs = plain[name], linear.active_rank, linear.active_in
        rows = torch.cat([torch.arange(linear.out_features)[part] for part in linear.active_rows])
        lora_A, lora_B = linear.lora_A.detach()[:rank, :inputs], linear.lora_B.detach()[rows][:, :rank]
        expected_A, expected_B = torch.zeros_like(linear.lora_A), torch.zeros_like(linear.lora_B)
        expected_A[:rank, :inputs] = linear.scaling * lora_B.T @ gradient
        expected_B[rows, :rank] = linear.scaling * gradient @ lora_A.T
        scale = gradient.abs().max()
        torch.testing.assert_close(linear.lora_A.grad / scale, expected_A / scale, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(linear.lora_B.grad / scale, expected_B / scale, atol=1e-4, rtol=1e-3)


def weight_gradients(subnet: Subnetwork, supernet: SuperNetwork, extracted: nn.Module) -> dict[str, torch.Tensor]:
    """The gradients of the extracted model's weights as (outputs, inputs), by the projection they were cut from."""
    subnet.model  # noqa: B018  # activates
    left = [layer for layer in supernet.layers if not layer.absent]
    gradients = {}
    for index, layer in enumerate(left):
        for name in layer.linears:
            try:
                linear = extracted.get_submodule(supernet.family.path(f"layers.{index}.{name}"))
            except AttributeError:  # inside a block that is left out
                continue
            if isinstance(linear, nn.Linear | Conv1D) and linear.weight.grad is not None:
                gradient = linear.weight.grad.T if isinstance(linear, Conv1D) else linear.weight.grad
                gradients[f"layers.{layer.index}.{name}"] = gradient
    return gradients


def test_operators_are_the_matrix_products_of_the_extracted_model(ordered: SuperNetwork) -> None:
    subnet = ordered.subnetwork(mixed(ordered))
    if ordered.family.hybrid:
        with pytest.raises(FamilyError, match="have several kinds of attention, of which"):
            subnet.operators(batch=1, tokens=8)
        return
    products = [op for op in subnet.operators(batch=1, tokens=8) if op.kind == "weight" and op.name != "lm_head"]
    subnet.model  # noqa: B018
    layers = subnet.extract().get_submodule(ordered.family.layers)
    weights = [m.weight.numel() for m in layers.modules() if isinstance(m, nn.Linear | Conv1D)]
    weights += [p.numel() for name, p in layers.named_parameters() if ".experts." in name or ".mlp.gate.weight" in name]
    assert sum(op.elements for op in products) == sum(weights)


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name in ("llama", "bert") else pytest.mark.slow) for name in EVERY_FAMILY]
)
def test_mixed_sizes_load_and_run_in_a_process_without_this_project(tmp_path, family: str) -> None:
    supernet = with_adapters(family)
    supernet.order_by_importance(CALIBRATION)
    subnet = supernet.subnetwork(mixed(supernet))
    subnet.save_pretrained(tmp_path / "compressed")
    expected = logits(subnet.model)
    task = "SequenceClassification" if family == "bert" else "CausalLM"
    script = textwrap.dedent(f"""
        import sys, torch
        from transformers import AutoModelFor{task}, AutoTokenizer
        sys.modules["nas_engine"] = None  # importing it would raise
        model = AutoModelFor{task}.from_pretrained("compressed", trust_remote_code=True)
        print(sum(p.numel() for p in model.parameters()))
        if "{family}" != "bert":
            tokenizer = AutoTokenizer.from_pretrained("compressed")
            out = model.generate(**tokenizer("2 plus 3", return_tensors="pt"), max_new_tokens=4, do_sample=False)
            assert len(tokenizer.decode(out[0])) > 0
        torch.save(model(torch.load("tokens.pt")).logits.detach(), "logits.pt")
    """)
    torch.save(TOKENS, tmp_path / "tokens.pt")
    environment = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == subnet.parameter_count()
    assert (torch.load(tmp_path / "logits.pt") - expected).abs().max() < 1e-4


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_saved_base_is_the_original_model(tmp_path, family: str) -> None:
    model = EVERY_FAMILY[family]()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    supernet = random_adapters(supernetwork(model, whole_space(family)))
    supernet.order_by_importance(CALIBRATION)
    supernet.save(tmp_path)
    base = type(model).from_pretrained(tmp_path / "base")
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())


def test_documented_families_are_those_of_the_code() -> None:
    text = family_table.PAGE.read_text(encoding="utf-8")
    assert "\n".join(family_table.table()) in text, "run python -m tests.family_table"


@pytest.mark.parametrize(
    ("family", "what"),
    [(family, what) for family in (*FAMILIES, *MIXTURES) for what in ("mlp.width", "attention.heads", "layers")]
    + [(family, "mlp.experts") for family in MIXTURES]
    + [(family, "mlp.width") for family in HYBRIDS if family != "gemma4_shared"],  # whose layers differ anyway
)
def test_equal_sizes_leave_as_the_stock_architecture_where_it_can_have_them(tmp_path, family: str, what: str) -> None:
    supernet = with_adapters(family)
    space = supernet.space
    smallest, largest = space.configuration(space.smallest), space.configuration(space.largest)
    genes = [
        name
        for name in space.names
        if name.endswith(what) or (what == "layers" and "layers.1" in name and "keep" in name)
    ]
    subnet = supernet.subnetwork(largest | {name: smallest[name] for name in genes})
    expected = logits(subnet.model)
    subnet.save_pretrained(tmp_path)
    description = supernet.family
    stock = {"mlp.width": description.width_key is not None, "attention.heads": description.stock_heads}
    assert bool(list(tmp_path.glob("*.py"))) != stock.get(what, True)
    if stock.get(what, True):
        loaded = type(EVERY_FAMILY[family]()).from_pretrained(tmp_path)
        assert sum(p.numel() for p in loaded.parameters()) == subnet.parameter_count()
        torch.testing.assert_close(logits(loaded), expected, atol=1e-4, rtol=1e-4)
