"""Classifiers of sequences with nn.LSTM and nn.GRU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .entry import Entry, tokens

VOCABULARY = 53
LENGTH = 7


class LSTMClassifier(nn.Module):
    """Embedding, two layers of LSTM, and a head on the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 18)
        self.lstm = nn.LSTM(18, 26, num_layers=2, batch_first=True, dropout=0.1)
        self.fc1 = nn.Linear(26, 14)
        self.fc2 = nn.Linear(14, 5)

    def forward(self, text: Tensor) -> Tensor:
        output, _ = self.lstm(self.embedding(text))
        logits: Tensor = self.fc2(functional.relu(self.fc1(output[:, -1])))
        return logits


class BidirectionalLSTMClassifier(nn.Module):
    """Two layers of LSTM in both directions, and a head on both last states."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 18)
        self.lstm = nn.LSTM(18, 26, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * 26, 5)

    def forward(self, text: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(self.embedding(text))
        logits: Tensor = self.head(torch.cat((hidden[-2], hidden[-1]), dim=1))
        return logits


class GRUClassifier(nn.Module):
    """Embedding, two layers of GRU with time first, and a head on the mean over time."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 18)
        self.gru = nn.GRU(18, 26, num_layers=2)
        self.head = nn.Linear(26, 5)

    def forward(self, text: Tensor) -> Tensor:
        output, _ = self.gru(self.embedding(text.t()))
        logits: Tensor = self.head(output.mean(dim=0))
        return logits


def _text() -> tuple[object, ...]:
    return (tokens(VOCABULARY, LENGTH),)


# All but the head's bias moves: gates are stacked, so that a unit is a row of each gate.
ENTRIES = (
    Entry("LSTM classifier", LSTMClassifier, _text, 0.99),
    Entry("LSTM classifier (bidirectional)", BidirectionalLSTMClassifier, _text, 0.99),
    Entry("GRU classifier", GRUClassifier, _text, 0.99),
)
