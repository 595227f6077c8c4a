"""How fast is it, honestly: contestants race in rounds, each in a process of its own.

`python -m course bench train` shows the result; `race` and `race_here` are the tool behind it.

A contestant is a *factory*: a function that sets up and returns `work`, a function that does one
fixed piece of work and returns how much it was, as a number or as a `Work`. Only `work` is timed.
You add a contestant of your own with `--peer FILE.py`. The file defines one or more of

    def train(job):      # work() makes one step on each of job.batches; returns target tokens
    def decode(job):     # work() translates job.sources; returns sentences
    def attention(job):  # work(length) makes causal passes, forward and back; returns passes

`job` is a `course.bench.jobs.TrainJob`, `DecodeJob` or `AttentionJob`: plain Python, no tensors.
Nothing here imports torch, so a contestant decides itself what its process loads.
"""

from course.bench.race import Contestant, Race, Result, Work, race, race_here

__all__ = ["Contestant", "Race", "Result", "Work", "race", "race_here"]
