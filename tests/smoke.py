"""One pass over the compiled ops, in whatever torch is installed: run as a script, not collected by pytest.

It fails when the library was not built against another torch than the one it runs in, unless --same-torch is given:
its purpose is to show that one build serves several versions.
"""

import sys

import torch
from torch import nn

import fgunlearn as fg


def main() -> None:
    info = fg.build_info()
    print(f"built with torch {info['torch_build']}, running in torch {torch.__version__}")
    if "--same-torch" not in sys.argv:
        assert torch.__version__.split("+")[0] != info["torch_build"], "this is the torch it was built with"

    if info["cuda"] and torch.version.cuda is not None:
        assert info["cuda_library"] is not None, info["cuda_error"]
        ops = [
            name.partition("::")[2] for name in torch._C._dispatch_get_all_op_names() if name.startswith("fgunlearn::")
        ]
        for op in ops:
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fgunlearn::{op}", "CUDA"), (
                f"{op} has no CUDA kernel"
            )
        print(f"libfgunlearn_cuda loaded; CUDA kernels of {len(ops)} ops registered (not run: that needs a GPU)")

    values = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    chosen = fg.topk([values], k=2_000)
    expected = values.abs().topk(2_000).indices.sort().values
    assert torch.equal(chosen.indices[0].long(), expected)
    assert fg.randomk([values], k=77, seed=1).k == 77

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    batches = [(torch.randn(32, 8), torch.randint(0, 3, (32,))) for _ in range(4)]
    before = [p.detach().clone() for p in model.parameters()]
    result = fg.unlearn(
        model,
        batches[:1],
        batches[1:],
        strategy=fg.TopK(ratio=0.2),
        perturb=fg.Gaussian(std=0.5, seed=0),
        repair=fg.Repair(epochs=1),
    )
    moved = 0
    for was, now, mask in zip(before, model.parameters(), result.selection.masks(), strict=True):
        assert torch.equal(was[~mask], now.detach()[~mask]), "a coordinate outside the selection moved"
        moved += int((was != now.detach()).sum())
    assert moved > 0
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
