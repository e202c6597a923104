"""The active adapter as a PEFT checkpoint: `rank_pattern` and `alpha_pattern` hold what differs between layers."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from evaluators.whole_file import replacing
from nas_engine.errors import ExportError
from nas_engine.supernet.elastic import ElasticLinear
from nas_engine.supernet.elastic_model import ElasticModel
from nas_engine.supernet.leaving import require_finite


def save_adapter(supernet: ElasticModel, folder: Path) -> Path:
    """Write `adapter_config.json` and `adapter_model.safetensors` of the active configuration into `folder`.

    PEFT scales by alpha / rank, the super-adapter by alpha / r_max at every rank; `alpha_pattern` makes them equal.

    Raises:
        ExportError: an active width below the layer's own, a super-network without adapters, a combination of weight
            and adapter other than plain, or a weight that is not finite.
    """
    if supernet.adapter.mode != "plain":
        raise ExportError(
            f"its adapters act on the weights as {supernet.adapter.mode!r}, which no PEFT adapter can express; "
            "merge them with save_pretrained, or train with adapter_mode='plain'."
        )
    adapted = {name: layer for name, layer in supernet.elastic_linears.items() if layer.rank}
    _require_full_size(supernet)
    if not adapted:
        raise ExportError("this super-network has no adapters; add lora_rank(...) to its space.")
    paths = {supernet.family.path(name): layer for name, layer in adapted.items()}
    first = next(iter(paths.values()))
    alphas = {path: layer.scaling * layer.active_rank for path, layer in paths.items()}
    from peft import LoraConfig, TaskType  # takes a second to import

    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM if supernet.model.get_output_embeddings() else TaskType.SEQ_CLS,
        base_model_name_or_path=supernet.base,
        r=first.active_rank,
        lora_alpha=first.scaling * first.active_rank,  # type: ignore[arg-type]  # PEFT's hint says int; floats load too
        lora_dropout=first.dropout.p,
        target_modules=sorted(paths),
        rank_pattern={path: layer.active_rank for path, layer in paths.items()},
        alpha_pattern=alphas,
        modules_to_save=list(supernet.head) or None,
        fan_in_fan_out=any(layer.transposed for layer in adapted.values()),
        inference_mode=True,
    )
    tensors = _tensors(supernet, adapted)
    with replacing(folder) as unfinished:
        config.save_pretrained(str(unfinished))
        save_file(tensors, unfinished / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def _require_full_size(supernet: ElasticModel) -> None:
    for layer in supernet.layers:
        for block, kept in layer.kept.items():
            if not kept:
                raise ExportError(
                    f"layers.{layer.index}.{block} is left out, which no PEFT adapter can express; use save_pretrained."
                )
        if layer.mixture is not None and layer.mixture.cut:
            raise ExportError(
                f"layers.{layer.index} has {layer.mixture.active} of {layer.mixture.full_experts} experts at "
                f"{layer.mixture.width} of {layer.mixture.full_width} channels, which no PEFT adapter can express; use "
                "save_pretrained."
            )
    for name, linear in supernet.elastic_linears.items():
        if (linear.active_in, linear.active_out) != (linear.in_features, linear.out_features):
            raise ExportError(
                f"{name} is active at {linear.active_out} × {linear.active_in} of {linear.out_features} × "
                f"{linear.in_features}, and a PEFT adapter cannot make a layer smaller; use save_pretrained, "
                "or choose a configuration with full widths and heads."
            )


def _tensors(supernet: ElasticModel, adapted: dict[str, ElasticLinear]) -> dict:  # type: ignore[type-arg]
    tensors = {}
    for name, layer in adapted.items():
        assert layer.lora_A is not None
        assert layer.lora_B is not None
        try:
            require_finite(layer)
        except ExportError as error:
            raise ExportError(f"{name} cannot be saved: {error}") from error
        lora_A = layer.lora_A.detach()[: layer.active_rank]
        lora_B = layer.lora_B.detach()[:, : layer.active_rank]
        # The original model knows nothing of the channels' new order: undo it.
        lora_A = lora_A[:, supernet.original_inputs(name)]
        lora_B = lora_B[supernet.original_outputs(name)]
        prefix = f"base_model.model.{supernet.family.path(name)}"
        tensors[f"{prefix}.lora_A.weight"] = lora_A.contiguous()
        tensors[f"{prefix}.lora_B.weight"] = lora_B.contiguous()
    for path, module in supernet.head.items():
        tensors |= {f"base_model.model.{path}.{name}": t.detach() for name, t in module.state_dict().items()}
    return tensors
