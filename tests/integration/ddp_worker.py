"""One of two processes that train together; started by test_torch.py with its rank, a folder and free_grads."""

from __future__ import annotations

import faulthandler
import os
import sys
import traceback
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import fgunlearn as fg


def main(rank: int, folder: Path, free_grads: bool) -> DistributedDataParallel:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.set_num_threads(1)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
    x = torch.randn(256, 6, generator=torch.Generator().manual_seed(0))
    y = x[:, :3].argmax(1)
    selection = fg.select(model, [], None, fg.RandomK(0.5))
    optimizer = fg.SparseOptimizer(torch.optim.AdamW(model.parameters(), lr=0.01), selection, free_grads=free_grads)
    parallel = DistributedDataParallel(model)
    with fg.no_drift(model, selection):
        for _ in range(5):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(parallel(x[rank::2]), y[rank::2])
            if free_grads:
                try:
                    loss.backward()
                    optimizer.step()
                except (RuntimeError, NotImplementedError, TypeError) as error:
                    print("refused:", str(error)[:300])
                    return parallel
                raise AssertionError("free_grads went through DistributedDataParallel")
            loss.backward()
            fg.clip_grad_norm_(optimizer, 0.5)
            optimizer.step()
    torch.save(model.state_dict(), folder / f"{rank}.pt")
    return parallel


if __name__ == "__main__":
    faulthandler.dump_traceback_later(240, exit=True)
    status = 1
    try:
        kept = main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "1")
        status = 0
    except Exception:
        traceback.print_exc()
    finally:
        # Not by way of the destructors: gloo's can wait for a thread that waits for the interpreter's lock.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
