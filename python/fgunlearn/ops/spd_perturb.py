import torch


def spd_perturb(x, g, *, eps, norm=None, radius=1.0, lo=0.0, hi=1.0, outside="clamp"):
    d = eps * torch.tanh(g)
    if norm in ("l2", "linf"):
        f = d.flatten(1)
        n = f.norm(dim=1) if norm == "l2" else f.abs().amax(1)
        d = d * (radius / n.clamp_min(1e-12)).clamp_max(1.0).reshape(-1, *[1] * (d.dim() - 1))
    return (x + d).clamp(lo, hi)
