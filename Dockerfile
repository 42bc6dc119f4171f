# evolve on CPUs:
#
#     docker build --tag evolve .
#     docker run --rm --volume evolve:/home/researcher evolve run glyphs-seq25 --profile quick
#
# The volume keeps runs, their store, decoded images and compiled kernels. docs/install.md says more.
FROM python:3.11-slim

RUN useradd --create-home researcher

# PyTorch's own CPU wheels are smaller: --build-arg TORCH="--index-url https://download.pytorch.org/whl/cpu"
ARG TORCH=""
RUN pip install --no-cache-dir torch torchvision $TORCH

WORKDIR /opt/evolve
COPY setup.py setup.cfg pyproject.toml README.md LICENSE ./
COPY evolve evolve
COPY scenarios scenarios
COPY benchmarks benchmarks
RUN pip install --no-cache-dir .

USER researcher
WORKDIR /home/researcher
VOLUME /home/researcher
ENTRYPOINT ["evolve"]
CMD ["--help"]
