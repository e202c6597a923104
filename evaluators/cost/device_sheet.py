"""A device on paper: peak rates and bandwidth, from a data sheet or measured by its user. Runs nothing."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from evaluators.documents import decoded
from evaluators.whole_file import replacing
from search_spaces import NasEngineError

_WIDTH = re.compile(r"[1-9][0-9]{0,3}")
_REQUIRED = ("name", "peak_tflops", "bandwidth_gb_s")
_FORM = '{"name": "…", "peak_tflops": {"32": …, "16": …}, "bandwidth_gb_s": …, "sources": {"bandwidth_gb_s": "…"}}'


class DeviceError(NasEngineError, ValueError):
    """A device is unknown, or its description is not of the form that `Device` takes."""


@dataclass(frozen=True)
class Device:
    """Peak figures of a device.

    Args:
        name: as its maker calls it.
        peak_tflops: dense rate of matrix products by the bits of their elements, in 10¹² operations a second; a
            multiply-accumulate is two.
        bandwidth_gb_s: of its main memory, in 10⁹ bytes a second.
        memory_gb: of its main memory, in 10⁹ bytes; None where it varies.
        operator_overhead_us: what every operator costs besides, such as the launch of a kernel, in microseconds.
        skips_zeros: its kernels store and multiply only the weights that are not zero, at the rates above.
        sources: where each figure is from, by its name.

    Raises:
        DeviceError: a rate, width or bandwidth that is not positive, or no rate at all.
    """

    name: str
    peak_tflops: Mapping[int, float]
    bandwidth_gb_s: float
    memory_gb: float | None = None
    operator_overhead_us: float = 0.0
    skips_zeros: bool = False
    sources: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise DeviceError(f"name is {self.name!r}; give the device's name.")
        if not isinstance(self.peak_tflops, Mapping) or not self.peak_tflops:
            raise DeviceError(
                f"peak_tflops of {self.name} is {self.peak_tflops!r}; give a rate by bit width, such as {{16: 312.0}}."
            )
        for bits, rate in self.peak_tflops.items():
            if isinstance(bits, bool) or not isinstance(bits, int) or bits < 1:
                raise DeviceError(f"peak_tflops of {self.name} has the bit width {bits!r}; give a positive integer.")
            self._require_positive(**{f"peak_tflops[{bits}]": rate})
        self._require_positive(bandwidth_gb_s=self.bandwidth_gb_s)
        if self.memory_gb is not None:
            self._require_positive(memory_gb=self.memory_gb)
        if self.operator_overhead_us != 0:
            self._require_positive(operator_overhead_us=self.operator_overhead_us)
        if not isinstance(self.skips_zeros, bool):
            raise DeviceError(f"skips_zeros of {self.name} is {self.skips_zeros!r}; give true or false.")
        sources = self.sources.items() if isinstance(self.sources, Mapping) else [(None, None)]
        if not all(isinstance(text, str) for source in sources for text in source):
            raise DeviceError(f"sources of {self.name} is {self.sources!r}; give texts by the name of a figure.")

    def operations_per_second(self, bits: int) -> float:
        """The peak rate of products of elements of `bits`: that of the narrowest width that holds them.

        Raises:
            DeviceError: the device has no rate for elements so wide.
        """
        widths = [width for width in self.peak_tflops if width >= bits]
        if not widths:
            known = ", ".join(map(str, sorted(self.peak_tflops)))
            raise DeviceError(
                f"{self.name} has peak rates for {known} bits, none for {bits}; "
                "add one to its peak_tflops, or score the model in a narrower dtype."
            )
        return 1e12 * self.peak_tflops[min(widths)]

    @property
    def bytes_per_second(self) -> float:
        """The peak bandwidth of its memory."""
        return 1e9 * self.bandwidth_gb_s

    def as_data(self) -> dict[str, Any]:
        """The description as JSON data, which `device_from_data` reads."""
        return asdict(self) | {"peak_tflops": {str(bits): rate for bits, rate in self.peak_tflops.items()}}

    def figures(self) -> dict[str, Any]:
        """The same without sources: what changes a score."""
        return {key: value for key, value in self.as_data().items() if key != "sources"}

    def save(self, path: str | Path) -> None:
        """Write the description as JSON."""
        text = json.dumps(self.as_data(), indent=2, ensure_ascii=False) + "\n"
        with replacing(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")

    def _require_positive(self, **values: object) -> None:
        for what, value in values.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 < value <= sys.float_info.max:  # type: ignore[operator]
                raise DeviceError(f"{what} of {self.name} is {value!r}; give a positive number.")


def device_names() -> list[str]:
    """The names of the devices that come with this package, as `load_device` takes them."""
    return sorted(file.name.removesuffix(".json") for file in _shipped().iterdir() if file.name.endswith(".json"))


def load_device(name_or_path: str | Path) -> Device:
    """A device that comes with this package, by name, or one of your own by the path of its JSON file.

    Raises:
        DeviceError: no such device (those there are get listed), an unreadable file, or one of another form.
    """
    path = Path(name_or_path)
    if path.suffix == ".json":
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DeviceError(f"{path} cannot be read: {error}.") from error
    elif str(name_or_path) in device_names():
        text = (_shipped() / f"{name_or_path}.json").read_text(encoding="utf-8")
    else:
        raise DeviceError(
            f"no device is named {str(name_or_path)!r}; there are {', '.join(device_names())}. "
            "For another, give a Device or the path of a .json file."
        )
    data = decoded(text, DeviceError, str(path))
    try:
        return device_from_data(data)
    except DeviceError as error:
        raise DeviceError(f"{path}: {error}") from None


def device_from_data(data: Any) -> Device:
    """The device that `data`, parsed from JSON, describes.

    Raises:
        DeviceError: a key is missing, unknown, or of another kind.
    """
    if not isinstance(data, Mapping):
        raise DeviceError(f"a device is an object such as {_FORM}, not {str(data)[:80]!r}.")
    known = [f.name for f in fields(Device)]
    missing = [key for key in _REQUIRED if key not in data]
    unknown = sorted(set(data) - set(known))
    if missing or unknown:
        what = f"the key {missing[0]!r} is missing" if missing else f"the key {unknown[0]!r} is unknown"
        raise DeviceError(f"{what}; a device is an object such as {_FORM} with the keys {', '.join(known)}.")
    rates = data["peak_tflops"]
    if not isinstance(rates, Mapping) or not all(_WIDTH.fullmatch(str(bits)) for bits in rates):
        raise DeviceError(f'peak_tflops is {rates!r}; give rates by bit width, such as {{"16": 312.0}}.')
    return Device(**{**data, "peak_tflops": {int(bits): rate for bits, rate in rates.items()}})


def as_device(device: str | Path | Device) -> Device:
    """`device` itself, or the one of that name or path.

    Raises:
        DeviceError: as `load_device`.
    """
    return device if isinstance(device, Device) else load_device(device)


def _shipped() -> Any:
    return files("evaluators.cost") / "datasheets"
