"""BERT and its tokenizer: a trained one, or a small one that begins from nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from sentences import Sentence
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)

SENTIMENTS = 2
PADDING, UNKNOWN, BEGIN, END = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def trained(name: str) -> tuple[torch.nn.Module, Any]:
    """Return the model of that name, or in that folder, and its tokenizer."""
    model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=SENTIMENTS)
    return model, AutoTokenizer.from_pretrained(name)


def small(
    texts: Iterable[str], *, hidden: int, layers: int, words: int
) -> tuple[torch.nn.Module, Any]:
    """Return a model that knows nothing yet, and a tokenizer of the most frequent words.

    Args:
        hidden: size of a word's vector.
        words: at most in the vocabulary.
    """
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for text in texts:
        pieces = tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))
        counts.update(piece for piece, _ in pieces)
    vocabulary = (*SPECIAL, *(word for word, _ in counts.most_common(words)))
    numbers = {word: number for number, word in enumerate(vocabulary)}
    tokenizer.model = models.WordLevel(numbers, unk_token=UNKNOWN)
    tokenizer.post_processor = processors.BertProcessing(
        (END, numbers[END]), (BEGIN, numbers[BEGIN])
    )
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 16),
        intermediate_size=4 * hidden,
        num_labels=SENTIMENTS,
        pad_token_id=numbers[PADDING],
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PADDING,
        unk_token=UNKNOWN,
        cls_token=BEGIN,
        sep_token=END,
    )
    return BertForSequenceClassification(config), fast


class Collate:
    """Makes a batch of sentences: tokens as the model takes them, and sentiments.

    Args:
        longest: tokens; what follows in a text is left out.
    """

    def __init__(self, tokenizer: Any, longest: int) -> None:
        self._tokenizer = tokenizer
        self._longest = longest

    def __call__(self, batch: list[Sentence]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Return tensors of shape (n, tokens), and sentiments of shape (n,)."""
        encoded = self._tokenizer(
            [sentence.text for sentence in batch],
            padding=True,
            truncation=True,
            max_length=self._longest,
            return_tensors="pt",
        )
        return dict(encoded), torch.tensor([sentence.sentiment for sentence in batch])
