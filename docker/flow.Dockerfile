# The image that carries out flows: minivess with its command line, the files of flows/, Prefect and
# MLflow. `just images flow` builds it; pools, compose and servers start it with their own command.
#
# Debian's release decides the versions of its packages; BASE=debian@sha256:... pins them too.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS python
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 tini \
    && rm -rf /var/lib/apt/lists/*

# What is to be installed, in a stage of its own: another line of pyproject.toml installs nothing again.
FROM python AS needs
ARG EXTRAS="postgres s3 search"
WORKDIR /source
COPY docker/requirements.py pyproject.toml ./
RUN python3 requirements.py ${EXTRAS} > requirements.txt

FROM python AS build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv
# Where pip finds packages, as pip reads it; these stay in this stage.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_CERT
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
COPY --from=needs /source/requirements.txt ./
COPY constraints.txt ./
# Packages first: a change of the source leaves this layer as it is.
RUN python3 -m venv /opt/minivess \
    && /opt/minivess/bin/pip install -c constraints.txt -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY configs configs
RUN /opt/minivess/bin/pip install --no-deps . \
    && /opt/minivess/bin/pip uninstall -y pip
# What is in the image, in the format CycloneDX: /opt/minivess/sbom.cdx.json
RUN python3 -m venv /opt/sbom \
    && /opt/sbom/bin/pip install cyclonedx-bom==7.5.0 \
    && /opt/sbom/bin/cyclonedx-py environment --output-reproducible \
        --output-file /opt/minivess/sbom.cdx.json /opt/minivess/bin/python

FROM python
ARG VERSION
ARG COMMIT
RUN test -n "${VERSION}" && test -n "${COMMIT}" \
    && useradd --uid 1000 --no-create-home --home-dir /tmp minivess \
    && install -d -o minivess -g minivess /output
COPY --from=build /opt/minivess /opt/minivess
WORKDIR /minivess
COPY flows flows
COPY deployments deployments
LABEL org.opencontainers.image.title="minivess-flow" \
    org.opencontainers.image.description="Profile, train, analyse and deploy 3-D segmentation models" \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${COMMIT}"
# The root may be read-only: everything is written to /output, and to /tmp while it runs.
ENV PATH=/opt/minivess/bin:${PATH} \
    HOME=/tmp \
    PREFECT_HOME=/tmp/prefect \
    MINIVESS_HOME=/output \
    MINIVESS_GIT_COMMIT="${COMMIT}" \
    GIT_PYTHON_REFRESH=quiet \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 1000:1000
VOLUME /output
HEALTHCHECK --interval=5m --timeout=30s CMD ["minivess", "--version"]
# tini hands signals on and ends what a training leaves behind; workers put their command after it.
ENTRYPOINT ["tini", "-g", "--"]
CMD ["minivess", "help"]
