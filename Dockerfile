# One image for every process of Tandem; docker-compose.yml says which line each service runs.
# The test suite holds this file against the settings and the Procfile but does not build it.
FROM python:3.12-slim

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/app \
    TANDEM_VAR=/var/lib/tandem

RUN useradd --uid 1000 --create-home tandem \
    && install --directory --owner tandem --group tandem --mode 0700 /var/lib/tandem

WORKDIR /app

# The pinned parts first, so that a change of our own code does not install them again.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN pip install --no-cache-dir -c constraints.txt -e .

COPY . .

USER tandem
VOLUME /var/lib/tandem
EXPOSE 8000
CMD ["/bin/sh", "-c", "exec gunicorn annotation_app.wsgi --bind ${BIND_ADDRESS:-127.0.0.1}:${PORT:-8000} --worker-class gthread --workers 2 --threads 4 --no-control-socket --log-level warning"]
