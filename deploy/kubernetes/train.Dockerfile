# The pipeline's image: the project as it is in Git, and its environment. From the project's root:
#   docker build --file deploy/kubernetes/train.Dockerfile --tag REGISTRY/stillhouse-train .
# Git is in it, since a run records the commit that it is of. On a GPU: --build-arg LOCK=gpu. The base is
# that of serving/Dockerfile.j2.
ARG BASE=docker.io/library/python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b
FROM ${BASE}
ARG LOCK=train
RUN apt-get update \
 && apt-get install --yes --no-install-recommends git make \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 1034 stillhouse \
 && useradd --uid 1034 --gid 1034 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin stillhouse
COPY requirements/ /opt/stillhouse/requirements/
RUN python -m venv /opt/stillhouse/venv \
 && /opt/stillhouse/venv/bin/pip install --no-cache-dir --requirement /opt/stillhouse/requirements/${LOCK}.txt \
 && touch /opt/stillhouse/venv/.created
RUN --mount=type=bind,target=/source git config --global --add safe.directory '*' \
 && git clone --no-hardlinks /source /opt/stillhouse/project \
 && touch /opt/stillhouse/venv/.train # newer than the lock, so that make installs nothing
ENV HOME=/tmp LANG=C.UTF-8 PYTHONUNBUFFERED=1
WORKDIR /opt/stillhouse/project
USER 1034:1034
