"""Your own models: an entry in MODELS is all that a run, a study and notebook 10 need.

Every model here trains with AdamW, and has the settings of runs.FITTED beside its own.
"""

from torch import nn


class Bag(nn.Module):
    """A flat network that adds the embeddings of its window: it can't tell "ab" from "ba"."""

    def __init__(self, vocab_size, n_embd, n_hidden):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, n_embd)
        self.head = nn.Sequential(nn.Linear(n_embd, n_hidden), nn.GELU(),
                                  nn.Linear(n_hidden, vocab_size))

    def forward(self, x):
        return self.head(self.embedding(x).sum(1))      # (B, T) -> (B, C) -> (B, V)


# {name: (its data; its settings; the model from a configuration c)}. With "windows", x is (B, T),
# and the logits are (B, V). With whole "names", padded by 0, x is (N, L) and the logits (N, L, V).
MODELS = {
    "bag": ("windows", {"block_size": 5, "n_embd": 24, "n_hidden": 256},
            lambda vocab_size, c: Bag(vocab_size, c["n_embd"], c["n_hidden"])),
}
