"""How a site computes: `compute.toml`, which is the operator's to write.

```toml
format = "fiduciary.compute/1"

# Per-subject gradients: "one_backward" is fast, "hooks" is Opacus' own. Both give the same.
engine = "one_backward"

# "cpu", "cuda", "cuda:1", or "auto": the first GPU where there is one.
device = "auto"

# Several devices share out each step, instead of `device`: devices = ["cuda:0", "cuda:1"]
devices = []

# "bf16" computes passes in bfloat16 where the device is fast at it; sums and noise never are.
precision = "fp32"

# Tokens in memory at once; halved where they do not fit. "auto": 1024 on a CPU, 16384 on a GPU.
micro_batch_tokens = "auto"

# How much of what frozen layers make of the records is kept in memory, encrypted.
cache_bytes = 2147483648
```

* Every key but `format` may be left out, and so may the file: nothing here changes what is
  promised to subjects, only how fast it is kept. An unknown key is an error.
* A device that is not there is refused by name; nothing falls back to a slower one in silence.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from audit.errors import NotFound
from audit.words import count_of
from compliance.statements import Document
from compliance.toml_file import load_toml

if TYPE_CHECKING:  # torch takes seconds to load, and most commands need none of it
    from client.learning.passes import Settings

Device = Annotated[str, Field(pattern=r"^(cpu|cuda|cuda:[0-9]{1,3}|auto)$")]
NamedDevice = Annotated[str, Field(pattern=r"^(cpu|cuda:[0-9]{1,3})$")]


class Compute(Document):
    """What the operator wrote, or the defaults."""

    format: Literal["fiduciary.compute/1"] = "fiduciary.compute/1"
    engine: Literal["one_backward", "hooks"] = "one_backward"
    device: Device = "cpu"
    devices: Annotated[tuple[NamedDevice, ...], Field(max_length=64)] = ()
    precision: Literal["fp32", "bf16"] = "fp32"
    micro_batch_tokens: Annotated[int, Field(ge=1, le=2**31)] | Literal["auto"] = "auto"
    cache_bytes: Annotated[int, Field(ge=0, le=2**50)] = 2 * 1024**3

    @model_validator(mode="after")
    def _consistent(self) -> Compute:
        if len(self.devices) == 1:
            raise ValueError("devices: name at least two, or give the one as device")
        if self.devices and "device" in self.model_fields_set:
            raise ValueError("devices: give either device or devices")
        if len({device.partition(":")[0] for device in self.devices}) > 1:
            raise ValueError("devices: they must be of one kind, such as cuda:0 and cuda:1")
        gpus = [device for device in self.devices if device != "cpu"]
        if len(set(gpus)) != len(gpus):
            raise ValueError("devices: each GPU may appear once")
        return self

    def settings(self) -> Settings:
        """As the trainer takes them, with every device that is named found to be there.

        Raises:
            NotFound: When a device is not there.
        """
        import torch

        from client.learning.passes import CPU_TOKENS, GPU_TOKENS, Settings

        present = torch.cuda.device_count() if torch.cuda.is_available() else 0
        device = self.device
        if device == "auto":
            device = "cuda" if present else "cpu"
        used = self.devices or (device,)
        for name in used:
            if name != "cpu" and int(name.partition(":")[2] or 0) >= present:
                raise NotFound(
                    f"device {name} is not here: torch {torch.__version__} finds {present} GPUs",
                    fix='see `nvidia-smi`; set device = "cpu" or "auto" in compute.toml',
                )
        tokens = self.micro_batch_tokens
        if tokens == "auto":
            tokens = CPU_TOKENS if used[0] == "cpu" else GPU_TOKENS
        return Settings(
            engine=self.engine,
            device=device,
            devices=self.devices,
            precision=self.precision,
            micro_batch_tokens=tokens,
            cache_bytes=self.cache_bytes,
        )

    def in_words(self) -> str:
        """One line for people."""
        where = ", ".join(self.devices) or self.device
        tokens = self.micro_batch_tokens
        at_once = (
            "as many tokens as suit it" if tokens == "auto" else f"{count_of(tokens, 'token')}"
        )
        return (
            f"engine {self.engine} on {where}, {self.precision}, {at_once} "
            f"at once, {self.cache_bytes / 1024**2:.0f} MiB of frozen outputs kept"
        )


def read_compute(path: Path) -> Compute:
    """Read `compute.toml`; the defaults where there is none.

    Raises:
        MalformedInput: With the line or key that is wrong.
    """
    fix = f"correct {path.name}; without it the defaults hold"
    try:
        return load_toml(path, Compute, fix=fix, format_stated=True)
    except FileNotFoundError:
        return Compute()
