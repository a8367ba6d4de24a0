"""Every knob of the web side, from the environment; a wrong value stops the start with its name."""

import os
import secrets
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import dj_database_url
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured

from annotation_app.run_settings import read_run_settings

BASE_DIR = Path(__file__).resolve().parent.parent


def env_choice(name: str, default: str, *allowed: str) -> str:
    """One of ``allowed``, as it is written there; capitals do not count."""
    value = os.environ.get(name, default)
    for choice in allowed:
        if value.lower() == choice.lower():
            return choice
    raise ImproperlyConfigured(f"{name} is {value!r}, allowed are {', '.join(allowed)}")


def env_bool(name: str, default: bool) -> bool:
    return env_choice(name, str(default), "true", "false") == "true"


def env_int(name: str, default: int, low: int, high: int) -> int:
    value = os.environ.get(name, str(default))
    if not value.isdigit() or not low <= int(value) <= high:
        raise ImproperlyConfigured(f"{name} is {value!r}, allowed is a number from {low} to {high}")
    return int(value)


def env_float(name: str, default: float, low: float, high: float) -> float:
    value = os.environ.get(name, str(default))
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not low <= number <= high:
        raise ImproperlyConfigured(f"{name} is {value!r}, allowed is a number from {low} to {high}")
    return number


def env_list(name: str, default: str) -> list[str]:
    return [item.strip() for item in os.environ.get(name, default).split(",") if item.strip()]


def env_url(name: str, default: str, *schemes: str) -> str:
    """An address without a slash at its end; ``default``, which may be none, where it is empty.

    Addresses of the web are shown and stored: they hold no key.
    """
    value = (os.environ.get(name) or default).rstrip("/")
    try:
        parts = urlsplit(value)
        is_address = parts.scheme in schemes and parts.hostname and parts.port != 0
    except ValueError:  # the port is no number, or a bracket is open
        is_address = False
    holds_key = not {"@", "?"}.isdisjoint(value)
    is_of_the_web = "http" in schemes
    if value and (not is_address or (is_of_the_web and holds_key)):
        what = "cannot be used" if holds_key else f"is {value!r}"
        without = ", without a key" if is_of_the_web else ""
        starts = " or ".join(f"{scheme}://" for scheme in schemes)
        raise ImproperlyConfigured(f"{name} {what}, allowed is {starts} and a host{without}")
    return value


# --- where the running system writes ---------------------------------------------------------

VAR_DIR = (BASE_DIR / os.environ.get("TANDEM_VAR", "var")).resolve()
STORAGE_ROOT = VAR_DIR / "storage"


def generated_secret_key() -> str:
    """The key in the var folder, made on first use and readable by its owner only."""
    file = VAR_DIR / "secret_key"
    if not file.exists():
        VAR_DIR.mkdir(parents=True, exist_ok=True)
        temporary = VAR_DIR / f"secret_key.{os.getpid()}"
        with open(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w") as opened:
            opened.write(secrets.token_urlsafe(64))
        try:
            os.link(temporary, file)  # never over a key that another process has just made
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    return file.read_text().strip()


DEBUG = env_bool("DEBUG", False)
SECRET_KEY = os.environ.get("SECRET_KEY") or generated_secret_key()
ALLOWED_HOSTS = env_list("ALLOWED_HOSTS", "127.0.0.1,localhost,[::1]")
CSRF_TRUSTED_ORIGINS = env_list("CSRF_TRUSTED_ORIGINS", "")
BIND_ADDRESS = os.environ.get("BIND_ADDRESS", "127.0.0.1")  # of web, live and the local models
PORT = env_int("PORT", 8000, 1, 65_535)
SITE_URL = env_url("SITE_URL", f"http://127.0.0.1:{PORT}", "http", "https")
BEHIND_TLS_PROXY = env_bool("BEHIND_TLS_PROXY", False)

LIVE_PORT = env_int("LIVE_PORT", 8002, 1, 65_535)
LIVE_URL = os.environ.get("LIVE_URL", "").rstrip("/")  # none: the page's own host at LIVE_PORT
if not LIVE_URL and BEHIND_TLS_PROXY:
    LIVE_URL = SITE_URL
if LIVE_URL and not (urlsplit(LIVE_URL).netloc and LIVE_URL.count("/") == 2):
    raise ImproperlyConfigured(f"LIVE_URL is {LIVE_URL!r}, allowed is an origin: https://HOST")

# --- the parts -------------------------------------------------------------------------------

INSTALLED_APPS = [
    "annotation_app",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.humanize",
    "django.contrib.staticfiles",
    "django_htmx",
    "csp",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "annotation_app.sessions.PersonMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "csp.middleware.CSPMiddleware",
    "annotation_app.access.RefusalMiddleware",
]
ROOT_URLCONF = "annotation_app.urls"
WSGI_APPLICATION = "annotation_app.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]

# --- database --------------------------------------------------------------------------------

DATABASE_URL = os.environ.get("DATABASE_URL", f"sqlite:///{VAR_DIR / 'tandem.sqlite3'}")
try:
    DATABASES = {"default": dj_database_url.parse(DATABASE_URL)}
except ValueError:
    DATABASES = {"default": {}}
_engine = DATABASES["default"].get("ENGINE")
if _engine not in ("django.db.backends.sqlite3", "django.db.backends.postgresql"):
    raise ImproperlyConfigured(
        "DATABASE_URL cannot be used, allowed are sqlite:///FILE and postgres://USER:PASSWORD@HOST/NAME"
    )
if _engine.endswith("sqlite3"):
    VAR_DIR.mkdir(parents=True, exist_ok=True)
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }
    # A file, since the in-memory test database refuses threads with "table is locked".
    DATABASES["default"]["TEST"] = {"NAME": str(VAR_DIR / "test.sqlite3")}
else:
    # Plans are kept with the connection: planning the draw costs more than running it.
    DATABASES["default"]["OPTIONS"] = {"server_side_binding": True, "prepare_threshold": 5}
DATABASES["default"]["CONN_MAX_AGE"] = 60
DATABASES["default"]["CONN_HEALTH_CHECKS"] = False
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- queue -----------------------------------------------------------------------------------


def redis_url() -> str:
    """REDIS_URL, or the embedded server's address which it writes when it starts."""
    address = VAR_DIR / "redis" / "url"
    embedded = address.read_text().strip() if address.exists() else "redis://127.0.0.1:6379/0"
    return env_url("REDIS_URL", embedded, "redis", "rediss")


REDIS_URL = redis_url()
GPU_WORKERS = env_int("GPU_WORKERS", 1, 1, 64)
RUN_HEARTBEAT_TIMEOUT_SECONDS = env_int("RUN_HEARTBEAT_TIMEOUT_SECONDS", 600, 5, 86_400)
BEAT_SECONDS = env_int("BEAT_SECONDS", 15, 1, 3_600)
EVALUATE_AFTER_TRAINING = env_bool("EVALUATE_AFTER_TRAINING", True)
CHILD_LAUNCHER = os.environ.get("CHILD_LAUNCHER", "")  # "srun python"
TRAIN_LAUNCHER = os.environ.get("TRAIN_LAUNCHER", "")  # "torchrun --standalone --nproc-per-node 8"

# --- people ----------------------------------------------------------------------------------

AUTH_USER_MODEL = "annotation_app.Person"
LOGIN_URL = "sign_in"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "sign_in"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
PASSWORD_RESET_TIMEOUT = env_int("SIGN_IN_LINK_SECONDS", 86_400, 60, 30 * 86_400)
SESSION_ENGINE = "annotation_app.sessions"
SESSION_COOKIE_AGE = 14 * 86_400
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = BEHIND_TLS_PROXY
if BEHIND_TLS_PROXY:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_HSTS_SECONDS = 31_536_000

# --- annotation ------------------------------------------------------------------------------

LEASE_SECONDS = env_int("LEASE_SECONDS", 600, 5, 86_400)
HEARTBEAT_SECONDS = env_int("HEARTBEAT_SECONDS", 30, 1, 3_600)
if HEARTBEAT_SECONDS >= LEASE_SECONDS:
    raise ImproperlyConfigured(
        f"HEARTBEAT_SECONDS is {HEARTBEAT_SECONDS}, allowed is less than LEASE_SECONDS, "
        f"{LEASE_SECONDS}"
    )
UNDO_SECONDS = env_int("UNDO_SECONDS", 600, 0, 86_400)
OVERLAP = env_int("OVERLAP", 1, 1, 32)
DUAL_SHARE = env_float("DUAL_SHARE", 0.0, 0.0, 1.0)
HOLDOUT_SHARE = env_float("HOLDOUT_SHARE", 0.1, 0.0, 0.9)
HOLDOUT_CAP_PER_BATCH = env_int("HOLDOUT_CAP_PER_BATCH", 1_000, 1, 1_000_000)
BATCH_DAYS = env_int("BATCH_DAYS", 7, 1, 365)

# --- models ----------------------------------------------------------------------------------

DEMO = env_bool("TANDEM_DEMO", True)
_run_settings = str(BASE_DIR / "demo" / "run_settings.json") if DEMO else ""
_run_settings = os.environ.get("RUN_SETTINGS") or _run_settings
RUN_SETTINGS = read_run_settings(Path(_run_settings)) if _run_settings else {}  # by kind of run
SAMPLER_PORT = env_int("SAMPLER_PORT", 8001, 1, 65_535)  # of the local sampler
SAMPLER_URL = env_url("SAMPLER_URL", f"http://127.0.0.1:{SAMPLER_PORT}", "http", "https")
SAMPLER_API_KEY = os.environ.get("SAMPLER_API_KEY", "")
SAMPLER_TIMEOUT_SECONDS = env_int("SAMPLER_TIMEOUT_SECONDS", 60, 1, 3_600)
SAMPLER_MAX_TOKENS = env_int("SAMPLER_MAX_TOKENS", 512, 1, 100_000)
SCORER_PORT = env_int("SCORER_PORT", 8003, 1, 65_535)  # of the local reward server
SCORER_URL = env_url("SCORER_URL", f"http://127.0.0.1:{SCORER_PORT}", "http", "https")
SCORER_API_KEY = os.environ.get("SCORER_API_KEY", "")
SCORER_TIMEOUT_SECONDS = env_int("SCORER_TIMEOUT_SECONDS", 120, 1, 3_600)
JUDGE_URL = env_url("JUDGE_URL", "", "http", "https")  # none: no chat model judges
JUDGE_MODEL = os.environ.get("JUDGE_MODEL", "")
JUDGE_API_KEY = os.environ.get("JUDGE_API_KEY", "")
if bool(JUDGE_URL) != bool(JUDGE_MODEL):
    raise ImproperlyConfigured(
        f"JUDGE_URL is {JUDGE_URL!r} and JUDGE_MODEL is {JUDGE_MODEL!r}, allowed are both or none"
    )
TASKS_FOLDER = Path(os.environ["TASKS_FOLDER"]) if os.environ.get("TASKS_FOLDER") else None
if TASKS_FOLDER is not None:
    if not TASKS_FOLDER.is_dir():
        raise ImproperlyConfigured(f"TASKS_FOLDER is {str(TASKS_FOLDER)!r}, allowed is a folder")
    TASKS_FOLDER = TASKS_FOLDER.resolve()
LOW_TEMPERATURE = env_float("LOW_TEMPERATURE", 0.8, 0.0, 5.0)
HIGH_TEMPERATURE = env_float("HIGH_TEMPERATURE", 1.0, 0.0, 5.0)
if LOW_TEMPERATURE > HIGH_TEMPERATURE:
    raise ImproperlyConfigured(
        f"LOW_TEMPERATURE is {LOW_TEMPERATURE}, allowed is at most HIGH_TEMPERATURE"
    )
TOP_P = env_float("TOP_P", 1.0, 0.01, 1.0)

# --- pages -----------------------------------------------------------------------------------

USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
USE_I18N = False
STATIC_URL = "static/"
STATIC_ROOT = VAR_DIR / "static"
PLOTLY_BUNDLE = Path(find_spec("plotly").origin).parent / "package_data"  # type: ignore[union-attr, arg-type]
STATICFILES_DIRS = [("plotly", PLOTLY_BUNDLE)]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "annotation_app.static_files.StaticFiles"},
}
WHITENOISE_USE_FINDERS = True
WHITENOISE_KEEP_ONLY_HASHED_FILES = False
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
    }
}
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"

LOG_LEVEL = env_choice("LOG_LEVEL", "INFO", "DEBUG", "INFO", "WARNING", "ERROR")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {"httpx": {"level": "WARNING"}},
    "root": {"handlers": ["console"], "level": LOG_LEVEL},
}
