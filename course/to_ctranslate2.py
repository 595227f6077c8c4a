"""Export to CTranslate2: a trained Transformer translates in C++, fast, and without torch.

`export_ctranslate2` writes a directory, `ExportedTranslator` translates with it. The exported model
computes in float32 what ours computes, with the sums in another order: log-probabilities agree to
four digits after the point. So greedy translations are equal, unless two tokens are as good as
equally likely. A beam above 1 follows slightly other rules: see `ExportedTranslator.translate`.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from course.attention import MultiHeadAttention
from course.decoding import ranked
from course.rundir import CheckpointError
from course.text import BOS, BPE, PAD, UNK, token_batches
from course.transformer import FeedForward, LayerNorm, Transformer, positional_encoding

if TYPE_CHECKING:
    from ctranslate2 import TranslationResult
    from ctranslate2.specs import TransformerSpec
    from ctranslate2.specs.attention_spec import MultiHeadAttentionSpec
    from ctranslate2.specs.common_spec import LayerNormSpec, LinearSpec
    from ctranslate2.specs.transformer_spec import (
        FeedForwardSpec,
        TransformerDecoderSpec,
        TransformerEncoderSpec,
    )

POSITIONS = 2048  # CTranslate2 takes positions from a table, so the sinusoids must end somewhere


def import_ctranslate2():
    """Return the `Translator` and the `specs` of CTranslate2.

    Raises ModuleNotFoundError that names the command to install it.
    """
    try:
        from ctranslate2 import Translator, specs
    except ImportError as error:
        raise ModuleNotFoundError(
            f"CTranslate2 cannot be used ({error}). Install it: python -m pip install ctranslate2"
        ) from error
    return Translator, specs


# --- our weights in its specification ---------------------------------------------------------


def plain(weight: Tensor) -> Tensor:
    """Return the values alone: float32, on the CPU, without gradient."""
    return weight.detach().float().cpu()


def set_linear(spec: "LinearSpec", linear: nn.Linear) -> None:
    """Copy a linear map with its bias."""
    spec.weight, spec.bias = plain(linear.weight), plain(linear.bias)


def set_norm(spec: "LayerNormSpec", norm: LayerNorm) -> None:
    """Copy a layer norm."""
    spec.gamma, spec.beta = plain(norm.gain), plain(norm.bias)


def set_feed_forward(spec: "FeedForwardSpec", feed_forward: FeedForward, norm: LayerNorm) -> None:
    """Copy a feed-forward sub-layer and the norm of its residual."""
    set_linear(spec.linear_0, feed_forward.w_1)
    set_linear(spec.linear_1, feed_forward.w_2)
    set_norm(spec.layer_norm, norm)


def widen(weight: Tensor, n_heads: int, width: int) -> Tensor:
    """Give each head `width` rows, the new ones zero: (H * d, D) -> (H * width, D)."""
    heads = plain(weight).unflatten(0, (n_heads, -1))  # (H, d, D)
    return F.pad(heads, (0, 0, 0, width - heads.size(1))).flatten(0, 1)


def set_attention(
    spec: "MultiHeadAttentionSpec", attention: MultiHeadAttention, norm: LayerNorm
) -> None:
    """Copy an attention sub-layer and the norm of its residual.

    CTranslate2 keeps w_q, w_k and w_v in one matrix (cross-attention: w_k and w_v) and cuts what
    comes out into equal parts. So where d_k and d_v differ, the narrower heads are filled up with
    zeros. These change no dot product and no sum, and the scale remains 1 / sqrt(d_k).
    """
    d_k, d_v = (w.out_features // attention.n_heads for w in (attention.w_k, attention.w_v))
    weights = (attention.w_q.weight, attention.w_k.weight, attention.w_v.weight,
               attention.w_o.weight.T)
    query, key, value, output = (widen(w, attention.n_heads, max(d_k, d_v)) for w in weights)
    if len(spec.linear) == 2:  # self-attention
        spec.linear[0].weight = torch.cat([query, key, value])  # (3 * H * width, D)
    else:
        spec.linear[0].weight = query
        spec.linear[1].weight = torch.cat([key, value])
    spec.linear[-1].weight = output.T
    spec.queries_scale = 1 / math.sqrt(d_k)
    set_norm(spec.layer_norm, norm)


def set_encoder(spec: "TransformerEncoderSpec", model: Transformer) -> None:
    """Copy the source embedding, the encoder's layers and, if it is pre-norm, its last norm."""
    spec.embeddings[0].weight = plain(model.src_embedding.weight)
    for part, layer in zip(spec.layer, model.encoder.layers):
        set_attention(part.self_attention, layer.self_attention, layer.residuals[0].norm)
        set_feed_forward(part.ffn, layer.feed_forward, layer.residuals[1].norm)
    if model.config.norm == "pre":
        set_norm(spec.layer_norm, model.encoder.norm)


def set_decoder(spec: "TransformerDecoderSpec", model: Transformer) -> None:
    """Copy the target embedding, the decoder's layers, its last norm and the projection.

    A bias of minus infinity forbids what our searches forbid: PAD, BOS and UNK.
    """
    spec.embeddings.weight = plain(model.tgt_embedding.weight)
    for part, layer in zip(spec.layer, model.decoder.layers):
        set_attention(part.self_attention, layer.self_attention, layer.residuals[0].norm)
        set_attention(part.attention, layer.cross_attention, layer.residuals[1].norm)
        set_feed_forward(part.ffn, layer.feed_forward, layer.residuals[2].norm)
    if model.config.norm == "pre":
        set_norm(spec.layer_norm, model.decoder.norm)
    spec.projection.weight = plain(model.w_vocab.weight)
    spec.projection.bias = torch.zeros(model.config.tgt_vocab)
    spec.projection.bias[[PAD, BOS, UNK]] = -math.inf


def vocabulary(bpe: BPE) -> list[str]:
    """Return a name for each id, all different: CTranslate2 knows tokens by their names.

    They are `bpe.names`; a name that is taken gets a mark: " a" shows as "▁a", and a text may hold
    a real "▁".
    """
    names: dict[str, None] = {}
    for name in bpe.names:
        while name in names:
            name += "'"
        names[name] = None
    return list(names)


def specification(model: Transformer, bpe: BPE) -> "TransformerSpec":
    """Return the model with weights, vocabulary and settings, as CTranslate2 specifies it."""
    config, (_, specs) = model.config, import_ctranslate2()
    spec = specs.TransformerSpec.from_config(
        config.n_layers, config.n_heads, pre_norm=config.norm == "pre"
    )
    set_encoder(spec.encoder, model)
    set_decoder(spec.decoder, model)
    learned = config.positions == "learned"
    table = model.positions.table if learned else positional_encoding(POSITIONS, config.d_model)
    for half in (spec.encoder, spec.decoder):
        half.position_encodings.encodings = plain(table)  # (positions, D)
    spec.register_source_vocabulary(vocabulary(bpe))
    spec.register_target_vocabulary(vocabulary(bpe))
    spec.config.add_source_eos = True
    spec.config.layer_norm_epsilon = model.encoder.layers[0].residuals[0].norm.eps
    spec.config.add_attribute("max_positions", len(table))
    spec.validate()
    spec.optimize()  # equal tables are stored once
    return spec


def export_ctranslate2(model: Transformer, bpe: BPE, directory: Path | str) -> None:
    """Write the model and its tokeniser as a new directory that CTranslate2 loads, in float32.

    The directory appears whole or not at all. Any `TransformerConfig` can be exported; sinusoidal
    positions end at 2,048 tokens then. Raises ValueError for a model that is no Transformer,
    FileExistsError if there is such a directory, ModuleNotFoundError without CTranslate2.
    """
    directory = Path(directory)
    if not isinstance(model, Transformer):
        raise ValueError(
            f"this checkpoint holds a recurrent model ({type(model).__name__}), and CTranslate2 "
            "runs Transformers alone: choose another one, for example multi30k-de-en"
        )
    if directory.exists():
        raise FileExistsError(
            f"{directory} is there already, and nothing is overwritten: name a new directory"
        )
    spec = specification(model, bpe)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as beside:
        part = Path(beside) / directory.name
        part.mkdir()
        spec.save(str(part))
        bpe.save(part / "tokenizer.json")
        part.rename(directory)


# --- translating with it ----------------------------------------------------------------------


class ExportedTranslator:
    """An exported directory, loaded once to translate often.

    threads: the cores that it may take; 0 leaves the choice to CTranslate2. Raises CheckpointError
    for a directory that is no export, ModuleNotFoundError without CTranslate2.
    """

    def __init__(self, directory: Path | str, threads: int = 0) -> None:
        directory, (translator, _) = Path(directory), import_ctranslate2()
        try:
            config = json.loads((directory / "config.json").read_text("utf-8"))
            self.max_positions = config["max_positions"]
            self.bpe = BPE.load(directory / "tokenizer.json")
            self.translator = translator(str(directory), intra_threads=threads)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"{directory} is no whole export ({type(error).__name__}: {error}). Make one: "
                "python -m course export --checkpoint multi30k-de-en --out NEW_DIRECTORY"
            ) from error
        self.names = vocabulary(self.bpe)
        self.ids = {name: i for i, name in enumerate(self.names)}

    def translate_batch(
        self, sources: Sequence[Sequence[int]], beam: int, alpha: float
    ) -> list[list[int]]:
        """Return the best target ids of source ids (without EOS), searched in one batch."""
        limits = [min(len(source) + 1 + 50, self.max_positions) for source in sources]
        results = self.translator.translate_batch(
            [[self.names[i] for i in source] for source in sources],
            beam_size=beam,
            num_hypotheses=beam if alpha else 1,
            length_penalty=0,
            return_scores=beam > 1,
            return_end_token=True,
            max_input_length=0,  # no limit
            min_decoding_length=0,
            max_decoding_length=max(limits),
        )
        return [self.best(result, limit, alpha) for result, limit in zip(results, limits)]

    def best(self, result: "TranslationResult", limit: int, alpha: float) -> list[int]:
        """Return the ids of the hypothesis that our length penalty ranks first, cut at `limit`."""
        prefixes = [[BOS, *(self.ids[name] for name in h[:limit])] for h in result.hypotheses]
        return list(ranked(prefixes, result.scores or [0.0], alpha)[0].ids)

    def translate(
        self,
        sentences: Sequence[str],
        beam: int = 1,
        alpha: float = 0.6,
        max_tokens: int = 2000,
        progress: bool = False,
    ) -> list[str]:
        """Return the translation of each sentence, in the same order; an empty line stays empty.

        The arguments are those of `course.cache.translate`, and so is greedy search, beam 1. A
        larger beam follows CTranslate2's rules. In our beam a finished hypothesis keeps its place,
        and the search ends when every place holds a finished one. In CTranslate2 a finished one
        leaves the beam to another that still grows, and the search ends when the likeliest of the
        beam has finished; with alpha above 0, only when at least `beam` have finished, too. Among
        them the paper's length penalty chooses, as in ours: CTranslate2's own `length_penalty`
        divides by length ** alpha instead. On real text few sentences in a thousand differ.
        Raises ValueError for a sentence longer than the model's positions, TypeError for a string
        instead of a list.
        """
        if isinstance(sentences, str):
            raise TypeError("translate takes a list of sentences: write [sentence] for one")
        places = [i for i, sentence in enumerate(sentences) if sentence.strip()]
        sources = [self.bpe.encode(sentences[i]) for i in places]
        lengths = [len(source) + 1 for source in sources]  # EOS counted
        for i, length in zip(places, lengths):
            if length > self.max_positions:
                raise ValueError(
                    f"sentences[{i}] has {length:,} tokens, and the model positions for "
                    f"{self.max_positions:,}: cut it into shorter ones"
                )
        translations = [""] * len(sentences)
        with tqdm(total=len(places), unit="sentence", disable=not progress) as bar:
            for batch in reversed(token_batches(lengths, max(max_tokens, *lengths, 0))):
                written = self.translate_batch([sources[n] for n in batch], beam, alpha)
                for n, ids in zip(batch, written):
                    translations[places[n]] = self.bpe.decode(ids)
                bar.update(len(batch))
        return translations


def translate_exported(
    directory: Path | str,
    sentences: Sequence[str],
    beam: int = 1,
    alpha: float = 0.6,
    threads: int = 0,
) -> list[str]:
    """Load an exported directory and translate with it: see `ExportedTranslator`."""
    return ExportedTranslator(directory, threads).translate(sentences, beam, alpha)
