"""The bytes of a tensor as a buffer, without a copy and without numpy.

Must never be handed a tensor that is not contiguous or not on the CPU. The view keeps the tensor
alive. Bytes are little-endian; a machine that is not is refused at import.
"""

from __future__ import annotations

import ctypes
import sys

from torch import Tensor

assert sys.byteorder == "little", "payloads and digests are defined over little-endian bytes"


def byte_view(tensor: Tensor) -> memoryview:
    """A writable view of the tensor's bytes."""
    assert tensor.is_contiguous() and tensor.device.type == "cpu", "needs contiguous CPU memory"
    num_bytes = tensor.numel() * tensor.element_size()
    if num_bytes == 0:
        return memoryview(b"")
    array = (ctypes.c_ubyte * num_bytes).from_address(tensor.data_ptr())
    array.owner = tensor  # type: ignore[attr-defined]  # the memory lives as long as the view
    return memoryview(array).cast("B")
