# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Homework · reasons
#
# Code that passes its check may still be code that you cannot explain. Here you explain: 34 questions,
# two for each of the course's large topics, 60 minutes. Close the lessons first.
#
# A cell asks as long as it says `None`: run it, write the letter of your answer there, in quotes, and run it
# again. It says what is right, and, of a wrong option, what would follow from it and where the course shows
# it. You may try again; think first, since the last letter counts. The cell below is the one that is marked,
# 1 point each. It stops *Run All* at the first question that is not answered rightly yet.
#
# **Your name comes first.** The options are shuffled by it, so that "b" is another answer for your neighbour.
# Write it as your teacher knows it (your number, if there is one), and keep it: with another name your letters
# mean something else. Whoever marks this page reads the name here, so it is marked as you saw it, on any machine.

# %% nbgrader={"grade": false, "grade_id": "i_am", "locked": false, "schema_version": 3, "solution": true, "task": false}
from course.homework import check, i_am

me = None  # your name, in quotes
### BEGIN SOLUTION
me = "The course"
### END SOLUTION
i_am(me)

# %% [markdown]
# ## Before the paper
#
# Lessons 01 and 02.

# %% nbgrader={"grade": false, "grade_id": "bottleneck_what", "locked": false, "schema_version": 3, "solution": true, "task": false}
bottleneck_what = None  # your letter, in quotes
### BEGIN SOLUTION
bottleneck_what = "a"
### END SOLUTION
check("bottleneck_what", bottleneck_what)

# %% nbgrader={"grade": true, "grade_id": "bottleneck_what-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("bottleneck_what", bottleneck_what, strict=True).passed

# %% nbgrader={"grade": false, "grade_id": "bottleneck_attention", "locked": false, "schema_version": 3, "solution": true, "task": false}
bottleneck_attention = None  # your letter, in quotes
### BEGIN SOLUTION
bottleneck_attention = "e"
### END SOLUTION
check("bottleneck_attention", bottleneck_attention)

# %% nbgrader={"grade": true, "grade_id": "bottleneck_attention-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("bottleneck_attention", bottleneck_attention, strict=True).passed

# %% nbgrader={"grade": false, "grade_id": "path_conv", "locked": false, "schema_version": 3, "solution": true, "task": false}
path_conv = None  # your letter, in quotes
### BEGIN SOLUTION
path_conv = "a"
### END SOLUTION
check("path_conv", path_conv)

# %% nbgrader={"grade": true, "grade_id": "path_conv-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("path_conv", path_conv, strict=True).passed

# %% nbgrader={"grade": false, "grade_id": "path_neural_gpu", "locked": false, "schema_version": 3, "solution": true, "task": false}
path_neural_gpu = None  # your letter, in quotes
### BEGIN SOLUTION
path_neural_gpu = "e"
### END SOLUTION
check("path_neural_gpu", path_neural_gpu)

# %% nbgrader={"grade": true, "grade_id": "path_neural_gpu-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("path_neural_gpu", path_neural_gpu, strict=True).passed

# %% nbgrader={"grade": false, "grade_id": "memory_hop_is", "locked": false, "schema_version": 3, "solution": true, "task": false}
memory_hop_is = None  # your letter, in quotes
### BEGIN SOLUTION
memory_hop_is = "c"
### END SOLUTION
check("memory_hop_is", memory_hop_is)

# %% nbgrader={"grade": true, "grade_id": "memory_hop_is-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("memory_hop_is", memory_hop_is, strict=True).passed

# %% nbgrader={"grade": false, "grade_id": "memory_waits", "locked": false, "schema_version": 3, "solution": true, "task": false}
memory_waits = None  # your letter, in quotes
### BEGIN SOLUTION
memory_waits = "e"
### END SOLUTION
check("memory_waits", memory_waits)

# %% nbgrader={"grade": true, "grade_id": "memory_waits-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("memory_waits", memory_waits, strict=True).passed

# %% [markdown]
# ## Attention
#
# Lessons 03 and 05.

# %% nbgrader={"grade": false, "grade_id": "self_attention_is", "locked": false, "schema_version": 3, "solution": true, "task": false}
self_attention_is = None  # your letter, in quotes
### BEGIN SOLUTION
self_attention_is = "a"
### END SOLUTION
check("self_attention_is", self_attention_is)

# %% nbgrader={"grade": true, "grade_id": "self_attention_is-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("self_attention_is", self_attention_is, strict=True).passed

# %% nbgrader={"grade": false, "grade_id": "cross_attention_sources", "locked": false, "schema_version": 3, "solution": true, "task": false}
cross_attention_sources = None  # your letter, in quotes
### BEGIN SOLUTION
cross_attention_sources = "b"
### END SOLUTION
check("cross_attention_sources", cross_attention_sources)

# %% nbgrader={"grade": true, "grade_id": "cross_attention_sources-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("cross_attention_sources", cross_attention_sources, strict=True).passed

# %% nbgrader={"grade": false, "grade_id": "why_scale", "locked": false, "schema_version": 3, "solution": true, "task": false}
why_scale = None  # your letter, in quotes
### BEGIN SOLUTION
why_scale = "e"
### END SOLUTION
check("why_scale", why_scale)

# %% nbgrader={"grade": true, "grade_id": "why_scale-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("why_scale", why_scale, strict=True).passed

# %% nbgrader={"grade": false, "grade_id": "scale_by_d_k", "locked": false, "schema_version": 3, "solution": true, "task": false}
scale_by_d_k = None  # your letter, in quotes
### BEGIN SOLUTION
scale_by_d_k = "d"
### END SOLUTION
check("scale_by_d_k", scale_by_d_k)

# %% nbgrader={"grade": true, "grade_id": "scale_by_d_k-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("scale_by_d_k", scale_by_d_k, strict=True).passed

# %% nbgrader={"grade": false, "grade_id": "heads_why", "locked": false, "schema_version": 3, "solution": true, "task": false}
heads_why = None  # your letter, in quotes
### BEGIN SOLUTION
heads_why = "e"
### END SOLUTION
check("heads_why", heads_why)

# %% nbgrader={"grade": true, "grade_id": "heads_why-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("heads_why", heads_why, strict=True).passed

# %% nbgrader={"grade": false, "grade_id": "heads_cost", "locked": false, "schema_version": 3, "solution": true, "task": false}
heads_cost = None  # your letter, in quotes
### BEGIN SOLUTION
heads_cost = "a"
### END SOLUTION
check("heads_cost", heads_cost)

# %% nbgrader={"grade": true, "grade_id": "heads_cost-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("heads_cost", heads_cost, strict=True).passed

# %% nbgrader={"grade": false, "grade_id": "cost_double", "locked": false, "schema_version": 3, "solution": true, "task": false}
cost_double = None  # your letter, in quotes
### BEGIN SOLUTION
cost_double = "e"
### END SOLUTION
check("cost_double", cost_double)

# %% nbgrader={"grade": true, "grade_id": "cost_double-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("cost_double", cost_double, strict=True).passed

# %% nbgrader={"grade": false, "grade_id": "cost_why_prefer", "locked": false, "schema_version": 3, "solution": true, "task": false}
cost_why_prefer = None  # your letter, in quotes
### BEGIN SOLUTION
cost_why_prefer = "a"
### END SOLUTION
check("cost_why_prefer", cost_why_prefer)

# %% nbgrader={"grade": true, "grade_id": "cost_why_prefer-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("cost_why_prefer", cost_why_prefer, strict=True).passed

# %% [markdown]
# ## Masks, and what runs in parallel
#
# Lessons 03 and 04.

# %% nbgrader={"grade": false, "grade_id": "mask_before_softmax", "locked": false, "schema_version": 3, "solution": true, "task": false}
mask_before_softmax = None  # your letter, in quotes
### BEGIN SOLUTION
mask_before_softmax = "a"
### END SOLUTION
check("mask_before_softmax", mask_before_softmax)

# %% nbgrader={"grade": true, "grade_id": "mask_before_softmax-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("mask_before_softmax", mask_before_softmax, strict=True).passed

# %% nbgrader={"grade": false, "grade_id": "mask_leak", "locked": false, "schema_version": 3, "solution": true, "task": false}
mask_leak = None  # your letter, in quotes
### BEGIN SOLUTION
mask_leak = "a"
### END SOLUTION
check("mask_leak", mask_leak)

# %% nbgrader={"grade": true, "grade_id": "mask_leak-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("mask_leak", mask_leak, strict=True).passed

# %% nbgrader={"grade": false, "grade_id": "why_shift", "locked": false, "schema_version": 3, "solution": true, "task": false}
why_shift = None  # your letter, in quotes
### BEGIN SOLUTION
why_shift = "a"
### END SOLUTION
check("why_shift", why_shift)

# %% nbgrader={"grade": true, "grade_id": "why_shift-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("why_shift", why_shift, strict=True).passed

# %% nbgrader={"grade": false, "grade_id": "parallel_training", "locked": false, "schema_version": 3, "solution": true, "task": false}
parallel_training = None  # your letter, in quotes
### BEGIN SOLUTION
parallel_training = "a"
### END SOLUTION
check("parallel_training", parallel_training)

# %% nbgrader={"grade": true, "grade_id": "parallel_training-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("parallel_training", parallel_training, strict=True).passed

# %% [markdown]
# ## The model
#
# Lesson 05.

# %% nbgrader={"grade": false, "grade_id": "residual_gradient", "locked": false, "schema_version": 3, "solution": true, "task": false}
residual_gradient = None  # your letter, in quotes
### BEGIN SOLUTION
residual_gradient = "e"
### END SOLUTION
check("residual_gradient", residual_gradient)

# %% nbgrader={"grade": true, "grade_id": "residual_gradient-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("residual_gradient", residual_gradient, strict=True).passed

# %% nbgrader={"grade": false, "grade_id": "residual_depth", "locked": false, "schema_version": 3, "solution": true, "task": false}
residual_depth = None  # your letter, in quotes
### BEGIN SOLUTION
residual_depth = "b"
### END SOLUTION
check("residual_depth", residual_depth)

# %% nbgrader={"grade": true, "grade_id": "residual_depth-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("residual_depth", residual_depth, strict=True).passed

# %% nbgrader={"grade": false, "grade_id": "positions_why", "locked": false, "schema_version": 3, "solution": true, "task": false}
positions_why = None  # your letter, in quotes
### BEGIN SOLUTION
positions_why = "e"
### END SOLUTION
check("positions_why", positions_why)

# %% nbgrader={"grade": true, "grade_id": "positions_why-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("positions_why", positions_why, strict=True).passed

# %% nbgrader={"grade": false, "grade_id": "positions_sum", "locked": false, "schema_version": 3, "solution": true, "task": false}
positions_sum = None  # your letter, in quotes
### BEGIN SOLUTION
positions_sum = "e"
### END SOLUTION
check("positions_sum", positions_sum)

# %% nbgrader={"grade": true, "grade_id": "positions_sum-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("positions_sum", positions_sum, strict=True).passed

# %% [markdown]
# ## Training
#
# Lesson 07.

# %% nbgrader={"grade": false, "grade_id": "warmup_why", "locked": false, "schema_version": 3, "solution": true, "task": false}
warmup_why = None  # your letter, in quotes
### BEGIN SOLUTION
warmup_why = "c"
### END SOLUTION
check("warmup_why", warmup_why)

# %% nbgrader={"grade": true, "grade_id": "warmup_why-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("warmup_why", warmup_why, strict=True).passed

# %% nbgrader={"grade": false, "grade_id": "smoothing_perplexity", "locked": false, "schema_version": 3, "solution": true, "task": false}
smoothing_perplexity = None  # your letter, in quotes
### BEGIN SOLUTION
smoothing_perplexity = "e"
### END SOLUTION
check("smoothing_perplexity", smoothing_perplexity)

# %% nbgrader={"grade": true, "grade_id": "smoothing_perplexity-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("smoothing_perplexity", smoothing_perplexity, strict=True).passed

# %% nbgrader={"grade": false, "grade_id": "averaging_what", "locked": false, "schema_version": 3, "solution": true, "task": false}
averaging_what = None  # your letter, in quotes
### BEGIN SOLUTION
averaging_what = "e"
### END SOLUTION
check("averaging_what", averaging_what)

# %% nbgrader={"grade": true, "grade_id": "averaging_what-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("averaging_what", averaging_what, strict=True).passed

# %% nbgrader={"grade": false, "grade_id": "averaging_last", "locked": false, "schema_version": 3, "solution": true, "task": false}
averaging_last = None  # your letter, in quotes
### BEGIN SOLUTION
averaging_last = "c"
### END SOLUTION
check("averaging_last", averaging_last)

# %% nbgrader={"grade": true, "grade_id": "averaging_last-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("averaging_last", averaging_last, strict=True).passed

# %% [markdown]
# ## Judging
#
# Lessons 08 and 09c.

# %% nbgrader={"grade": false, "grade_id": "bleu_corpus", "locked": false, "schema_version": 3, "solution": true, "task": false}
bleu_corpus = None  # your letter, in quotes
### BEGIN SOLUTION
bleu_corpus = "b"
### END SOLUTION
check("bleu_corpus", bleu_corpus)

# %% nbgrader={"grade": true, "grade_id": "bleu_corpus-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("bleu_corpus", bleu_corpus, strict=True).passed

# %% nbgrader={"grade": false, "grade_id": "bleu_tokens", "locked": false, "schema_version": 3, "solution": true, "task": false}
bleu_tokens = None  # your letter, in quotes
### BEGIN SOLUTION
bleu_tokens = "c"
### END SOLUTION
check("bleu_tokens", bleu_tokens)

# %% nbgrader={"grade": true, "grade_id": "bleu_tokens-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("bleu_tokens", bleu_tokens, strict=True).passed

# %% nbgrader={"grade": false, "grade_id": "table3_noise", "locked": false, "schema_version": 3, "solution": true, "task": false}
table3_noise = None  # your letter, in quotes
### BEGIN SOLUTION
table3_noise = "e"
### END SOLUTION
check("table3_noise", table3_noise)

# %% nbgrader={"grade": true, "grade_id": "table3_noise-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("table3_noise", table3_noise, strict=True).passed

# %% nbgrader={"grade": false, "grade_id": "table3_dk", "locked": false, "schema_version": 3, "solution": true, "task": false}
table3_dk = None  # your letter, in quotes
### BEGIN SOLUTION
table3_dk = "d"
### END SOLUTION
check("table3_dk", table3_dk)

# %% nbgrader={"grade": true, "grade_id": "table3_dk-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("table3_dk", table3_dk, strict=True).passed

# %% [markdown]
# ## Beyond translation
#
# Lesson 10.

# %% nbgrader={"grade": false, "grade_id": "parsing_linear", "locked": false, "schema_version": 3, "solution": true, "task": false}
parsing_linear = None  # your letter, in quotes
### BEGIN SOLUTION
parsing_linear = "e"
### END SOLUTION
check("parsing_linear", parsing_linear)

# %% nbgrader={"grade": true, "grade_id": "parsing_linear-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("parsing_linear", parsing_linear, strict=True).passed

# %% nbgrader={"grade": false, "grade_id": "parsing_f1", "locked": false, "schema_version": 3, "solution": true, "task": false}
parsing_f1 = None  # your letter, in quotes
### BEGIN SOLUTION
parsing_f1 = "a"
### END SOLUTION
check("parsing_f1", parsing_f1)

# %% nbgrader={"grade": true, "grade_id": "parsing_f1-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("parsing_f1", parsing_f1, strict=True).passed

# %% nbgrader={"grade": false, "grade_id": "bert_gpt_difference", "locked": false, "schema_version": 3, "solution": true, "task": false}
bert_gpt_difference = None  # your letter, in quotes
### BEGIN SOLUTION
bert_gpt_difference = "b"
### END SOLUTION
check("bert_gpt_difference", bert_gpt_difference)

# %% nbgrader={"grade": true, "grade_id": "bert_gpt_difference-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("bert_gpt_difference", bert_gpt_difference, strict=True).passed

# %% nbgrader={"grade": false, "grade_id": "bert_writes", "locked": false, "schema_version": 3, "solution": true, "task": false}
bert_writes = None  # your letter, in quotes
### BEGIN SOLUTION
bert_writes = "a"
### END SOLUTION
check("bert_writes", bert_writes)

# %% nbgrader={"grade": true, "grade_id": "bert_writes-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("bert_writes", bert_writes, strict=True).passed

# %% [markdown]
# All green? `python -m course homework list` names the reasons that are not on this page; the lessons ask for
# them where they show them. A teacher who grades wants this notebook itself, saved. Next come [the six
# questions](../questions/questions.ipynb), which want sentences instead of letters.
