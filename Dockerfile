# docker build --tag maskfeat .                                         CPU
# docker build --tag maskfeat --build-arg TORCH_INDEX=URL_OF_TORCH_BUILDS .   another build of torch
# docker run --rm --volume "$PWD/photos:/photos" maskfeat segment /photos --out /photos/segments
ARG PYTHON=3.11
FROM python:${PYTHON}-slim
ARG TORCH_INDEX=""
WORKDIR /opt/maskfeat
COPY pyproject.toml README.md LICENSE ./
COPY maskfeat maskfeat
COPY conf conf
COPY data_shards data_shards
RUN if [ -n "$TORCH_INDEX" ]; then \
      pip install --no-cache-dir --index-url "$TORCH_INDEX" torch torchvision; \
    fi \
    && pip install --no-cache-dir .
WORKDIR /work
ENTRYPOINT ["maskfeat"]
CMD ["--help"]
