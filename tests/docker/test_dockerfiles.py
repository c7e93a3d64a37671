"""The Dockerfiles keep the rules of rules.py, and every rule can complain."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docker import rules
from docker.build_context import BuildContext, ignored, read_patterns
from docker.dockerfile import Dockerfile, DockerfileError, parse, substitute
from gesso_backend.host import preflight

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
SERVERS = ("cpu", "triton")

GOOD = """\
FROM debian:12.9 AS made
RUN apt-get update && apt-get install --no-install-recommends -y curl && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir --constraint constraints.txt numpy
FROM debian:12.9
LABEL org.opencontainers.image.title="a" org.opencontainers.image.description="b c" \\
      org.opencontainers.image.licenses="d" org.opencontainers.image.version="e" \\
      org.opencontainers.image.revision="f" org.opencontainers.image.base.name="docker.io/library/debian:12.9"
COPY --from=made /opt/ /opt/
WORKDIR /tmp
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s CMD ["true"]
ENTRYPOINT ["serve"]
CMD ["model"]
"""

# rule -> what makes a good Dockerfile bad in its eyes: (text, its replacement)
BROKEN = {
    "pinned_bases": [
        ("FROM debian:12.9 AS made", "FROM debian AS made"),
        ("FROM debian:12.9\nL", "FROM debian:latest\nL"),
        ("FROM debian:12.9\nL", "FROM debian:${UNSET}\nL"),
    ],
    "user_is_a_number": [("10001:10001", "root"), ("10001:10001", "0"), ("10001:10001", "gesso"), ("USER", "# USER")],
    "no_sudo": [("apt-get update", "sudo apt-get update")],
    "apt_is_tidy": [(" --no-install-recommends", ""), (" && rm -rf /var/lib/apt/lists/*", "")],
    "no_add": [("COPY --from=made /opt/ /opt/", "ADD opt /opt")],
    "absolute_folders": [("WORKDIR /tmp", "WORKDIR tmp")],
    "no_shell_around_the_server": [
        ('CMD ["model"]', "CMD model"),
        ('ENTRYPOINT ["serve"]', "ENTRYPOINT serve"),
        ('CMD ["true"]', "CMD true || exit 1"),
        ('CMD ["model"]', "CMD ['model']"),
    ],
    "pip_keeps_no_cache": [(" --no-cache-dir", "")],
    "pip_is_constrained": [(" --constraint constraints.txt", "")],
    "pipes_fail": [("apt-get update", "curl https://example.org | sh")],
    "nothing_is_installed_in_the_final_stage": [("WORKDIR /tmp", "RUN touch /x")],
    "stops_by_sigterm": [("STOPSIGNAL SIGTERM", ""), ("SIGTERM", "SIGKILL")],
    "has_a_health_check": [('HEALTHCHECK --interval=10s CMD ["true"]', "")],
    "is_labelled": [('image.title="a"', 'image.other="a"'), ("library/debian:12.9", "library/debian:11")],
    "no_secrets": [("WORKDIR /tmp", "ARG NGC_API_KEY"), ("WORKDIR /tmp", "ENV DB_PASSWORD=x")],
}


def written(folder: Path, text: str) -> Dockerfile:
    path = folder / "Dockerfile"
    path.write_text(text)
    return parse(path)


def number(text: str) -> list[int]:
    return [int(part) for part in text.split(".")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_our_dockerfiles_keep_the_rule(rule: rules.Rule, path: Path) -> None:
    """Guards against an image that runs as root, drifts, or cannot be stopped."""
    assert rule(parse(path)) == []


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_every_rule_can_complain(rule: rules.Rule, tmp_path: Path) -> None:
    """Guards against a lint that passes everything."""
    assert rule(written(tmp_path, GOOD)) == []
    for good, bad in BROKEN[rule.__name__]:
        assert good in GOOD
        assert rule(written(tmp_path, GOOD.replace(good, bad))), bad


def test_there_are_three_images() -> None:
    assert [path.name for path in FILES] == ["cpu.Dockerfile", "export.Dockerfile", "triton.Dockerfile"]


def test_engines_are_built_in_the_release_that_runs_them() -> None:
    """Guards against plans that the server's TensorRT refuses to load."""
    triton, export = (parse(ROOT / "docker" / f"{name}.Dockerfile").defaults()["NGC"] for name in ("triton", "export"))
    assert triton == export
    assert number(triton) >= [26, 7]


def test_the_cpu_image_has_a_python_that_the_pypi_triton_has_a_stub_for() -> None:
    """Guards against an image whose Triton cannot start its models, or whose glibc is too old."""
    image = parse(ROOT / "docker" / "cpu.Dockerfile").defaults()["PYTHON"]
    assert tuple(number(image.partition("-")[0])[:2]) in preflight.PYTHONS
    assert image.partition("-")[2] in ("slim-bookworm", "slim-trixie")  # glibc 2.36, 2.41


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_listens_on_all_addresses_and_is_asked_for_its_model(name: str) -> None:
    """Guards against a container that only itself can reach, and a health check that stays green without a model."""
    final = parse(ROOT / "docker" / f"{name}.Dockerfile").final
    entry, check = final.last("ENTRYPOINT"), final.last("HEALTHCHECK")
    assert entry is not None
    assert check is not None
    assert entry.words() == ["gesso-serve", "--host", "0.0.0.0"]
    assert "/opt/gesso/healthcheck.py" in check.text
    assert "/v2/models/inpaint/ready" in (ROOT / "docker" / "healthcheck.py").read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_copied_is_in_the_build_context(path: Path) -> None:
    """Guards against a .dockerignore that leaves out what an image needs."""
    patterns = read_patterns(ROOT / ".dockerignore")
    copies = [each for each in rules.every(parse(path), "COPY") if "from" not in each.flags]
    assert copies
    for copy in copies:
        for source in copy.words()[:-1]:
            assert (ROOT / source).exists(), copy
            assert not ignored(Path(source.strip("/")), patterns), copy


def test_the_build_context_has_neither_history_nor_weights(tmp_path: Path) -> None:
    """Guards against a context of gigabytes, and secrets that end in an image."""
    source = tmp_path / "source"
    left_out = (".git/config", "checkpoints/a.bin", "client/src/__pycache__/a.pyc", ".env", "examples/rocket.jpg")
    sent = {"client/src/a.py", "examples/little-world/unet/a", "docker/healthcheck.py"}
    for name in (*left_out, *sent, "docker/compose.json"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).touch()
    (source / ".dockerignore").write_text((ROOT / ".dockerignore").read_text())
    context = BuildContext.make(source, tmp_path / "context").folder
    found = {str(path.relative_to(context)) for path in context.rglob("*") if path.is_file()}
    assert found == sent


@pytest.mark.parametrize(
    "text", ["RUN true\n", "FROM a:1\nONBUILD RUN true\n", "FROM a:1\nRUN <<EOF\nEOF\n", "FROM a:1\nRUN true \\\n", ""]
)
def test_a_dockerfile_that_is_not_understood_is_refused(text: str, tmp_path: Path) -> None:
    """Guards against a lint or a proof that skips what it cannot read."""
    with pytest.raises(DockerfileError, match=re.escape(str(tmp_path))):
        written(tmp_path, text)


def test_variables_are_put_in_as_docker_does() -> None:
    known = {"A": "1", "EMPTY": ""}
    assert substitute("$A ${A} ${B} ${B:-2} ${A:+3} ${EMPTY:+4}", known) == "1 1  2 3 "
