"""CTranslate2 with the same weights as a contestant; its process never loads torch."""

from collections.abc import Callable

import ctranslate2

from course.bench.jobs import DecodeJob
from course.bench.race import Work

MAX_TOKENS = 4000  # of a batch; on Multi30k 2,000 to 8,000 are equally fast, more or fewer slower


def decode(job: DecodeJob, beam: int = 1) -> Callable[[], Work]:
    """Return CTranslate2's translation of token names, in float32; it batches by itself.

    Its beam ends and ranks by its own rules (length ** alpha), so the translations of a beam
    above 1 may differ from ours.
    """
    kind, _, index = job.device.partition(":")
    translator = ctranslate2.Translator(
        job.exported, device=kind if kind == "cuda" else "cpu", device_index=int(index or 0),
        compute_type="float32", intra_threads=job.threads, inter_threads=1,
    )
    ids = {name: i for i, name in enumerate(job.names)}
    sources = [[job.names[i] for i in source[:-1]] for source in job.sources]  # it adds </s>

    try:
        translator.translate_batch(sources[:1])
    except RuntimeError as error:
        raise RuntimeError(f"{error} (on a GPU it wants the cuBLAS of CUDA 12, where torch brings "
                           "13: python -m pip install nvidia-cublas-cu12)") from error

    def work() -> Work:
        results = translator.translate_batch(
            sources, max_batch_size=MAX_TOKENS, batch_type="tokens", beam_size=beam,
            length_penalty=job.alpha, max_decoding_length=max(map(len, sources)) + job.room,
        )
        translations = [[ids[name] for name in result.hypotheses[0]] for result in results]
        return Work(len(translations), outcome=translations)

    return work
