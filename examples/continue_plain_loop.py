"""Train a grown language model on, in a plain PyTorch loop.

After ``make demo``: ``.venv/bin/python examples/continue_plain_loop.py``. ``--grown`` takes any causal language model
that ``ligo grow`` wrote, ``--data`` any folder with ``train/*.txt`` and ``heldout/*.txt``.
"""

import argparse
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from grown_optimizer import grown_adamw, schedule
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer


def read_tokens(folder: Path, tokenizer: Any, length: int) -> torch.Tensor:
    """The token ids of all text files of a folder, one after the other."""
    texts = [path.read_text("utf-8") for path in sorted(folder.glob("*.txt"))]
    lines = [line for text in texts for line in text.splitlines(keepends=True)]
    tokens = list(chain(*tokenizer(lines, add_special_tokens=False)["input_ids"])) if lines else []
    if len(tokens) < length:
        remedy = f"python examples/python_corpus.py {folder.parent} writes some"
        raise SystemExit(f"{folder}/*.txt: {len(tokens)} tokens, a window takes {length}; {remedy}")
    return torch.tensor(tokens)


def windows(tokens: torch.Tensor, starts: torch.Tensor, length: int) -> torch.Tensor:
    """Windows of ``length`` tokens: ``(len(starts), length)``. They are their own labels; the model shifts those."""
    return tokens[starts[:, None] + torch.arange(length)]


def spread(tokens: torch.Tensor, length: int, count: int = 64) -> torch.Tensor:
    """``count`` windows at even distances: ``(count, length)``."""
    return windows(tokens, torch.linspace(0, len(tokens) - length, count).long(), length)


@torch.no_grad()
def mean_loss(model: Any, held: torch.Tensor) -> float:
    """The loss over all windows of ``held``, in nats a token."""
    model.eval()
    parts = torch.split(held.to(model.device), 32)
    total = sum(float(model(input_ids=part, labels=part).loss) * len(part) for part in parts)
    model.train()
    return total / len(held)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What both examples can be told."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grown", type=Path, default=Path("out/demo/grown"), help="default: %(default)s")
    parser.add_argument("--data", type=Path, default=Path("out/demo/corpus"), help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("out/continued"), help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--warmup", type=int, default=20, help="steps; default: %(default)s")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="peak; default: %(default)s")
    parser.add_argument("--weight-decay", type=float, default=0.1, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=16, help="default: %(default)s")
    parser.add_argument("--seq-len", type=int, default=128, help="tokens; default: %(default)s")
    return parser


def load(args: argparse.Namespace) -> tuple[Any, Any, torch.Tensor, torch.Tensor]:
    """The grown model, its tokenizer, the tokens to train on, and the held-out windows."""
    if not (args.grown / "param_groups.json").exists():
        raise SystemExit(f"{args.grown}: no param_groups.json there; make demo, or ligo grow PLAN, writes one")
    tokenizer = AutoTokenizer.from_pretrained(args.grown)
    # In float32 whatever the file has: in bfloat16, small updates are lost in the rounding of the weights.
    model = AutoModelForCausalLM.from_pretrained(args.grown, dtype=torch.float32)
    tokens, held = (read_tokens(args.data / part, tokenizer, args.seq_len) for part in ("train", "heldout"))
    return model, tokenizer, tokens, spread(held, args.seq_len)


def main() -> None:
    args = arguments(__doc__).parse_args()
    torch.manual_seed(0)
    model, tokenizer, tokens, held = load(args)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    optimizer = grown_adamw(model, args.grown, args.learning_rate, args.weight_decay)
    scheduler = schedule(optimizer, args.steps, args.warmup)
    print(f"held-out loss before: {mean_loss(model, held):.4f} nats a token")

    bar = tqdm(range(args.steps), unit="step")
    for step in bar:
        starts = torch.randint(len(tokens) - args.seq_len + 1, (args.batch_size,))
        batch = windows(tokens, starts, args.seq_len).to(model.device)
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if (step + 1) % max(1, args.steps // 10) == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}", heldout=f"{mean_loss(model, held):.4f}")
    print(f"held-out loss after {args.steps} steps: {mean_loss(model, held):.4f} nats a token")

    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    torch.save(optimizer.state_dict(), args.out / "optimizer.pt")  # it names its parameters, so it can be grown again
    print(f"saved: {args.out}")


if __name__ == "__main__":
    main()
