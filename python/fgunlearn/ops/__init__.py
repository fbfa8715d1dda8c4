"""The compiled operations, one module each: schema in C++, fake and autograd here, and a plain-PyTorch ``_ref``.

A ``*_ref`` function is the specification of its op: tests hold the kernels to it.
"""

from fgunlearn import _library

BUILD_INFO = _library.load()

from fgunlearn.ops.select import randomk_select, topk_select, topk_select_each  # noqa: E402

__all__ = ["BUILD_INFO", "randomk_select", "topk_select", "topk_select_each"]
