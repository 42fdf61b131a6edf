"""Accuracy of the exported files through llama.cpp: `python -m training.measure FOLDER`. Greedy."""

import argparse
import base64
import io
import json
import time
from pathlib import Path

from llama_cpp import Llama
from llama_cpp.llama_chat_format import MTMDChatHandler
from PIL import Image

from training.evaluate import IMAGE_JOBS, JOBS, Item, items

GREEDY = {
    "temperature": 0.0,
    "top_k": 1,
    "top_p": 1.0,
    "min_p": 0.0,
    "repeat_penalty": 1.0,
    "max_tokens": 160,
}


def load(folder: Path, threads: int) -> tuple[Llama, Llama]:
    """One model for text, one with the image tower."""
    common = {"n_ctx": 2048, "n_threads": threads, "n_threads_batch": threads, "verbose": False, "seed": 1}
    handler = MTMDChatHandler(clip_model_path=str(folder / "mmproj.gguf"), verbose=False)
    path = str(folder / "starter.gguf")
    return Llama(path, **common), Llama(path, chat_handler=handler, **common)


def image_part(image: Image.Image) -> dict:
    """An OpenAI image part with a PNG data URI."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    uri = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": uri}}


def ask(text_model: Llama, picture_model: Llama, item: Item) -> str:
    """The model's reply to one item. Code goes in as a plain prompt with the infill tokens written out."""
    if item.form == "chat":
        model = picture_model if item.images else text_model
        messages = item.content([image_part(image) for image in item.images])
        return model.create_chat_completion(messages, **GREEDY)["choices"][0]["message"]["content"] or ""
    prompt = item.prefix
    if item.form == "infill":
        prompt = f"<|fim_prefix|>{item.prefix}<|fim_suffix|>{item.suffix}<|fim_middle|>"
    return text_model.create_completion(prompt, **GREEDY)["choices"][0]["text"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=4242)
    parser.add_argument("--jobs", default="", help="comma-separated; default: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--text-only", action="store_true")
    parser.add_argument("--failures", type=Path, help="write wrong replies to this JSON file")
    options = parser.parse_args()
    jobs = options.jobs.split(",") if options.jobs else JOBS
    if options.text_only:
        jobs = [job for job in jobs if job not in IMAGE_JOBS]
        text_model = Llama(str(options.folder / "starter.gguf"), n_ctx=2048, n_threads=options.threads, verbose=False)
        models = (text_model, text_model)
    else:
        models = load(options.folder, options.threads)
    failures = []
    for job in jobs:
        right, started = 0, time.time()
        for item in items(job, options.count, options.seed):
            reply = ask(*models, item)
            good = item.check(reply)
            right += good
            if not good:
                failures.append([job, item.messages or [item.prefix, item.suffix], item.reference, reply])
        seconds = time.time() - started
        print(f"{job:20s} {right}/{options.count} {right / options.count:.3f}  {seconds:.0f} s", flush=True)
    if options.failures:
        options.failures.write_text(json.dumps(failures, indent=0), "utf-8")


if __name__ == "__main__":
    main()
