"""Train the byte-level GPT-2 of ``examples/tiny-gpt2`` from scratch on a folder that ``python_corpus.py`` wrote.

The defaults are those of the published weights; they take about five minutes on one CPU core.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel

LENGTH = 128
BATCH = 16
WARMUP_STEPS = 200
WEIGHT_DECAY = 0.1
HELDOUT_WINDOWS = 2048
SEED = 0


def tiny_config() -> GPT2Config:
    """The architecture: a token is a byte, and there are no special tokens."""
    return GPT2Config(
        vocab_size=256,
        n_positions=LENGTH,
        n_embd=64,
        n_layer=3,
        n_head=2,
        n_inner=None,
        activation_function="gelu_new",
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
    )


def read_split(folder: Path) -> npt.NDArray[np.uint8]:
    """The bytes of all text files of one split, in the order of their names."""
    data = b"".join(path.read_bytes() for path in sorted(folder.glob("*.txt")))
    if len(data) <= LENGTH:
        raise ValueError(f"{folder}: {len(data)} bytes of *.txt; one window takes {LENGTH + 1}")
    return np.frombuffer(data, dtype=np.uint8)


def windows(data: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64]) -> torch.Tensor:
    """Windows of ``LENGTH + 1`` bytes: ``(len(starts), LENGTH + 1)`` token ids."""
    return torch.from_numpy(data[starts[:, None] + np.arange(LENGTH + 1)].astype(np.int64))


def window_loss(model: GPT2LMHeadModel, tokens: torch.Tensor) -> torch.Tensor:
    """Mean next-byte loss in nats, over all ``LENGTH`` positions of each window."""
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    return cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


@torch.no_grad()
def heldout_loss(model: GPT2LMHeadModel, data: npt.NDArray[np.uint8]) -> float:
    """Next-byte loss over windows spread evenly over the held-out bytes."""
    starts = np.linspace(0, len(data) - LENGTH - 1, HELDOUT_WINDOWS).astype(np.int64)
    batches = np.array_split(starts, HELDOUT_WINDOWS // 64)
    return float(np.mean([window_loss(model, windows(data, batch)).item() for batch in batches]))


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up to ``peak``, then a cosine to a hundredth of it."""
    if step < WARMUP_STEPS:
        return peak * (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return peak * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)


def make_optimizer(model: GPT2LMHeadModel) -> torch.optim.AdamW:
    """AdamW that decays matrices only; a bias or norm gain has no scale to hold back."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def train(corpus: Path, *, steps: int, peak: float) -> GPT2LMHeadModel:
    """Train from a fixed seed, printing the held-out loss now and then."""
    train_data, heldout_data = read_split(corpus / "train"), read_split(corpus / "heldout")
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    model = GPT2LMHeadModel(tiny_config())
    optimizer = make_optimizer(model)
    began = time.perf_counter()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        loss = window_loss(model, windows(train_data, rng.integers(0, len(train_data) - LENGTH, BATCH)))
        optimizer.zero_grad()
        torch.autograd.backward(loss)  # Tensor.backward has no types
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 1000 == 0 or step + 1 == steps:
            seconds = time.perf_counter() - began
            print(f"step {step + 1}: held-out loss {heldout_loss(model, heldout_data):.4f} nats/byte, {seconds:.0f} s")
    return model.eval()


def byte_characters() -> list[str]:
    """GPT-2's visible character for each byte: itself where it prints, else the next unused one from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def save_tokenizer(directory: Path) -> None:
    """Save a tokenizer whose ids are the UTF-8 bytes: GPT-2's byte-level alphabet in byte order, without merges."""
    vocab = {character: byte for byte, character in enumerate(byte_characters())}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(directory / "tokenizer.json"))
    # The generic class: GPT2Tokenizer would add an end-of-text token with id 256, which the model does not have.
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder that python_corpus.py wrote")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "tiny-gpt2", help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=6000, help="default: %(default)s")
    parser.add_argument("--learning-rate", type=float, default=8e-3, help="peak; default: %(default)s")
    args = parser.parse_args()
    # One thread: the model is too small to gain from more, and sums then always run in the same order.
    torch.set_num_threads(1)
    model = train(args.corpus, steps=args.steps, peak=args.learning_rate)
    model.save_pretrained(args.out)
    save_tokenizer(args.out)
    print(f"saved {sum(p.numel() for p in model.parameters())} parameters")


if __name__ == "__main__":
    main()
