"""Lets a torchvision that was built for CUDA be imported beside a torch for the CPU.

Its library of operators does not load there, so the two that its Python code describes further have no
schema, and the import fails. They get one just before. Python runs this file when it starts, if its folder
is on ``PYTHONPATH``.
"""

from __future__ import annotations

import sys
from typing import Any

SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class BeforeTorchvision:
    """A finder that finds nothing: it only notices who asks for torchvision."""

    library: Any = None  # has to live as long as its schemas

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name != "torchvision":
            return
        sys.meta_path.remove(self)
        import torch

        BeforeTorchvision.library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            BeforeTorchvision.library.define(operator + SCHEMA)


sys.meta_path.insert(0, BeforeTorchvision())
