"""Vision stage: `python -m training.train_vision --steps N`, from the text stage's checkpoint.

Every step learns from one batch of picture conversations and one of text, so no text job is lost.
Throw-away heads predict shape, colour and character in each of the 16 pooled cells: the image tower has
features within minutes.
"""

import argparse
import itertools
import pickle
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training import words
from training.data import WORK
from training.draw import Draw
from training.memory import other_turn
from training.model import Config, TextModel, VisionModel
from training.optimizer import Optimizers, schedule
from training.picture_tasks import Turn, both, question
from training.pictures import CHARACTERS, RGB, SHAPES, Scene
from training.team import Team, run
from training.tokenizer import Encoded, Tokenizer
from training.train_text import TextData, loss_of, save

LONGEST = 128  # tokens; longer conversations lose their last turns, because all are padded to the longest
HEAD_SHARE = 0.5
EMPTY = 0.1  # weight of a cell without a shape or a character
AVERAGE = 0.01  # share of the newest weights in the running average


class Pictures:
    """Rendered pictures with their scenes."""

    def __init__(self) -> None:
        self.pixels = np.load(WORK / "pictures.npy", mmap_mode="r")
        self.scenes, self.labels = pickle.loads((WORK / "pictures.pkl").read_bytes())
        self.written = [i for i, scene in enumerate(self.scenes) if scene.text]
        self.lone = [i for i, scene in enumerate(self.scenes) if len(scene.things) == 1]
        self.alike: dict[str, list[int]] = defaultdict(list)
        for i in self.lone:
            thing = self.scenes[i].things[0]
            for key in (thing.colour, thing.shape):
                self.alike[key].append(i)

    def load(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Pixels in -1..1 and cell labels."""
        pixels = torch.from_numpy(self.pixels[indices].astype(np.float32)) / 127.5 - 1
        return pixels, torch.from_numpy(self.labels[indices].astype(np.int64))

    def single(self, draw: Draw) -> int:
        """One picture; numbers and words, which are harder to learn, come more often than they were drawn."""
        return draw.one(self.written) if draw.chance(0.2) else draw.number(0, len(self.scenes) - 1)

    def pair(self, draw: Draw) -> tuple[int, int]:
        """Two pictures; lone shapes are often alike in colour or in shape, to balance "the same?"."""
        if draw.chance(0.25):
            return draw.number(0, len(self.scenes) - 1), draw.number(0, len(self.scenes) - 1)
        first = draw.one(self.lone)
        thing = self.scenes[first].things[0]
        roll = draw.random.random()
        pool = self.alike[thing.colour] if roll < 0.35 else self.alike[thing.shape] if roll < 0.5 else self.lone
        return first, draw.one(pool)


class Heads(nn.Module):
    """Predict the shape, the colour and the character in each cell; not exported."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = (len(SHAPES) + 1, len(RGB) + 1, len(CHARACTERS) + 1)
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in sizes)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        cells, wanted = features.float().flatten(0, 1), labels.reshape(-1, 3)
        losses = []
        for i, head in enumerate(self.heads):
            weight = torch.ones(head.out_features)
            weight[0] = EMPTY
            losses.append(F.cross_entropy(head(cells), wanted[:, i], weight))
        return torch.stack(losses).sum()


def conversation(draw: Draw, tokenizer: Tokenizer, scenes: list[Scene], config: Config) -> Encoded:
    """One to three questions about the pictures, now and then a turn about something else."""
    turns: list[Turn] = [
        both(draw, (scenes[0], scenes[1])) if len(scenes) == 2 else question(draw, scenes[0])
        for _ in range(draw.one([1, 2, 3, 3]))
    ]
    if draw.chance(0.08):
        turns.insert(draw.number(1, len(turns)), other_turn(draw))
    system = draw.one(words.SYSTEMS) if draw.chance(0.12) else ""
    last = draw.chance(0.1)
    while True:
        encoded = tokenizer.chat(turns, system, images=len(scenes), image_tokens=config.image_tokens, images_last=last)
        if len(encoded.ids) <= LONGEST or len(turns) == 1:
            return encoded
        turns.pop()


def turn_weights(mask: list[int]) -> list[float]:
    """Every reply weighs about the same: a "Yes." must not drown in long descriptions."""
    weights: list[float] = []
    for learnt, tokens in itertools.groupby(mask):
        length = len(list(tokens))
        weights += [length**-0.8 if learnt else 0.0] * length
    return weights


def picture_batch(
    draw: Draw, pictures: Pictures, tokenizer: Tokenizer, config: Config, sizes: tuple[int, int]
) -> tuple[list[int], Tensor, Tensor, Tensor]:
    """Pictures, ids, learnt mask, and for every position the number of its image (0: text).

    `sizes`: how many conversations with one picture and with two.
    """
    chosen = [[pictures.single(draw)] for _ in range(sizes[0])]
    chosen += [list(pictures.pair(draw)) for _ in range(sizes[1])]
    draw.random.shuffle(chosen)
    encoded = [conversation(draw, tokenizer, [pictures.scenes[i] for i in row], config) for row in chosen]
    width = (max(len(sample.ids) for sample in encoded) + 7) // 8 * 8
    ids = np.zeros((len(encoded), width), np.int64)
    mask, images = np.zeros(ids.shape, np.float32), np.zeros(ids.shape, np.int64)
    for row, sample in enumerate(encoded):
        ids[row, : len(sample.ids)] = sample.ids
        mask[row, : len(sample.ids)] = turn_weights(sample.mask)
        for number, start in enumerate(sample.images, 1):
            images[row, start : start + config.image_tokens] = number
    return (
        [i for row in chosen for i in row],
        torch.from_numpy(ids),
        torch.from_numpy(mask),
        torch.from_numpy(images),
    )


def attention_mask(images: Tensor) -> Tensor:
    """Causal, but the rows of one image see each other both ways, as in llama.cpp."""
    length = images.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = (images[:, :, None] == images[:, None, :]) & (images > 0)[:, :, None]
    return (causal | same)[:, None]


def with_images(embedded: Tensor, images: Tensor, rows: Tensor) -> Tensor:
    """Image rows take the places of the soft tokens, in order; they are not scaled."""
    return embedded.masked_scatter((images > 0)[:, :, None], rows.float().reshape(-1, rows.shape[-1]))


class Joint:
    """Both models, their data and one training step."""

    def __init__(self, team: Team, options: argparse.Namespace) -> None:
        stored = torch.load(options.start)
        self.options = options
        self.config = Config(**stored["config"])
        self.text, self.vision = TextModel(self.config).train(), VisionModel(self.config).train()
        ending = "_average" if options.averaged else ""
        self.text.load_state_dict(stored[f"text{ending}"])
        if "vision" in stored:
            self.vision.load_state_dict(stored[f"vision{ending}"])
        self.heads = Heads(self.config.vision_width)
        self.tokenizer = Tokenizer.load(WORK / "tokenizer.json")
        self.pictures, self.draw = Pictures(), Draw(options.seed + team.rank)
        self.data = TextData(options.data)
        self.optimizers = Optimizers(
            [self.text, self.vision, self.heads], muon=options.rate, adam=options.rate * 0.15, team=team
        )
        self.averages = [weight.detach().clone() for weight in self.optimizers.weights]
        self.see = torch.compile(self._see)
        self.read = torch.compile(self._read, dynamic=True)

    def _see(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return self.vision(pixels)

    def _read(self, rows: Tensor, mask: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.text(rows, mask)

    def picture_loss(self) -> Tensor:
        chosen, ids, mask, images = picture_batch(
            self.draw, self.pictures, self.tokenizer, self.config, (self.options.one, self.options.two)
        )
        pixels, labels = self.pictures.load(chosen)
        features, rows = self.see(pixels)
        hidden = self.read(with_images(self.text.embed(ids), images, rows), attention_mask(images))
        return loss_of(self.text, hidden[:, :-1], ids, mask) + HEAD_SHARE * self.heads.loss(features, labels)

    def text_loss(self, batch: np.ndarray) -> Tensor:
        ids, mask = self.data.collate(batch)
        hidden = self.read(self.text.embed(ids), attention_mask(torch.zeros_like(ids)))
        return loss_of(self.text, hidden[:, :-1], ids, mask)

    def batches(self, seed: int) -> Iterator[np.ndarray]:
        return self.data.batches(seed, self.options.text_tokens)

    def update_average(self) -> None:
        """The running average stands in for the rest of the schedule when a run is exported early."""
        torch._foreach_lerp_(self.averages, [weight.detach() for weight in self.optimizers.weights], AVERAGE)

    def save(self, path: Path, step: int) -> None:
        parts = {"text": self.text, "vision": self.vision}
        averages = iter(self.averages)
        averaged = {
            f"{key}_average": {name: next(averages) for name, _ in part.named_parameters()}
            for key, part in parts.items()
        }
        states = {key: part.state_dict() for key, part in parts.items()}
        save(path, **states, **averaged, config=asdict(self.config), step=step)

    def restore(self, path: Path) -> int:
        """Continue a run that was cut off; returns its step."""
        stored = torch.load(path)
        self.text.load_state_dict(stored["text"])
        self.vision.load_state_dict(stored["vision"])
        kept = [*stored["text_average"].values(), *stored["vision_average"].values()]
        self.averages[: len(kept)] = kept
        return stored["step"]


def planned_steps(options: argparse.Namespace) -> int:
    """The plan may be changed while it runs: a number in the file beside the checkpoint, ending in .steps."""
    plan = options.out.with_suffix(".steps")
    return int(plan.read_text()) if plan.exists() else options.steps


def train_joint(team: Team, options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    joint, done = Joint(team, options), 0
    if options.out.exists():
        done = joint.restore(options.out)
        joint.draw = Draw(options.seed + team.rank + 10 * done)
    batches = itertools.islice(joint.batches(options.seed + team.rank), done, None)
    started, losses = time.time(), []
    for step in itertools.count(done):
        steps = team.agree(planned_steps(options))
        if step >= steps:
            break
        pair = []
        for make in (joint.picture_loss, lambda: joint.text_loss(next(batches))):
            loss = make()
            loss.backward()
            pair.append(loss.item())
        joint.optimizers.step(schedule(step, steps, options.flat, 0.01, done))
        joint.update_average()
        losses.append(pair)
        if step % 25 == 24 and not team.rank:
            picture, text = np.mean(losses[-25:], axis=0)
            seconds = (time.time() - started) / (step + 1 - done)
            print(
                f"step {step + 1} picture {picture:.4f} text {text:.4f} seconds/step {seconds:.2f}",
                flush=True,
            )
        if (step % 50 == 49 or step + 1 == steps) and not team.rank:
            joint.save(options.out, step + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument(
        "--start", type=Path, default=WORK / "text.pt", help="checkpoint that joint training starts from"
    )
    parser.add_argument("--averaged", action="store_true", help="start from its running average")
    parser.add_argument("--data", type=Path, default=WORK / "text1.npz", help="text for joint training")
    parser.add_argument("--out", type=Path, default=WORK / "joint.pt")
    parser.add_argument("--rate", type=float, default=0.01, help="learning rate of Muon; AdamW takes 0.15 of it")
    parser.add_argument("--flat", type=float, default=0.4, help="share of the steps before the rate falls")
    parser.add_argument("--one", type=int, default=20, help="conversations with one picture, per batch and process")
    parser.add_argument("--two", type=int, default=12, help="conversations with two pictures")
    parser.add_argument("--text-tokens", type=int, default=2600, help="of text, per batch and process")
    parser.add_argument("--threads", type=int, default=1, help="per process")
    parser.add_argument("--processes", type=int, default=2, help="of joint training")
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args()
    run(options.processes, WORK / "meeting", train_joint, options)


if __name__ == "__main__":
    main()
