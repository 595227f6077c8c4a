# The course in one container, without a GPU and, once built, without a network:
#   docker build -t attention-course .
#   docker run --rm -p 8888:8888 attention-course      # then open the address that it prints
FROM python:3.11-slim

# where pip finds torch without CUDA: half a gigabyte instead of several
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

RUN apt-get update \
    && apt-get install --yes --no-install-recommends bubblewrap fonts-noto-cjk git make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 learner \
    && install --directory --owner learner /opt/course
USER learner
WORKDIR /home/learner/attention-course

COPY --chown=learner requirements.txt constraints.txt pyproject.toml README.md ./
COPY --chown=learner course/__init__.py course/
RUN python -m venv /opt/course \
    && /opt/course/bin/pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" -r requirements.txt
COPY --chown=learner . .
# `make lab` and its like find an environment that is installed
RUN ln -s /opt/course .venv && touch .venv/installed

ENV PATH=/opt/course/bin:$PATH PYTHONUTF8=1 COURSE_OFFLINE=1 \
    JUPYTER_CONFIG_PATH=/home/learner/attention-course/assets/jupyter
EXPOSE 8888
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--no-browser", "notebooks/00_start_here.ipynb"]
