# CUDA comes with torch's own package; the host needs NVIDIA's driver and container toolkit.
#   docker build -t sevit-bench .
#   docker run --rm --gpus all -v "$PWD/results/local:/sevit-bench/results/local" sevit-bench --preset quick
FROM python:3.11-slim
# git names the commit in every record; a C compiler is what --setting compiled needs.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ git && rm -rf /var/lib/apt/lists/*
WORKDIR /sevit-bench
COPY pyproject.toml constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt torch
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt --editable . && git config --system --add safe.directory /sevit-bench
ENTRYPOINT ["python", "run_bench.py"]
