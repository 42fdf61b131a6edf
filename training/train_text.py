"""Text stage: `python -m training.train_text --steps N`. Resumes from its checkpoint if there is one."""

import argparse
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.data import WORK
from training.model import Config, TextModel
from training.optimizer import Optimizers, schedule
from training.tokenizer import Tokenizer

BATCH_TOKENS = 6144
SMALLEST_BATCH = 4300  # smaller ones make inductor compile a second variant


class TextData:
    """Encoded samples in one flat array."""

    def __init__(self, path: Path) -> None:
        stored = np.load(path)
        self.ids, self.mask, self.lengths = stored["ids"], stored["mask"], stored["lengths"].astype(np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])

    def batches(self, seed: int, tokens: int = BATCH_TOKENS) -> Iterator[np.ndarray]:
        """Indices of samples of similar length, filled up to `tokens` padded tokens, forever."""
        rng = np.random.default_rng(seed)
        while True:
            order = rng.permutation(len(self.lengths))
            for chunk in np.array_split(order, max(1, len(order) // 4000)):
                groups = list(self._groups(chunk[np.argsort(self.lengths[chunk], kind="stable")], tokens))
                rng.shuffle(groups)
                yield from groups

    def _groups(self, chunk: np.ndarray, tokens: int) -> Iterator[np.ndarray]:
        start = 0
        for end in range(1, len(chunk) + 1):
            full = end == len(chunk) or (self.lengths[chunk[end]] + 7) // 8 * 8 * (end + 1 - start) > tokens
            if full:
                group = chunk[start:end]
                if self.lengths[group].max() * len(group) > min(SMALLEST_BATCH, 0.7 * tokens):
                    yield group
                start = end

    def collate(self, batch: np.ndarray) -> tuple[Tensor, Tensor]:
        """Padded ids and the mask of tokens to learn."""
        width = int(self.lengths[batch].max() + 7) // 8 * 8
        ids, mask = np.zeros((len(batch), width), np.int64), np.zeros((len(batch), width), bool)
        for row, sample in enumerate(batch):
            start, length = self.offsets[sample], self.lengths[sample]
            ids[row, :length] = self.ids[start : start + length]
            mask[row, :length] = self.mask[start : start + length]
        return torch.from_numpy(ids), torch.from_numpy(mask)


def loss_of(model: TextModel, hidden: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of the learnt tokens, weighted by the mask; `hidden` belongs to all rows but the last."""
    weights = mask[:, 1:].float()
    chosen = weights > 0
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.logits(hidden[chosen])
    losses = F.cross_entropy(logits.float(), ids[:, 1:][chosen], reduction="none")
    return (losses * weights[chosen]).sum() / weights.sum()


def save(path: Path, **parts: object) -> None:
    """Write to a neighbour first, so that a kill never leaves half a checkpoint."""
    torch.save(parts, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def train(options: argparse.Namespace) -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    config = Config(vocabulary=len(Tokenizer.load(WORK / "tokenizer.json")))
    model = TextModel(config).train()
    optimizers = Optimizers([model], muon=0.02, adam=3e-3)
    done = 0
    if options.out.exists():
        stored = torch.load(options.out)
        model.load_state_dict(stored["text"])
        done = stored["step"]
    data = TextData(options.data)
    batches = data.batches(seed=0)
    for _ in range(done):
        next(batches)

    def hidden(ids: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(model.embed(ids))

    compiled = torch.compile(hidden, dynamic=True)
    started, tokens, losses = time.time(), 0, []
    for step in range(done, options.steps):
        ids, mask = data.collate(next(batches))
        loss = loss_of(model, compiled(ids[:, :-1]), ids, mask)
        loss.backward()
        optimizers.step(schedule(step, options.steps, options.flat, options.last, done))
        tokens += ids.numel()
        losses.append(loss.item())
        if step % 50 == 49:
            rate = tokens / (time.time() - started)
            print(f"step {step + 1} loss {np.mean(losses[-50:]):.4f} tokens/s {rate:.0f}", flush=True)
        if step % 500 == 499 or step + 1 == options.steps:
            save(options.out, text=model.state_dict(), step=step + 1, config=asdict(config))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--data", type=Path, default=WORK / "text1.npz")
    parser.add_argument("--flat", type=float, default=0.6, help="share of the steps before the rate falls")
    parser.add_argument("--last", type=float, default=0.02, help="share of the learning rate left at the end")
    parser.add_argument("--out", type=Path, default=WORK / "text.pt")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
