"""Tiny models of tokens with random weights."""

import warnings

import pytest
import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.seeds import stage_generator
from gradleak.zoo.models.building import seeded

VOCABULARY = 60


def ids(task: gl.Task, count: int, seed: int = 0) -> Tensor:
    """Random tokens `[count, T]` without padding."""
    space = task.space
    assert isinstance(space, gl.TokenSpace)
    return torch.randint(1, space.vocabulary, (count, space.length), generator=stage_generator(seed, "ids"))


def space(length: int = 6, padding: int | None = 0) -> gl.TokenSpace:
    return gl.TokenSpace(VOCABULARY, length, padding=padding)


def gpt2(width: int = 32, layers: int = 2, length: int = 6, **settings: object) -> gl.Task:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=16, n_embd=width, n_layer=layers, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, bos_token_id=0, eos_token_id=0, **settings,
    )  # fmt: skip
    model = seeded(0, lambda: transformers.GPT2LMHeadModel(config)).eval()
    return gl.Task(model, space(length), num_classes=VOCABULARY, classified="token")


def gpt2_classifier(width: int = 32, length: int = 6) -> gl.Task:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=16, n_embd=width, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, bos_token_id=0, eos_token_id=0, pad_token_id=0, num_labels=3,
    )  # fmt: skip
    model = seeded(0, lambda: transformers.GPT2ForSequenceClassification(config)).eval()
    return gl.Task(model, space(length), num_classes=3)


def llama(width: int = 32, length: int = 6) -> gl.Task:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = seeded(0, lambda: transformers.LlamaForCausalLM(config)).eval()
    return gl.Task(model, space(length), num_classes=VOCABULARY, classified="token")


def bert(width: int = 32, length: int = 6) -> gl.Task:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=3,
    )  # fmt: skip
    model = seeded(0, lambda: transformers.BertForSequenceClassification(config)).eval()
    return gl.Task(model, space(length), num_classes=3)


class PlainEncoder(nn.Module):
    """PyTorch's own layers, learned positions, a class from the mean."""

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.place = nn.Parameter(torch.randn(length, width))
        layer = nn.TransformerEncoderLayer(width, 2, 48, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(tokens) + self.place).mean(dim=1))


def plain_encoder(width: int = 32, length: int = 6) -> gl.Task:
    model = seeded(0, lambda: PlainEncoder(width, length)).eval()
    return gl.Task(model, space(length, None), num_classes=3)


class PlainDecoder(PlainEncoder):
    """The same layers behind a causal mask, with the next token at every position; full sequences only."""

    def __init__(self, width: int, length: int) -> None:
        super().__init__(width, length)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.head(self.encoder(self.embed(tokens) + self.place, mask=mask, is_causal=True))


def plain_decoder(width: int = 32, length: int = 6) -> gl.Task:
    model = seeded(0, lambda: PlainDecoder(width, length)).eval()
    return gl.Task(model, space(length), num_classes=VOCABULARY, classified="token")


def lora(rank: int, width: int = 32, length: int = 6, *, start: float = 0.0) -> gl.Task:
    """GPT-2 with adapters at the attention's input, of which B starts at zero or is drawn with a standard deviation."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=rank, lora_alpha=rank, target_modules=["c_attn"], lora_dropout=0.0, fan_in_fan_out=True, task_type="CAUSAL_LM"
    )

    def build() -> nn.Module:
        with warnings.catch_warnings():
            # peft asks transformers for an attribute that is about to go.
            warnings.simplefilter("ignore", FutureWarning)
            model = peft.get_peft_model(gpt2(width, 2, length).model, config)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=start)
        return model

    return gl.Task(seeded(0, build).eval(), space(length), num_classes=VOCABULARY, classified="token")
