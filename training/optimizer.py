"""Muon for matrices, AdamW for the rest, one step-based schedule for both."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from training.team import Team

NOT_MATRICES = ("embedding", "position", "patch", "heads")
ALONE = Team()


def orthogonal(gradient: Tensor) -> Tensor:
    """Five Newton-Schulz steps towards the nearest orthogonal matrix."""
    x = gradient.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return (x.T if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Momentum 0.95 (Nesterov), decoupled weight decay 0.05."""

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for weight in (weight for weight in group["params"] if weight.grad is not None):
                momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                momentum.lerp_(weight.grad, 0.05)
                update = orthogonal(weight.grad.lerp(momentum, 0.95))
                weight.mul_(1 - group["lr"] * 0.05)
                weight.add_(update, alpha=-group["lr"] * max(1, weight.shape[0] / weight.shape[1]) ** 0.5)


class Optimizers:
    """Both optimizers of some modules, with a shared multiplier on their learning rates."""

    def __init__(self, modules: list[nn.Module], muon: float, adam: float, team: Team = ALONE) -> None:
        named = [item for module in modules for item in module.named_parameters()]
        self.team = team
        self.weights = [weight for _, weight in named]
        self.matrices = [w for n, w in named if w.ndim == 2 and not any(part in n for part in NOT_MATRICES)]
        chosen = {id(weight) for weight in self.matrices}
        rest = [weight for weight in self.weights if id(weight) not in chosen]
        self.parts = [
            (Muon(team.share(self.matrices), muon), muon),
            (torch.optim.AdamW(rest, lr=adam, betas=(0.9, 0.98), weight_decay=0.0, fused=True), adam),
        ]

    @torch.no_grad()
    def step(self, multiplier: float) -> None:
        self.team.average([weight.grad for weight in self.weights if weight.grad is not None])
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        for optimizer, rate in self.parts:
            for group in optimizer.param_groups:
                group["lr"] = rate * multiplier
            optimizer.step()
        self.team.hand_round(self.matrices)
        for weight in self.weights:
            weight.grad = None


def schedule(step: int, steps: int, flat: float, last: float, start: int = 0) -> float:
    """Warm-up (50 steps; 15 after a restart), flat until the share `flat`, then linear down to `last`."""
    left = (1 - step / steps) / max(1 - flat, 1e-9)
    return min(1.0, (step - start + 1) / (15 if start else 50)) * (last + (1 - last) * min(1.0, left))
