# The main job in a container: training, evaluation, predictions, and exports to ONNX.
#   docker build -t mnv2 .
#   docker run --rm -v "$PWD:/work" mnv2 train task=ssdlite
#   docker run --rm -v "$PWD:/work" -v <data>:/data:ro --gpus all --shm-size=8g mnv2 train task=ssdlite data=coco data.root=/data
# Results lie in runs/ of the mounted folder. As another user than 1000: --user "$(id -u):$(id -g)".
FROM python:3.11-slim
WORKDIR /src
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY configs configs
COPY mnv2_tasks mnv2_tasks
RUN pip install --no-cache-dir -c requirements.lock '.[onnx,video]'
RUN useradd --create-home --uid 1000 mnv2 && mkdir /work && chown mnv2 /work
USER mnv2
# Any user may write here: what libraries keep of fonts and weights.
ENV HOME=/tmp MPLCONFIGDIR=/tmp
WORKDIR /work
ENTRYPOINT ["mnv2"]
CMD ["--help"]
