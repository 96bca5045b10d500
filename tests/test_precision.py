"""Where bf16 is native."""

import os
import subprocess
import sys

import pytest
import torch

from guidebook.runtime.precision import native_bf16


@pytest.fixture(autouse=True)
def full(monkeypatch):
    """A CPU with bf16, nothing of which is hidden."""
    for name in ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)


@pytest.mark.parametrize(("bf16", "amx", "expected"), [(False, False, False), (True, False, True), (False, True, True)])
def test_a_cpu_has_bf16_by_its_instructions(monkeypatch, bf16, amx, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert native_bf16("cpu") == expected


@pytest.mark.parametrize("native", [False, True])
def test_a_gpu_has_bf16_where_it_does_not_emulate_it(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    assert native_bf16() == native


@pytest.mark.parametrize(
    ("isa", "expected"), [("AVX2", False), ("AVX512_CORE_VNNI", False), ("AVX512_CORE_BF16", True)]
)
def test_instructions_hidden_from_onednn_do_not_count(monkeypatch, isa, expected):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    assert native_bf16("cpu") == expected


def test_instructions_hidden_from_torch_do_not_count():
    words = [sys.executable, "-c", "from guidebook.runtime.precision import native_bf16; print(native_bf16('cpu'))"]
    env = os.environ | {"ATEN_CPU_CAPABILITY": "avx2"}
    assert subprocess.run(words, env=env, capture_output=True, text=True, check=True).stdout == "False\n"
