"""Precision of floating-point arithmetic: fp32 that is fp32 on every device, and where bf16 is native."""

import functools
import os

import torch

# On a GPU, cuDNN convolves float32 in TF32, which keeps 10 bits, by algorithms that may differ from call to call: a number would
# depend on the kind of device, and not be the same when measured again. Around a block, or `@exact()` around a function.
exact = functools.partial(torch.backends.cudnn.flags, enabled=True, deterministic=True, allow_tf32=False)


def native_bf16(device: str | None = None) -> bool:
    """A check that a kind of device, by default the one that runs use here, computes in bf16 natively.

    A CPU that does not is about 8 times slower in bf16 than in fp32.
    """
    gpu = torch.cuda.is_available()
    if (device or ("cuda" if gpu else "cpu")) != "cpu":
        return not gpu or torch.cuda.is_bf16_supported(including_emulation=False)
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()  # instructions may be hidden from either library
    shown = any(word in limit for word in ("ALL", "DEFAULT", "BF16", "FP16", "AMX", "AVX10"))
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return shown and wide and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
