"""The table of families and dimensions in docs/families.md, made from the descriptions of the families.

Run as ``python -m tests.family_table`` to write it anew.
"""

from pathlib import Path

from nas_engine.families.descriptions import FAMILIES
from nas_engine.families.family import Family
from tests.supernets import FAMILIES as DENSE
from tests.supernets import HYBRIDS, MIXTURES

PAGE = Path(__file__).parents[1] / "docs" / "families.md"
START = "| family |"
TESTED = DENSE | MIXTURES | HYBRIDS
_FUSED = {"qkv": "q, k, v in one", "gate_up": "gate, up in one"}


def table() -> list[str]:
    """The lines of the table, one a family."""
    head = [
        "| family | tested as | `lora_rank` targets | `mlp_width` | `attention_heads` | `experts` | `layer_skip` |",
        "|---|---|---|---|---|---|---|",
    ]
    tested = [(make().config.model_type, make.__name__.removeprefix("tiny_")) for make in TESTED.values()]
    return head + [
        _line(family, [name for model_type, name in tested if model_type == family.model_type])
        for _, family in sorted(FAMILIES.items())
    ]


def _line(family: Family, tested: list[str]) -> str:
    held = [name for module in family.projections for name in family.held(module)]
    fused = [_FUSED[module] for module in family.projections if module in _FUSED]
    targets = ", ".join(held) + (f" ({'; '.join(fused)})" if fused else "")
    width = f"stock, `{family.width_key}`" if family.width_key else "with code"
    heads = "" if family.hybrid else "stock" if family.stock_heads else "with code"
    skipped = "MLPs, with code" if family.hybrid else "stock by layers"
    experts = "stock" if family.experts is not None else ""
    return f"| `{family.model_type}` | {', '.join(tested)} | {targets} | {width} | {heads} | {experts} | {skipped} |"


def replace_table(page: Path, start: str, table: list[str]) -> None:
    """Write `table` where the one whose first line begins with `start` is."""
    lines = page.read_text(encoding="utf-8").splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(start))
    last = next((i for i in range(first, len(lines)) if not lines[i].startswith("|")), len(lines))
    page.write_text("\n".join([*lines[:first], *table, *lines[last:]]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    replace_table(PAGE, START, table())
