from __future__ import annotations

import pytest

from pipeline.errors import DeviceError
from pipeline.transfer.devices import cpu_dtype, list_devices, plan_device


def test_devices():
    assert list_devices()[-1].device == "cpu"
    assert plan_device("auto") == list_devices()[0]
    assert plan_device("cpu").dtype in {"float32", "bfloat16"}
    assert cpu_dtype("flags : fpu avx512_bf16 amx_tile") == "bfloat16"
    assert cpu_dtype("flags : fpu avx512f") == cpu_dtype("") == "float32"
    with pytest.raises(DeviceError, match="no device 'cuda:77'") as caught:
        plan_device("cuda:77")
    assert "cpu" in caught.value.next_step
