"""The character model against its PyTorch twin and against counting: losses, bits, text.

    python tests/bench/torch_twin.py [--steps 100] [--full] [--json FILE]

First, in float64: weights copied, the same batches, the losses of 100 updates equal to 1e-9.
With --full, in float32 and the default settings: the whole training on both sides, validation bits
per character within 0.3 %, below an interpolated order-3 Witten-Bell model on the same split, and
2,000 characters at temperature 0.7: 75 % of the words known, no piece of 60 characters copied.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import platform
import re
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "backends")]

import numpy as np  # noqa: E402
import torch  # noqa: E402

import minigrad as mg  # noqa: E402
from minigrad_rnn import text  # noqa: E402
from minigrad_rnn.language import generate  # noqa: E402
from minigrad_rnn.session import EPOCHS, Session, Settings, threads  # noqa: E402
from tests.oracles.witten_bell import WittenBell  # noqa: E402


class Twin(torch.nn.Module):
    """The same model of torch's own parts, with the weights of ours."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        settings, V = session.settings, len(session.vocabulary)
        dtype = getattr(torch, str(mg.default_dtype()))
        H = settings.hidden
        self.embedding = torch.nn.Embedding(V, H, dtype=dtype)
        self.lstm = torch.nn.LSTM(H, H, settings.layers, dtype=dtype)
        self.readout = torch.nn.Linear(H, V, dtype=dtype)
        ours = {name: t.numpy() for name, t in session.model.state_dict().items()}
        with torch.no_grad():
            self.embedding.weight.copy_(torch.tensor(ours["embedding.W"]))
            self.readout.weight.copy_(torch.tensor(ours["readout.W"].T.copy()))
            self.readout.bias.copy_(torch.tensor(ours["readout.b"]))
            for k in range(settings.layers):
                for name, theirs in (("Wx", "weight_ih"), ("Wh", "weight_hh")):
                    weight = torch.tensor(ours[f"cells.cells.{k}.{name}"].T.copy())
                    getattr(self.lstm, f"{theirs}_l{k}").copy_(weight)
                getattr(self.lstm, f"bias_ih_l{k}").copy_(torch.tensor(ours[f"cells.cells.{k}.b"]))
                getattr(self.lstm, f"bias_hh_l{k}").zero_()
                # ours has one bias; the second stays at zero
                getattr(self.lstm, f"bias_hh_l{k}").requires_grad_(False)

    def forward(self, ids: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        hs, state = self.lstm(self.embedding(ids), state)
        return self.readout(hs), state


class TwinSession:
    """Session.advance and Session.validate, written again in torch."""

    def __init__(self, session: Session) -> None:
        self.settings, self.source = session.settings, session
        self.model = Twin(session)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=session.settings.lr)
        self.step, self.state = 0, None

    def advance(self) -> float:
        s, source = self.settings, self.source
        place = self.step % source.per_epoch
        if place == 0:
            self.state = None
            self.stream = text.batches(source.train_ids, s.batch, s.seq)
        inputs, targets = next(self.stream)
        logits, state = self.model(torch.tensor(inputs), self.state)
        loss = torch.nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]), torch.tensor(targets).reshape(-1)
        )
        self.optimizer.zero_grad()
        loss.backward()
        total = torch.sqrt(sum((p.grad**2).sum() for p in self.parameters))
        if s.clip and total > s.clip:
            for p in self.parameters:
                p.grad *= s.clip / total
        warm = max(1, s.steps // 20)
        rate = s.lr * min(1.0, (self.step + 1) / warm)
        rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, self.step / s.steps)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.state = tuple(part.detach() for part in state)
        self.step += 1
        return float(loss.detach())

    def validate(self) -> float:
        ids = self.source.valid_ids
        streams = max(1, min(20, len(ids) // 2000))
        length = len(ids) // streams
        columns = torch.tensor(ids[: streams * length].reshape(streams, length).T.copy())
        with torch.no_grad():
            logits, _ = self.model(columns[:-1], None)
            loss = torch.nn.functional.cross_entropy(
                logits.reshape(-1, logits.shape[-1]), columns[1:].reshape(-1)
            )
        return float(loss) / math.log(2)


def exact(steps: int) -> tuple[float, list[float]]:
    """The largest relative difference of per-step losses in float64."""
    mg.set_default_dtype("float64")
    try:
        settings = Settings(hidden=64, batch=20, seq=30, steps=steps)
        session = Session(settings, text.default_corpus(200_000))
        twin = TwinSession(session)
        pairs = [(session.advance(), twin.advance()) for _ in range(steps)]
    finally:
        mg.set_default_dtype("float32")
    return max(abs(a - b) / abs(b) for a, b in pairs), [a for a, _ in pairs]


def full(seed: int) -> tuple[dict[str, Any], list[tuple[str, bool]]]:
    """The default run on both sides, and what its text looks like."""
    corpus = text.default_corpus()
    session = Session(Settings(seed=seed, steps=1), corpus)
    steps = EPOCHS * session.per_epoch
    session.settings = dataclasses.replace(session.settings, steps=steps)
    twin = TwinSession(session)
    seconds = {}
    for name, side in (("minigrad", session), ("torch", twin)):
        start = time.perf_counter()
        for _ in range(steps):
            side.advance()
        seconds[name] = time.perf_counter() - start
    ours, theirs = session.validate(), twin.validate()
    train, held_out = text.split(corpus.text, session.settings.validation)
    counting = WittenBell(train, session.vocabulary.characters, order=3)
    counted = counting.bits_per_character(held_out)
    prime = "The "
    written = "".join(
        generate(session.model, session.vocabulary, prime, 2000, seed=seed, temperature=0.7)
    )
    known = set(re.findall(r"\w+", train))
    words = re.findall(r"\w+", written)[:-1]
    share = sum(word in known for word in words) / len(words)
    copied = [written[i : i + 60] for i in range(len(written) - 59) if written[i : i + 60] in train]
    table = {
        "corpus": corpus.name,
        "characters": len(corpus.text),
        "sha256": corpus.sha256,
        "python": platform.python_version(),
        "backend": mg.zeros(()).backend.name,
        "threads": threads(),
        "steps": steps,
        "seconds minigrad": round(seconds["minigrad"], 1),
        "seconds torch (fused LSTM)": round(seconds["torch"], 1),
        "bits per character minigrad": round(ours, 4),
        "bits per character torch": round(theirs, 4),
        "bits per character Witten-Bell, order 3": round(counted, 4),
        "words known": f"{share:.1%} of {len(words)}",
        "pieces of 60 copied": len(copied),
        "text": written[:300],
    }
    return table, [
        (
            f"validation differs by {abs(ours / theirs - 1):.2%}, at most 0.3 %",
            abs(ours / theirs - 1) <= 0.003,
        ),
        (f"{ours:.3f} bits per character, below Witten-Bell's {counted:.3f}", ours < counted),
        (f"{share:.1%} of the words known, at least 75 %", share >= 0.75),
        (f"{len(copied)} pieces of 60 characters copied, none allowed", not copied),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--full", action="store_true", help="also the whole default training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", threads())))
    difference, losses = exact(arguments.steps)
    print(f"torch {torch.__version__}, numpy {np.__version__}, backend {mg.zeros(()).backend.name}")
    print(f"float64 losses over {arguments.steps} updates: {losses[0]:.6f} ... {losses[-1]:.6f}")
    verdicts = [(f"largest relative difference {difference:.1e}, at most 1e-9", difference <= 1e-9)]
    table: dict[str, Any] = {}
    if arguments.full:
        table, more = full(arguments.seed)
        verdicts += more
        for name, value in table.items():
            print(f"{name:40} {value}")
    for words, good in verdicts:
        print("PASS" if good else "FAIL", words)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(table, indent=1))
    return 0 if all(good for _, good in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
