"""The processor that a report's numbers were measured on: its name, and how it multiplies 8-bit integers."""

import platform
from collections.abc import Mapping
from typing import Any


def describe_processor(capabilities: Mapping[str, Any] | None = None) -> str:
    """The processor's name and instructions for int8, in one line: "AMD EPYC (x86_64: AVX2, no AVX-512, no VNNI)".

    Without VNNI (x86) and dotprod (ARM), runtimes add 8-bit products in 16 bits, which can saturate.
    capabilities: what `torch.cpu.get_capabilities` says, which is asked where they are None.
    """
    if capabilities is None:
        import torch

        capabilities = torch.cpu.get_capabilities()
    has = capabilities.get
    instructions = {}
    if has("avx2") is not None:
        instructions = {
            "AVX2": has("avx2"),
            "AVX-512": has("avx512_f"),
            "VNNI": has("avx512_vnni") or has("avx_vnni"),
        }
    elif has("neon") is not None:
        instructions = {"dotprod": has("dot"), "i8mm": has("i8mm")}
    kind = has("architecture") or platform.machine()
    name = has("cpu_name") or platform.processor() or "processor without a name"
    able = ", ".join(instruction if there else f"no {instruction}" for instruction, there in instructions.items())
    return f"{name} ({kind}: {able})" if able else f"{name} ({kind})"
