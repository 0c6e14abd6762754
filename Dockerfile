# Airflow with Lakescore: one image for all components of a deployment (docs/airflow.md), each with its own command.
#
#     docker build -t lakescore .
#     docker run --rm lakescore lakescore --help
#
# constraints.txt pins every release, including Airflow's, so the base image needs only Python.
FROM python:3.11-slim-bookworm

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/lakescore/dags \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    LAKESCORE_LAKE=/lake \
    LAKESCORE_MODELS=/models

RUN useradd --uid 50000 --gid 0 --create-home airflow \
    && mkdir -p /opt/airflow /lake /models \
    && chown -R airflow:0 /opt/airflow /lake /models

WORKDIR /opt/lakescore
COPY pyproject.toml constraints.txt README.md ./
COPY pipeline ./pipeline
COPY sql ./sql
COPY dags ./dags
RUN pip install --extra-index-url "$TORCH_INDEX" -c constraints.txt '.[airflow,notify,object-store,postgres]'

USER 50000
VOLUME ["/lake", "/models", "/opt/airflow"]
CMD ["airflow", "api-server"]
