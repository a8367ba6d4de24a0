"""Procfile, Dockerfile, docker-compose.yml, settings and the README's table say the same."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from annotation_app.processes.start import PREPARATIONS, read_procfile

ROOT = Path(__file__).resolve().parent.parent
VAR = "/var/lib/tandem"
OURS = ("prepare", "web", "live", "worker", "gpu", "beat", "sampler", "scorer")
SAMPLER_PORT = 8001
SCORER_PORT = 8003
READERS = {"env_choice", "env_bool", "env_int", "env_float", "env_list", "env_url"}
VARIABLE = re.compile(r"\$\{([A-Z_]+)(:-|:\?)?([^}]*)\}")
SECRET = re.compile("SECRET|PASSWORD")


def text(name: str) -> str:
    return (ROOT / name).read_text()


def settings_variables() -> dict[str, object]:
    """Every environment variable that the settings read, with its default where it is written."""
    found: dict[str, object] = {}
    for node in ast.walk(ast.parse(text("annotation_app/settings.py"))):
        if not (isinstance(node, (ast.Call, ast.Subscript))):
            continue
        if isinstance(node, ast.Subscript):
            is_reader, arguments = ast.unparse(node.value) == "os.environ", [node.slice]
        else:
            is_reader = ast.unparse(node.func) in {*READERS, "os.environ.get"}
            arguments = node.args
        if is_reader and isinstance(arguments[0], ast.Constant):
            found.setdefault(arguments[0].value, None)
            if len(arguments) > 1 and isinstance(arguments[1], ast.Constant):
                found[arguments[0].value] = arguments[1].value
    return found


def readme_table(heading: str) -> dict[str, str]:
    """name → default as written, of the table under a heading."""
    section = text("README.md").split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|")[1:4] for line in section.splitlines() if line.startswith("| `")]
    return {name.strip().strip("`"): default.strip().strip("`") for name, default, _ in rows}


@pytest.fixture(scope="module")
def compose() -> dict:
    return yaml.safe_load(text("docker-compose.yml"))


@pytest.fixture(scope="module")
def procfile() -> dict[str, str]:
    return read_procfile(ROOT / "Procfile")


def command_of(service: dict) -> str:
    shell, flag, command = service["command"]
    assert (shell, flag) == ("/bin/sh", "-c")
    return command.replace("$$", "$")


def interpolated() -> list[tuple[str, str, str]]:
    """(name, operator, word) of every ${…} that Compose itself fills in."""
    return VARIABLE.findall(text("docker-compose.yml").replace("$${", "{"))


# --- commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in OURS if name != "prepare"])
def test_a_service_runs_its_line_of_the_procfile(compose, procfile, name):
    assert command_of(compose["services"][name]) == procfile[name]


def test_every_line_of_the_procfile_is_a_service(compose, procfile):
    assert set(procfile) <= set(compose["services"])


def test_preparation_runs_what_the_launcher_runs(compose):
    commands = command_of(compose["services"]["prepare"]).replace("exec ", "").split(" && ")
    assert commands == [f"python manage.py {' '.join(words)}" for words in PREPARATIONS]


def test_the_image_serves_pages_by_default(procfile):
    command = next(line for line in text("Dockerfile").splitlines() if line.startswith("CMD "))
    assert json.loads(command.removeprefix("CMD ")) == ["/bin/sh", "-c", procfile["web"]]


# --- variables ------------------------------------------------------------------------------------


def test_services_are_given_only_what_the_settings_read(compose):
    known = settings_variables()
    for name in OURS:
        assert compose["services"][name]["environment"].keys() <= known.keys(), name


def test_lines_of_the_procfile_use_only_what_the_settings_read(procfile):
    known = settings_variables()
    for command in procfile.values():
        for name, operator, default in VARIABLE.findall(command):
            assert operator == ":-"
            assert default == str(known[name]), name


def test_the_readme_explains_every_setting():
    explained = readme_table("Settings")
    assert explained.keys() == settings_variables().keys()


def test_the_readme_knows_the_defaults():
    explained = readme_table("Settings")
    for name, default in settings_variables().items():
        if default is None or default == "":
            continue
        written = str(default).lower() if isinstance(default, bool) else str(default)
        assert explained[name].replace(",", "") == written.replace(",", ""), name


def test_the_readme_explains_what_only_compose_reads(compose):
    own = {name for name, _, _ in interpolated()} - settings_variables().keys()
    assert readme_table("Deployment").keys() == own


def test_no_secret_has_a_default(compose):
    secrets = {name: operator for name, operator, _ in interpolated() if SECRET.search(name)}
    assert set(secrets) == {"SECRET_KEY", "POSTGRES_PASSWORD", "REDIS_PASSWORD"}
    assert set(secrets.values()) == {":?"}
    assert not re.search(r"(PASSWORD|SECRET_KEY)[=: ]+[^$\s]", text("Dockerfile"))
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            if SECRET.search(name):
                assert str(value).startswith("${"), name


# --- volumes, ports, image ------------------------------------------------------------------------


def test_one_volume_is_shared_at_the_var_folder(compose):
    for name in OURS:
        service = compose["services"][name]
        assert service["volumes"] == [f"tandem:{VAR}"], name
        assert service["environment"]["TANDEM_VAR"] == VAR
    assert compose["services"]["vllm"]["volumes"] == [f"tandem:{VAR}:ro"]
    assert f"TANDEM_VAR={VAR}\n" in text("Dockerfile")
    assert f"VOLUME {VAR}\n" in text("Dockerfile")
    assert set(compose["volumes"]) == {"tandem", "redis", "postgres"}


def test_pages_are_published_on_the_loopback_only(compose):
    published = {name for name, service in compose["services"].items() if "ports" in service}
    assert published == {"web", "live"}
    assert compose["services"]["live"]["ports"] == ["127.0.0.1:${LIVE_PORT:-8002}:8002"]
    assert compose["services"]["live"]["environment"]["LIVE_PORT"] == 8002
    assert compose["services"]["web"]["ports"] == ["127.0.0.1:${PORT:-8000}:8000"]
    assert compose["services"]["web"]["environment"]["PORT"] == 8000
    assert "EXPOSE 8000\n" in text("Dockerfile")


def test_local_addresses_name_services_and_their_ports(compose):
    environment = compose["services"]["web"]["environment"]
    assert environment["SAMPLER_URL"] == f"${{SAMPLER_URL:-http://sampler:{SAMPLER_PORT}}}"
    assert environment["SAMPLER_PORT"] == SAMPLER_PORT
    assert environment["SCORER_URL"] == f"${{SCORER_URL:-http://scorer:{SCORER_PORT}}}"
    assert environment["SCORER_PORT"] == SCORER_PORT
    assert environment["DATABASE_URL"].endswith("@postgres:5432/tandem")
    assert environment["REDIS_URL"].endswith("@redis:6379/0")
    assert compose["services"]["vllm"]["command"][-1] == str(SAMPLER_PORT)


def test_every_setting_reaches_every_process(compose):
    for name in OURS:
        assert compose["services"][name]["env_file"] == ".env", name


def test_vllm_is_optional(compose):
    profiles = {name: service.get("profiles") for name, service in compose["services"].items()}
    assert {name for name, profile in profiles.items() if profile} == {"vllm"}


def test_nothing_starts_on_an_unprepared_database(compose):
    for name in OURS[1:]:
        assert compose["services"][name]["depends_on"] == {
            "prepare": {"condition": "service_completed_successfully"}
        }
    assert set(compose["services"]["prepare"]["depends_on"]) == {"postgres", "redis"}


def test_the_image_has_the_pinned_parts_and_no_root():
    lines = text("Dockerfile").splitlines()
    python = next(line for line in lines if line.startswith("FROM "))
    low, high = re.search(
        r">=3\.(\d+),<3\.(\d+)", tomllib.loads(text("pyproject.toml"))["project"]["requires-python"]
    ).groups()
    assert int(low) <= int(re.search(r"python:3\.(\d+)", python)[1]) < int(high)
    assert "RUN pip install --no-cache-dir -c constraints.txt -e ." in lines
    assert lines.index("USER tandem") < next(
        number for number, line in enumerate(lines) if line.startswith("CMD ")
    )


def test_the_image_takes_nothing_private_along():
    assert {".git", ".venv", ".env", "var"} <= set(text(".dockerignore").split())
    assert {".venv/", ".env", "var/"} <= set(text(".gitignore").split())


def test_pins_name_no_build_of_one_machine():
    for line in text("constraints.txt").split():
        assert re.fullmatch(r"[\w.-]+==[\w.]+", line), line
