"""Draws the pictures for the vision stage: `python -m training.render_pictures --count N --seed S`."""

import argparse
import pickle

import numpy as np

from training.data import WORK
from training.draw import Draw
from training.pictures import SIZE, cell_labels, letterbox, render, scene


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=64_000)
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    draw = Draw(options.seed)
    scenes = [scene(draw) for _ in range(options.count)]
    pixels = np.zeros((options.count, 3, SIZE, SIZE), np.uint8)
    for i, made in enumerate(scenes):
        pixels[i] = np.asarray(letterbox(render(made))).transpose(2, 0, 1)
    np.save(WORK / "pictures.npy", pixels)
    labels = np.array([cell_labels(made) for made in scenes], np.int8)
    (WORK / "pictures.pkl").write_bytes(pickle.dumps((scenes, labels)))


if __name__ == "__main__":
    main()
