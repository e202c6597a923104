"""Devices on paper, and the latency and energy that follow from them."""

import json
from dataclasses import replace

import pytest

from evaluators import (
    HOROWITZ_45NM,
    Device,
    DeviceError,
    Energy,
    EnergyCosts,
    Macs,
    Operator,
    Roofline,
    device_names,
    load_device,
)
from evaluators.cost.roofline import roofline_seconds
from tests.supernets import supernetwork
from tests.tiny import tiny_llama

PAPER = Device("paper", {32: 1.0, 8: 4.0}, bandwidth_gb_s=100.0)


def test_an_operator_takes_as_long_as_its_arithmetic_or_its_traffic() -> None:
    compute_bound = Operator("up", "weight", m=1000, k=1000, n=1000)
    assert roofline_seconds(compute_bound, PAPER) == pytest.approx(2e9 / 1e12)
    memory_bound = Operator("up", "weight", m=1, k=1000, n=1000)
    assert roofline_seconds(memory_bound, PAPER) == pytest.approx(4 * (1000 * 1000 + 2000) / 100e9)
    launched = Device("launched", {32: 1.0}, 100.0, operator_overhead_us=5.0)
    assert roofline_seconds(compute_bound, launched) == pytest.approx(2e-3 + 5e-6)


def test_products_run_at_the_wider_operand_and_move_at_each_ones_width() -> None:
    narrow = Operator("up", "weight", m=1000, k=1000, n=1000, weight_bits=8, activation_bits=8)
    assert roofline_seconds(narrow, PAPER) == pytest.approx(2e9 / 4e12)
    mixed = Operator("up", "weight", m=1, k=1000, n=1000, weight_bits=4, activation_bits=16)
    assert mixed.compute_bits == 16
    assert roofline_seconds(mixed, PAPER) == pytest.approx((500_000 + 2 * 2000) / 100e9)
    assert PAPER.operations_per_second(4) == PAPER.operations_per_second(8) == 4e12
    assert PAPER.operations_per_second(16) == 1e12
    with pytest.raises(DeviceError, match="paper has peak rates for 8, 32 bits, none for 64"):
        PAPER.operations_per_second(64)


def test_a_device_that_skips_zeros_multiplies_and_moves_the_rest_and_a_bit_a_weight() -> None:
    skipping = replace(PAPER, skips_zeros=True)
    up = Operator("up", "weight", m=1000, k=1000, n=1000, weight_bits=8, sparsity=0.75, scale_bytes=64)
    assert roofline_seconds(up, skipping) == pytest.approx(roofline_seconds(up, PAPER) / 4)
    token = replace(up, m=1)
    assert roofline_seconds(token, PAPER) == pytest.approx((1_000_000 + 64 + 4 * 2000) / 100e9)
    assert roofline_seconds(token, skipping) == pytest.approx((250_000 + 125_000 + 64 + 4 * 2000) / 100e9)
    few = replace(token, weight_bits=4, sparsity=0.2)  # a bit a weight costs more than these zeros
    assert roofline_seconds(few, skipping) == roofline_seconds(few, PAPER)
    assert Roofline(skipping).settings() != Roofline(PAPER).settings()


def test_roofline_is_the_sum_over_the_operators_of_the_phase() -> None:
    subnet = supernetwork(tiny_llama()).largest
    for phase, operators in (("prefill", subnet.operators(2, 64)), ("decode", subnet.operators(2, 1, past=64))):
        expected = 1e3 * sum(roofline_seconds(op, PAPER) for op in operators)
        assert Roofline(PAPER, batch=2, tokens=64, phase=phase)(subnet).value == pytest.approx(expected)
    assert Roofline("h100-sxm")(subnet).value < Roofline("raspberry-pi-5")(subnet).value


def test_shipped_devices_have_sourced_figures_that_rise_as_bits_fall() -> None:
    assert {"h100-sxm", "a100-80gb-sxm", "l4", "rtx-4090", "jetson-agx-orin-64gb"} <= set(device_names())
    for name in device_names():
        device = load_device(name)
        figures = {"peak_tflops", "bandwidth_gb_s"} | ({"memory_gb"} if device.memory_gb else set())
        assert set(device.sources) == figures
        rates = [rate for _, rate in sorted(device.peak_tflops.items())]
        assert rates == sorted(rates, reverse=True)


def test_own_devices_are_saved_and_loaded(tmp_path) -> None:
    path = tmp_path / "mine.json"
    device = Device("mine", {16: 3.5}, 50.0, memory_gb=8.0, operator_overhead_us=2.0, sources={"peak_tflops": "me"})
    device.save(path)
    assert load_device(path) == device
    assert Roofline(path).settings() == Roofline(device).settings()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bandwidth_gb_s": None}, "the key 'bandwidth_gb_s' is missing"),
        ({"bandwith": 3}, "the key 'bandwith' is unknown"),
        ({"bandwidth_gb_s": 0}, "bandwidth_gb_s of x is 0; give a positive number"),
        ({"bandwidth_gb_s": "fast"}, "bandwidth_gb_s of x is 'fast'"),
        ({"peak_tflops": {}}, "peak_tflops of x is {}"),
        ({"peak_tflops": 312}, "peak_tflops is 312; give rates by bit width"),
        ({"peak_tflops": {"half": 1}}, "peak_tflops is .*give rates by bit width"),
        ({"peak_tflops": {"16": -1}}, r"peak_tflops\[16\] of x is -1"),
        ({"operator_overhead_us": -1}, "operator_overhead_us of x is -1"),
        ({"name": ""}, "name is ''"),
        ({"skips_zeros": "yes"}, "skips_zeros of x is 'yes'; give true or false"),
    ],
)
def test_malformed_descriptions_are_refused_with_their_file(tmp_path, change: dict, message: str) -> None:
    data = {"name": "x", "peak_tflops": {"16": 1.0}, "bandwidth_gb_s": 1.0} | change
    path = tmp_path / "x.json"
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))
    with pytest.raises(DeviceError, match=rf"x\.json: .*{message}"):
        load_device(path)


def test_unknown_and_unreadable_devices_are_refused(tmp_path) -> None:
    with pytest.raises(DeviceError, match="no device is named 'abacus'; there are a100-80gb-sxm, h100-sxm"):
        Roofline("abacus")
    with pytest.raises(DeviceError, match=r"none\.json cannot be read"):
        load_device(tmp_path / "none.json")
    (tmp_path / "torn.json").write_text('{"name":')
    with pytest.raises(DeviceError, match=r"torn\.json is not JSON"):
        load_device(tmp_path / "torn.json")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(DeviceError, match="a device is an object"):
        load_device(tmp_path / "list.json")
    with pytest.raises(ValueError, match="tokens is 0"):
        Roofline(PAPER, tokens=0)


def test_energy_is_linear_in_arithmetic_traffic_and_time() -> None:
    subnet = supernetwork(tiny_llama()).largest
    moved = sum(op.bytes for op in subnet.operators(1, 16))
    assert Energy(EnergyCosts({32: 2.0}, 0.0), tokens=16)(subnet).value == pytest.approx(
        2e-9 * Macs(tokens=16)(subnet).value
    )
    assert Energy(EnergyCosts({32: 0.0}, 3.0), tokens=16)(subnet).value == pytest.approx(3e-9 * moved)
    idle = Energy(EnergyCosts({32: 0.0}, 0.0, idle_watts=7.0), tokens=16, device=PAPER)
    assert idle(subnet).value == pytest.approx(7.0 * Roofline(PAPER, tokens=16)(subnet).value)
    assert Energy()(subnet).value > 0
    assert HOROWITZ_45NM.joules_per_mac(4) == HOROWITZ_45NM.joules_per_mac(8) < HOROWITZ_45NM.joules_per_mac(16)


def test_bad_energies_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pj_per_mac\[8\] is -1"):
        EnergyCosts({8: -1.0}, 1.0)
    with pytest.raises(ValueError, match="pj_per_mac is empty"):
        EnergyCosts({}, 1.0)
    with pytest.raises(ValueError, match="idle_watts is 5.0, but without a device"):
        Energy(EnergyCosts({32: 1.0}, 1.0, idle_watts=5.0))
    with pytest.raises(ValueError, match="has costs for 8 bits, none for 32"):
        Energy(EnergyCosts({8: 1.0}, 1.0))(supernetwork(tiny_llama()).largest)


def test_settings_change_with_the_figures_and_not_with_their_source() -> None:
    other = Device("paper", {32: 2.0, 8: 4.0}, 100.0)
    quoted = Device("paper", {32: 1.0, 8: 4.0}, 100.0, sources={"peak_tflops": "somewhere"})
    assert Roofline(PAPER).settings() != Roofline(other).settings()
    assert Roofline(PAPER).settings() == Roofline(quoted).settings()
    assert json.loads(json.dumps(Roofline(PAPER).settings())) == Roofline(PAPER).settings()
    assert Energy(tokens=8).settings() != Energy(tokens=9).settings()
    assert json.loads(json.dumps(Energy().settings())) == Energy().settings()
