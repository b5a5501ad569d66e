"""Train a grown language model on, with Transformers' Trainer.

After ``make demo``: ``.venv/bin/python examples/continue_with_trainer.py``. ``--grown`` takes any causal language model
that ``ligo grow`` wrote, ``--data`` any folder with ``train/*.txt`` and ``heldout/*.txt``. Which way to go on:

  as it is   A new schedule over the groups of param_groups.json, each with its rate. What the growth made new warms
             up; what has Adam's grown state (`optimizer:` in the plan) goes on with it. Choose this in general.
  --resume   The small run goes on, as if nothing had happened: its step count, its rates, the Trainer's two groups.
             Choose this in mid-training, when the growth keeps the function, and put the small run's own
             TrainingArguments below. It needs optimizer.pt, scheduler.pt and trainer_state.json, which come with a
             growth of one of the Trainer's checkpoint-N. Rates, decay, and how often to log and to evaluate are theirs.
"""

import json
from pathlib import Path
from typing import Any

import torch
from continue_plain_loop import arguments, load
from grown_optimizer import grown_adamw, schedule
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, default_data_collator

RESUMED = ("optimizer.pt", "scheduler.pt", "trainer_state.json")


class Windows(Dataset[dict[str, torch.Tensor]]):
    """Windows of tokens, one beside the other, as the Trainer wants its examples."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        labels = self.rows[index].clone()
        labels[0] = -100  # nothing predicts the first, and the Trainer divides by the number of labels
        return {"input_ids": self.rows[index], "labels": labels}


class GrownTrainer(Trainer):  # type: ignore[misc]  # Transformers has no types
    """A Trainer whose optimizer knows what was grown. It makes it after it has moved the model."""

    optimizer: torch.optim.Optimizer | None
    lr_scheduler: torch.optim.lr_scheduler.LRScheduler | None

    def __init__(self, grown: Path, **options: Any) -> None:
        super().__init__(**options)
        self.grown = grown

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW over the groups of ``param_groups.json``."""
        if self.optimizer is None:
            rates = self.args.learning_rate, self.args.weight_decay
            self.optimizer = grown_adamw(self.model if model is None else model, self.grown, *rates)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> torch.optim.lr_scheduler.LRScheduler:
        """A warm-up of the groups that need one, and a cosine."""
        if self.lr_scheduler is None:
            warmup = self.args.get_warmup_steps(num_training_steps)
            self.lr_scheduler = schedule(optimizer or self.create_optimizer(), num_training_steps, warmup)
        return self.lr_scheduler


def steps_done(grown: Path) -> int:
    """How many steps the small run had made."""
    missing = [name for name in RESUMED if not (grown / name).exists()]
    if missing:
        raise SystemExit(f"{grown}: --resume needs {', '.join(missing)}; run without it for a new schedule")
    return int(json.loads((grown / "trainer_state.json").read_text("utf-8"))["global_step"])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--resume", action="store_true", help="go on with the small run's schedule")
    args = parser.parse_args()
    done = steps_done(args.grown) if args.resume else 0
    model, tokenizer, tokens, held = load(args)
    whole = len(tokens) // args.seq_len * args.seq_len
    settings = TrainingArguments(
        output_dir=str(args.out),
        max_steps=done + args.steps,
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        warmup_steps=args.warmup,
        lr_scheduler_type="cosine",  # of --resume; the other way has its own schedule
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=32,
        eval_strategy="steps",
        eval_steps=max(1, args.steps // 10),
        logging_steps=max(1, args.steps // 10),
        save_strategy="no",
        report_to="none",
        disable_tqdm=False,
        dataloader_pin_memory=torch.cuda.is_available(),  # else it warns
        seed=0,
    )
    data = {"train_dataset": Windows(tokens[:whole].view(-1, args.seq_len)), "eval_dataset": Windows(held)}
    common = {"model": model, "args": settings, "processing_class": tokenizer, "data_collator": default_data_collator}
    trainer = Trainer(**common, **data) if args.resume else GrownTrainer(args.grown, **common, **data)
    print(f"held-out loss before: {trainer.evaluate()['eval_loss']:.4f} nats a token")
    trainer.train(resume_from_checkpoint=str(args.grown) if args.resume else None)
    print(f"held-out loss after {args.steps} steps: {trainer.evaluate()['eval_loss']:.4f} nats a token")
    trainer.save_model()
    print(f"saved: {args.out}")


if __name__ == "__main__":
    main()
