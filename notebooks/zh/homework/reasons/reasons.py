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
# # 作业 · 为什么
#
# 代码通过了检查，你也未必说得清它为什么对。这份作业就要你说清楚：34 个问题，课程的每个大主题各两个，60 分钟。先合上课文。
#
# 单元格里写着 `None`，就表示这一题还没答：先运行一次看题，再在那里写上你选的字母，加引号，然后再运行。它会告诉你什么是对的；选错了，还会说明照你的想法会得出什么，课程又在哪里讲到这一点。可以再选，但先想清楚，因为最后一次写的字母才算数。下面的那个单元格用来打分，每题 1 分。用 *Run All*（全部运行）时，一遇到还没答对的问题就停在那里。
#
# **先写名字。** 选项的次序按名字打乱，所以你的“b”到了同桌那里是另一个答案。名字要让老师认得出（有学号就写学号），写了就不要改：换一个名字，你的字母就指别的选项了。批改的人从这里读你的名字，所以在哪台机器上批改，看到的次序都和你的一样。

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "06b963a28cff9957445939147a2ed103", "grade": false, "grade_id": "i_am", "locked": false, "schema_version": 3, "solution": true, "task": false}
from course.homework import check, i_am

me = None  # your name, in quotes
i_am(me)

# %% [markdown]
# ## 论文之前
#
# 第 01 课和第 02 课。

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "cbc65409be75f4986e91235a2ef2edf0", "grade": false, "grade_id": "bottleneck_what", "locked": false, "schema_version": 3, "solution": true, "task": false}
bottleneck_what = None  # your letter, in quotes
check("bottleneck_what", bottleneck_what)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "9048f0b4f9fb4bb67dbf8955a475eec4", "grade": true, "grade_id": "bottleneck_what-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("bottleneck_what", bottleneck_what, strict=True).passed

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "7ef177d69d5661bc2f988b5eedd20613", "grade": false, "grade_id": "bottleneck_attention", "locked": false, "schema_version": 3, "solution": true, "task": false}
bottleneck_attention = None  # your letter, in quotes
check("bottleneck_attention", bottleneck_attention)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "0d199f51c527b324e3af80d5b811ffb1", "grade": true, "grade_id": "bottleneck_attention-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("bottleneck_attention", bottleneck_attention, strict=True).passed

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "e280466e1ba2be95700540f30fdfe967", "grade": false, "grade_id": "path_conv", "locked": false, "schema_version": 3, "solution": true, "task": false}
path_conv = None  # your letter, in quotes
check("path_conv", path_conv)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "b2eccf0973746088d8cc209504c9e1e0", "grade": true, "grade_id": "path_conv-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("path_conv", path_conv, strict=True).passed

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "b3efcb2d2178d42e2aae38262fe18bc3", "grade": false, "grade_id": "path_neural_gpu", "locked": false, "schema_version": 3, "solution": true, "task": false}
path_neural_gpu = None  # your letter, in quotes
check("path_neural_gpu", path_neural_gpu)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "c2f02657b78a4de70d129dce28e1303b", "grade": true, "grade_id": "path_neural_gpu-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("path_neural_gpu", path_neural_gpu, strict=True).passed

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "fb7dca5119a352eea0a73c4f861ff18e", "grade": false, "grade_id": "memory_hop_is", "locked": false, "schema_version": 3, "solution": true, "task": false}
memory_hop_is = None  # your letter, in quotes
check("memory_hop_is", memory_hop_is)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "b1b91d24406e54e57601de6734b1cf74", "grade": true, "grade_id": "memory_hop_is-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("memory_hop_is", memory_hop_is, strict=True).passed

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "51d5efe7e58b017982c03dfb3dee5eff", "grade": false, "grade_id": "memory_waits", "locked": false, "schema_version": 3, "solution": true, "task": false}
memory_waits = None  # your letter, in quotes
check("memory_waits", memory_waits)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "43a57c350672daa2a88e7040f1f8d95d", "grade": true, "grade_id": "memory_waits-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("memory_waits", memory_waits, strict=True).passed

# %% [markdown]
# ## 注意力
#
# 第 03 课和第 05 课。

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "a3d6b6c6c1ea745f006a9feba67c299b", "grade": false, "grade_id": "self_attention_is", "locked": false, "schema_version": 3, "solution": true, "task": false}
self_attention_is = None  # your letter, in quotes
check("self_attention_is", self_attention_is)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "0a88b9b4637ac84be5c443a881470cac", "grade": true, "grade_id": "self_attention_is-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("self_attention_is", self_attention_is, strict=True).passed

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "aa8d1179d5714051a598ba2d8760ac45", "grade": false, "grade_id": "cross_attention_sources", "locked": false, "schema_version": 3, "solution": true, "task": false}
cross_attention_sources = None  # your letter, in quotes
check("cross_attention_sources", cross_attention_sources)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "5b823259113120343828c8d79f807fa4", "grade": true, "grade_id": "cross_attention_sources-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("cross_attention_sources", cross_attention_sources, strict=True).passed

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "3f808265bddea1d3b217f99beed0baea", "grade": false, "grade_id": "why_scale", "locked": false, "schema_version": 3, "solution": true, "task": false}
why_scale = None  # your letter, in quotes
check("why_scale", why_scale)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "75ae2eb18db0b9b694dc62b08a13c08c", "grade": true, "grade_id": "why_scale-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("why_scale", why_scale, strict=True).passed

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "240edd95faab972bc228860a80aea52d", "grade": false, "grade_id": "scale_by_d_k", "locked": false, "schema_version": 3, "solution": true, "task": false}
scale_by_d_k = None  # your letter, in quotes
check("scale_by_d_k", scale_by_d_k)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "b78d0d9047179a03981c4e89bbd974ab", "grade": true, "grade_id": "scale_by_d_k-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("scale_by_d_k", scale_by_d_k, strict=True).passed

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "9d81a158d84b16a5f5c54ec6ce975346", "grade": false, "grade_id": "heads_why", "locked": false, "schema_version": 3, "solution": true, "task": false}
heads_why = None  # your letter, in quotes
check("heads_why", heads_why)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "6bf37b44472f56ddba184545aa24455b", "grade": true, "grade_id": "heads_why-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("heads_why", heads_why, strict=True).passed

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "8ebb349859509b50fb4ac2ea6c34e02b", "grade": false, "grade_id": "heads_cost", "locked": false, "schema_version": 3, "solution": true, "task": false}
heads_cost = None  # your letter, in quotes
check("heads_cost", heads_cost)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "6ae5e278ad3a020493000d8e7acb2333", "grade": true, "grade_id": "heads_cost-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("heads_cost", heads_cost, strict=True).passed

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "35d2f437f8dead715c7f5f6d63261de9", "grade": false, "grade_id": "cost_double", "locked": false, "schema_version": 3, "solution": true, "task": false}
cost_double = None  # your letter, in quotes
check("cost_double", cost_double)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "08b56c2c348948a4eb9e048456bbc75f", "grade": true, "grade_id": "cost_double-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("cost_double", cost_double, strict=True).passed

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "d7c3eacd04bb6615c5da1126ccb73a03", "grade": false, "grade_id": "cost_why_prefer", "locked": false, "schema_version": 3, "solution": true, "task": false}
cost_why_prefer = None  # your letter, in quotes
check("cost_why_prefer", cost_why_prefer)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "f2eef6bd3de3d22e7e69c28c04dcce6d", "grade": true, "grade_id": "cost_why_prefer-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("cost_why_prefer", cost_why_prefer, strict=True).passed

# %% [markdown]
# ## 掩码，以及哪些计算可以并行
#
# 第 03 课和第 04 课。

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "be69b78c5ad369f60bef52e86a32731d", "grade": false, "grade_id": "mask_before_softmax", "locked": false, "schema_version": 3, "solution": true, "task": false}
mask_before_softmax = None  # your letter, in quotes
check("mask_before_softmax", mask_before_softmax)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "b346d78c4ee5937874a02b23da2ebd79", "grade": true, "grade_id": "mask_before_softmax-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("mask_before_softmax", mask_before_softmax, strict=True).passed

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "73ede58133f729f60330772eac26d461", "grade": false, "grade_id": "mask_leak", "locked": false, "schema_version": 3, "solution": true, "task": false}
mask_leak = None  # your letter, in quotes
check("mask_leak", mask_leak)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "b8f406f188eee1e285a692c133e914f5", "grade": true, "grade_id": "mask_leak-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("mask_leak", mask_leak, strict=True).passed

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "47abee7a1cdbb995750eaa7b87be2e95", "grade": false, "grade_id": "why_shift", "locked": false, "schema_version": 3, "solution": true, "task": false}
why_shift = None  # your letter, in quotes
check("why_shift", why_shift)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "8b7ceaa51c6580ba86973e448aee2091", "grade": true, "grade_id": "why_shift-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("why_shift", why_shift, strict=True).passed

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "67276055f97a721b111eb9c3f9f9ddb5", "grade": false, "grade_id": "parallel_training", "locked": false, "schema_version": 3, "solution": true, "task": false}
parallel_training = None  # your letter, in quotes
check("parallel_training", parallel_training)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "3a931b4e4a5483f67ea9814a976829a4", "grade": true, "grade_id": "parallel_training-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("parallel_training", parallel_training, strict=True).passed

# %% [markdown]
# ## 模型
#
# 第 05 课。

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "c381eac8ff6d8e7e5a04306c0ab90361", "grade": false, "grade_id": "residual_gradient", "locked": false, "schema_version": 3, "solution": true, "task": false}
residual_gradient = None  # your letter, in quotes
check("residual_gradient", residual_gradient)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "0168138fb9478a107fdd908d6426ffd3", "grade": true, "grade_id": "residual_gradient-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("residual_gradient", residual_gradient, strict=True).passed

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "9ffff229c7a6f121effc98e661492db5", "grade": false, "grade_id": "residual_depth", "locked": false, "schema_version": 3, "solution": true, "task": false}
residual_depth = None  # your letter, in quotes
check("residual_depth", residual_depth)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "7d182172c7e8aee11dd3a78520ceed6a", "grade": true, "grade_id": "residual_depth-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("residual_depth", residual_depth, strict=True).passed

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "7a1b4333ab10fc4e3b55a74ff5ccdf51", "grade": false, "grade_id": "positions_why", "locked": false, "schema_version": 3, "solution": true, "task": false}
positions_why = None  # your letter, in quotes
check("positions_why", positions_why)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "b47ea096f1ed89234474cc3d80747797", "grade": true, "grade_id": "positions_why-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("positions_why", positions_why, strict=True).passed

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "feda06bc93bda24232ed46bd7cef89d0", "grade": false, "grade_id": "positions_sum", "locked": false, "schema_version": 3, "solution": true, "task": false}
positions_sum = None  # your letter, in quotes
check("positions_sum", positions_sum)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "44da648614798f03593ca26348768c8d", "grade": true, "grade_id": "positions_sum-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("positions_sum", positions_sum, strict=True).passed

# %% [markdown]
# ## 训练
#
# 第 07 课。

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "a742bc0a86beeed41a50dc3479c3b5de", "grade": false, "grade_id": "warmup_why", "locked": false, "schema_version": 3, "solution": true, "task": false}
warmup_why = None  # your letter, in quotes
check("warmup_why", warmup_why)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "f422bf65b1b9f8b33f0820b88668c107", "grade": true, "grade_id": "warmup_why-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("warmup_why", warmup_why, strict=True).passed

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "bfe214eb1f0af074f8e72121a228e848", "grade": false, "grade_id": "smoothing_perplexity", "locked": false, "schema_version": 3, "solution": true, "task": false}
smoothing_perplexity = None  # your letter, in quotes
check("smoothing_perplexity", smoothing_perplexity)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "7000c4f1998910a30bd08762c678d946", "grade": true, "grade_id": "smoothing_perplexity-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("smoothing_perplexity", smoothing_perplexity, strict=True).passed

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "c5ac43481db674615d172b5d27dc8dcd", "grade": false, "grade_id": "averaging_what", "locked": false, "schema_version": 3, "solution": true, "task": false}
averaging_what = None  # your letter, in quotes
check("averaging_what", averaging_what)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "7b600c294772b2ef2042ab0b7ebfa22d", "grade": true, "grade_id": "averaging_what-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("averaging_what", averaging_what, strict=True).passed

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "55a07f28acede61de55c32fed52cebea", "grade": false, "grade_id": "averaging_last", "locked": false, "schema_version": 3, "solution": true, "task": false}
averaging_last = None  # your letter, in quotes
check("averaging_last", averaging_last)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "0d371fcecbafb334d96c269bc34b3669", "grade": true, "grade_id": "averaging_last-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("averaging_last", averaging_last, strict=True).passed

# %% [markdown]
# ## 评判
#
# 第 08 课和第 09c 课。

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "450a7e9b9524350959a8c2b252ff5ecb", "grade": false, "grade_id": "bleu_corpus", "locked": false, "schema_version": 3, "solution": true, "task": false}
bleu_corpus = None  # your letter, in quotes
check("bleu_corpus", bleu_corpus)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "6350a3ae32ef11d7dbac1bdd8ebf27c9", "grade": true, "grade_id": "bleu_corpus-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("bleu_corpus", bleu_corpus, strict=True).passed

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "6917ffae82ab86002f63f8973c0486a5", "grade": false, "grade_id": "bleu_tokens", "locked": false, "schema_version": 3, "solution": true, "task": false}
bleu_tokens = None  # your letter, in quotes
check("bleu_tokens", bleu_tokens)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "3749f6cb5f0fe1ef1147a5788982196a", "grade": true, "grade_id": "bleu_tokens-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("bleu_tokens", bleu_tokens, strict=True).passed

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "097591b6c3aed65ea19e610570629650", "grade": false, "grade_id": "table3_noise", "locked": false, "schema_version": 3, "solution": true, "task": false}
table3_noise = None  # your letter, in quotes
check("table3_noise", table3_noise)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "f7fd0e42d5db85d4ca46d5df030c553d", "grade": true, "grade_id": "table3_noise-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("table3_noise", table3_noise, strict=True).passed

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "da268eb2b9de8e852cf8a3bc5fb0f7ac", "grade": false, "grade_id": "table3_dk", "locked": false, "schema_version": 3, "solution": true, "task": false}
table3_dk = None  # your letter, in quotes
check("table3_dk", table3_dk)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "cab0ebc1705fe0c1dcdbffc89c86ade7", "grade": true, "grade_id": "table3_dk-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("table3_dk", table3_dk, strict=True).passed

# %% [markdown]
# ## 翻译之外
#
# 第 10 课。

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "d1041c72c7fdb18f57ca4505e3a4fd5f", "grade": false, "grade_id": "parsing_linear", "locked": false, "schema_version": 3, "solution": true, "task": false}
parsing_linear = None  # your letter, in quotes
check("parsing_linear", parsing_linear)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "69c814408e66d28bc74646f10ff83bf3", "grade": true, "grade_id": "parsing_linear-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("parsing_linear", parsing_linear, strict=True).passed

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "bca93c293adedd76e92b105ecf048c01", "grade": false, "grade_id": "parsing_f1", "locked": false, "schema_version": 3, "solution": true, "task": false}
parsing_f1 = None  # your letter, in quotes
check("parsing_f1", parsing_f1)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "8d2567fc5eb65d284511e8cdd5e0c074", "grade": true, "grade_id": "parsing_f1-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("parsing_f1", parsing_f1, strict=True).passed

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "5277ddbe8e52cb6a95269cf0c7b1177f", "grade": false, "grade_id": "bert_gpt_difference", "locked": false, "schema_version": 3, "solution": true, "task": false}
bert_gpt_difference = None  # your letter, in quotes
check("bert_gpt_difference", bert_gpt_difference)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "7e67a9ef809af492fefcc6c389ed414b", "grade": true, "grade_id": "bert_gpt_difference-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("bert_gpt_difference", bert_gpt_difference, strict=True).passed

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "b2c9244757207768626b1673f00d6d1b", "grade": false, "grade_id": "bert_writes", "locked": false, "schema_version": 3, "solution": true, "task": false}
bert_writes = None  # your letter, in quotes
check("bert_writes", bert_writes)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "cafba05ec838363e7a0ff2e2849ef1f3", "grade": true, "grade_id": "bert_writes-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("bert_writes", bert_writes, strict=True).passed

# %% [markdown]
# 全都答对了？还有一些问题不在这一页上，`python -m course homework list` 会列出来；课文讲到哪里，就会在哪里问你。老师要打分的话，交的是这个笔记本本身，记得先保存。接下来是[六个问题](../questions/questions.ipynb)，那里要写句子，不是选字母。
