"""The cost model of a device of your own, for energy.yaml: any function of a sub-network is an evaluator."""

from evaluators import cost_model

PICOJOULES_A_MAC, PICOJOULES_A_BYTE = 0.9, 12.0


@cost_model(unit="mJ", direction="minimize")
def battery(subnet) -> float:
    """What the prefill of a prompt of 128 tokens takes out of the battery."""
    work = subnet.operators(batch=1, tokens=128)
    return sum(PICOJOULES_A_MAC * o.macs + PICOJOULES_A_BYTE * o.bytes for o in work) * 1e-9
