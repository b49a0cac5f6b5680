"""Compose files that were not written for several instances: what the override says, and what would still be shared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from mnemo_coord import errors
from mnemo_coord.instances import compose, environment
from mnemo_coord.instances.compose import Compose
from mnemo_coord.instances.compose_files import Tagged
from mnemo_coord.instances.project import FILE, Project, read
from mnemo_coord.instances.slots import Slot

PROJECT = (
    "project: shop\nservices:\n  web: {port: 8080}\n  db: {port: 5432}\nenvironment: {CONSTANT: same, OWN: 'own-{slot}'}\n"
)
NAMES = ("docker-compose.yml", "second.yml", "third.yml")


def project(folder: Path, *texts: str) -> Project:
    for name, text in zip(NAMES, texts, strict=False):
        (folder / name).write_text(text)
    (folder / FILE).write_text(f"{PROJECT}compose: [{', '.join(NAMES[: len(texts)])}]\n")
    return read(folder / FILE)


def looked_at(folder: Path, *texts: str, slot: int = 3, **surroundings: str) -> Compose:
    made = project(folder, *texts)
    ports = made.ports(slot)
    own = Slot(project="shop", root=str(folder), label="", name="x", slot=slot, ports=ports, at="")
    return compose.read(made, own, environment.variables(made, slot, "x", ports, surroundings), surroundings)


def overridden(found: Compose) -> Any:
    """The override, with the tags as the first of a pair."""

    def plain(value: Any) -> Any:
        if isinstance(value, Tagged):
            return (value.tag, value.value)
        return {name: plain(one) for name, one in value.items()}

    return plain(compose.override(found))


def told(found: Compose) -> list[str]:
    return [f"{one.part}: {one.what}" for one in found.shared()]


# Ports

PORTS: list[tuple[str, Any, str]] = [
    ('"8080:80"', "11080:80", ""),
    ("8080:80", "11080:80", ""),
    ('"08080:80"', "11080:80", ""),
    ('"127.0.0.1:8080:80/tcp"', "127.0.0.1:11080:80/tcp", ""),
    ('"8080:80/udp"', "11080:80/udp", ""),
    ('"[::1]:8080:80"', "[::1]:11080:80", ""),
    ('"::1:8080:80"', "[::1]:11080:80", ""),
    ('":8080:80"', "11080:80", ""),
    ("{target: 80, published: 8080}", "11080:80", ""),
    ('{target: 80, published: "8080", host_ip: 127.0.0.1, protocol: udp, mode: ingress}', "127.0.0.1:11080:80/udp", ""),
    ("{target: 80, published: 8080, host_ip: '::1'}", "[::1]:11080:80", ""),
    (
        "{target: 80, published: 8080, mode: host, name: w}",
        {"target": 80, "published": "11080", "mode": "host", "name": "w"},
        "",
    ),
    ('"8080"', None, ""),
    ("8080", None, ""),
    ('"3000-3005"', None, ""),
    ('"127.0.0.1::80"', None, ""),
    ('"0:80"', None, ""),
    ("{target: 80}", None, ""),
    ("{target: 80, published: 0}", None, ""),
    ('"9999:80"', None, "port 9999 of the host"),
    ('"127.0.0.1:80:8080"', None, "port 80 of the host"),
    ("{target: 80, published: 9999, mode: host}", None, "port 9999 of the host"),
    ('"3000-3005:3000-3005"', None, "ports 3000-3005 of the host"),
    ('"8080-8081:80-81"', None, "ports 8080-8081 of the host"),
    ("{target: 80, published: '8000-9000'}", None, ""),
    ('"8000-9000:80"', None, ""),  # Docker chooses a free one
    ('"${WEB_PORT}:80"', None, ""),
    ('"$WEB_PORT:80"', None, ""),
    ('"${WEB_PORT:-8080}:80"', None, ""),
    ('"${OTHER:-${WEB_PORT}}:80"', None, ""),
    ('"127.0.0.1:${DB_PORT}:80"', None, ""),
    ("{target: 80, published: '${WEB_PORT}'}", None, ""),
    ('"${OTHER:-8080}:80"', None, "port 8080 of the host"),
    ('"${WEB_PORT:+8080}:80"', None, "port 8080 of the host"),
    ('"${SET}:80"', None, "port 7777 of the host"),
    ('"8080:${WEB_PORT}"', None, "port 8080 of the host"),
    ('"${UNSET}:80"', None, ""),
    ("nonsense", None, ""),
    ("true", None, ""),
    ("null", None, ""),
    ("[8080]", None, ""),
    ("1.5", None, ""),
    ("2020-01-01", None, ""),
]


@pytest.mark.parametrize(("entry", "moved", "shared"), PORTS, ids=[entry for entry, *_ in PORTS])
def test_every_way_to_publish_a_port(entry: str, moved: Any, shared: str, tmp_path: Path) -> None:
    found = looked_at(tmp_path, f"services:\n  s:\n    ports:\n      - {entry}\n", SET="7777")
    expected = {"services": {"s": {"ports": ("!override", [moved])}}} if moved else {}
    assert overridden(found) == expected
    assert told(found) == ([f"services.s: {shared}"] if shared else [])


def test_the_ports_of_an_instance(tmp_path: Path) -> None:
    text = 'services: {a: {ports: ["8080:80", "127.0.0.1:${DB_PORT}:5432/udp", 81, "::1:9000-9001:1-2", x]}, b: {}, c: null}'
    found = looked_at(tmp_path, text)
    assert [(one.service, one.at, one.target, one.protocol) for one in found.ports()] == [
        ("a", "11080", "80", "tcp"),
        ("a", "127.0.0.1:8432", "5432", "udp"),
        ("a", "?", "81", "tcp"),
        ("a", "[::1]:9000-9001", "1-2", "tcp"),
    ]
    assert [one.host for one in looked_at(tmp_path, text, slot=0).ports()][:2] == ["8080", "5432"]


def test_a_base_port_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compose file has the port that mnemosyne.yaml has, whatever the environment puts in its place."""
    monkeypatch.setenv("WEB_BASE_PORT", "9100")
    found = looked_at(tmp_path, 'services: {a: {ports: ["8080:80", "9100:1"]}}', slot=0)
    assert overridden(found) == {"services": {"a": {"ports": ("!override", ["9100:80", "9100:1"])}}}


def test_the_list_of_ports_is_whole_and_in_its_order(tmp_path: Path) -> None:
    text = 'services: {a: {ports: ["1:1", "8080:80", "${X:-2}:2", "8080:80", {target: 3}]}}'
    found = looked_at(tmp_path, text)
    assert overridden(found) == {"services": {"a": {"ports": ("!override", ["1:1", "11080:80", "${X:-2}:2", "3"])}}}
    assert overridden(looked_at(tmp_path, text, slot=0)) == {}, "in slot 0 they are right as they are"


# Names


def test_names_that_are_fixed_are_taken_away(tmp_path: Path) -> None:
    found = looked_at(
        tmp_path,
        """
        services:
          a: {container_name: shop-a}
          b: {container_name: "shop-b-${OWN}"}
          c: {container_name: "${CONSTANT}-c"}
          d: {container_name: 7}
        networks:
          front:
          back: {name: shop-back}
          own: {name: "x-${OWN}"}
          odd: {name: "x-${NOBODY:-sets}"}
          out: {name: shop-out, external: true}
          in: {name: shop-in, external: false}
        volumes: {data: {name: shop-data}, old: {external: {name: shop-old}}, mine: {name: "${OWN}", external: true}}
        configs: {c: {name: shop-c, file: ./c}}
        secrets: {s: {name: shop-s, file: ./s}}
        """,
    )
    reset = ("!reset", None)
    assert overridden(found) == {
        "services": {"a": {"container_name": reset}, "d": {"container_name": reset}},
        "networks": {"back": {"name": reset}, "in": {"name": reset}},
        "volumes": {"data": {"name": reset}},
        "configs": {"c": {"name": reset}},
        "secrets": {"s": {"name": reset}},
    }
    assert told(found) == [
        "services.c: its container is called same-c in every instance",
        "networks.odd: it is called x-sets in every instance",
        "networks.out: shop-out is made elsewhere (external)",
        "volumes.old: shop-old is made elsewhere (external)",
    ]


# What would still be shared

SHARED: list[tuple[str, str]] = [
    ("network_mode: host", "network_mode: host is the machine's own"),
    ("network_mode: bridge", ""),
    ("network_mode: 'service:b'", ""),
    ("network_mode: 'container:x'", "network_mode: container:x is one container"),
    ("pid: host", "pid: host is the machine's own"),
    ("ipc: host", "ipc: host is the machine's own"),
    ("ipc: shareable", ""),
    ("image: shop", ""),
    ("{image: shop, build: .}", "every instance builds the image shop"),
    ("{image: 'shop:${COMPOSE_PROJECT_NAME}', build: .}", ""),
    ("build: .", ""),
    ("volumes: ['./a:/a', 'data:/b', /c, '../x/../in:/d']", "../x/../in lies outside the checkout"),
    ("volumes: [.:/app]", ""),
    ("volumes: ['./a/../b:/d']", ""),
    ("volumes: ['..:/d']", ".. lies outside the checkout"),
    ("volumes: [/srv/x:/x]", "/srv/x of the host"),
    ("volumes: ['/srv/x:/x:ro,z']", "/srv/x of the host"),
    ("volumes: ['~/x:/x']", "~/x of the host"),
    ("volumes: ['/srv/${OWN}:/x']", ""),
    ("volumes: ['/srv/x:/x/${OWN}']", "/srv/x of the host"),
    ("volumes: ['${HOME}/x:/x']", "/home/you/x of the host"),
    ("volumes: ['${PWD}/x:/x']", ""),
    ("volumes: ['/etc/localtime:/etc/localtime:ro']", ""),
    ("volumes: ['/etc/localtime:/etc/localtime']", "/etc/localtime of the host"),
    (
        "volumes: ['/var/run/docker.sock:/s:ro']",
        "/var/run/docker.sock is Docker itself: what is started through it belongs to no instance",
    ),
    ("volumes: [{type: bind, source: /srv/x, target: /x}]", "/srv/x of the host"),
    ("volumes: [{type: bind, source: /sys, target: /x, read_only: true}]", ""),
    ("volumes: [{type: bind, source: x, target: /x}]", ""),
    ("volumes: [{type: volume, source: x, target: /x}, {type: tmpfs, target: /y}]", ""),
    ("volumes: [/srv/x:/x, ./mine:/x]", ""),
    ("volumes: [null, 7, true, [a], {}]", ""),
    ("devices: ['/dev/ttyUSB0:/dev/tty:rw']", "the device /dev/ttyUSB0"),
    ("devices: [{source: /dev/kvm, target: /dev/kvm}]", "the device /dev/kvm"),
    ("networks: {front: {ipv4_address: 10.1.2.3}}", "the address 10.1.2.3 in front"),
    ("networks: {front: null, back: {aliases: [a]}}", ""),
    ("networks: [front]", ""),
    ("external_links: ['redis:cache']", "the container redis, which is not of this project"),
    ("volumes_from: ['container:x:ro', b]", "the volumes of the container x"),
    ("extends: {file: base.yml, service: x}", "extends x of base.yml, which is not looked into"),
    ("extends: b", ""),
    ("extends: {service: s}", ""),
    ("extends: nobody", ""),
    ("ports: nonsense", ""),
    ("7", ""),
    ("!reset null", ""),
]


@pytest.mark.parametrize(("text", "shared"), SHARED, ids=[text for text, _ in SHARED])
def test_what_a_service_would_share(text: str, shared: str, tmp_path: Path) -> None:
    text = text if text.startswith(("{", "7", "!")) else f"{{{text}}}"
    found = looked_at(tmp_path, f"services:\n  b: {{}}\n  s: {text}\nvolumes: {{data: null}}\n", HOME="/home/you")
    assert told(found) == ([f"services.s: {shared}"] if shared else [])
    assert all(one.file == NAMES[0] and one.hint for one in found.shared())


OTHERS: list[tuple[str, str]] = [
    ("networks: {n: {ipam: {config: [{subnet: 10.1.0.0/16}]}}}", "networks.n: the subnet 10.1.0.0/16"),
    ("networks: {n: {ipam: {config: [{subnet: '10.${MNEMOSYNE_SLOT}.0.0/16'}]}}}", ""),
    ("networks: {n: {ipam: {driver: default}}}", ""),
    (
        "networks: {n: {driver_opts: {com.docker.network.bridge.name: br-shop}}}",
        "networks.n: com.docker.network.bridge.name: br-shop",
    ),
    ("volumes: {v: {driver_opts: {type: none, o: bind, device: /srv/v}}}", "volumes.v: /srv/v of the host"),
    ("volumes: {v: {driver_opts: {type: tmpfs, device: tmpfs}}}", ""),
    ("configs: {c: {external: true}}", "configs.c: c is made elsewhere (external)"),
    ("secrets: {c: {external: 'false'}}", ""),
    ("include: [other.yml]", "include: other.yml is not looked into"),
    ("include: [{path: [docker-compose.yml, ./more/x.yml]}]", "include: ./more/x.yml is not looked into"),
    ("include: [./docker-compose.yml]", ""),
    ("include: {a: b}", ""),
]


@pytest.mark.parametrize(("text", "shared"), OTHERS, ids=[text for text, _ in OTHERS])
def test_what_the_rest_would_share(text: str, shared: str, tmp_path: Path) -> None:
    assert told(looked_at(tmp_path, text)) == ([shared] if shared else [])


# Several files


def test_later_files_count_as_they_do_for_compose(tmp_path: Path) -> None:
    one = """
        services:
          a: {ports: ["8080:80"], container_name: x, volumes: [/srv/a:/a]}
          b: {ports: ["1:1"], network_mode: host, container_name: y}
          c: {ports: ["2:2"]}
          d: {image: d}
        networks: {n: {name: n, external: true}}
    """
    two = """
        services:
          a: {ports: ["5432:5432", "8080:80"], container_name: "x-${OWN}", volumes: [./a:/a]}
          b: {ports: !override ["3:3"], network_mode: !reset null, container_name: !reset null}
          c: !override {ports: ["4:4"]}
          d: !reset null
        networks: !reset {}
    """
    found = looked_at(tmp_path, one, two)
    assert overridden(found) == {"services": {"a": {"ports": ("!override", ["11080:80", "8432:5432"])}}}
    assert [(one.file, one.part, one.what) for one in found.shared()] == [
        ("second.yml", "services.b", "port 3 of the host"),
        ("second.yml", "services.c", "port 4 of the host"),
    ]


def test_what_is_shared_is_told_with_its_file(tmp_path: Path) -> None:
    texts = ["services: {a: {ports: ['1:1'], pid: host}}", "services: {a: {ports: ['2:2']}}", "services: {a: {image: x}}"]
    assert [(one.file, one.what) for one in looked_at(tmp_path, *texts).shared()] == [
        ("docker-compose.yml", "pid: host is the machine's own"),
        ("docker-compose.yml", "port 1 of the host"),
        ("second.yml", "port 2 of the host"),
    ]


def test_what_a_service_extends_is_its_own(tmp_path: Path) -> None:
    one = """
        services:
          a: {extends: {file: ./second.yml, service: base}, ports: ["5432:1"]}
          b: {extends: a}
          c: {extends: {service: d}}
          d: {extends: {service: c}, ports: ["9:9"]}
    """
    two = "services: {base: {ports: ['8080:80'], container_name: base}}"
    ports = ("!override", ["11080:80", "8432:1"])
    reset = ("!reset", None)
    found = looked_at(tmp_path, one, two)
    assert overridden(found)["services"] == {
        "a": {"ports": ports, "container_name": reset},
        "b": {"ports": ports, "container_name": reset},
        "base": {"ports": ("!override", ["11080:80"]), "container_name": reset},
    }
    assert told(found) == ["services.c: port 9 of the host", "services.d: port 9 of the host"]


def test_tags_in_what_is_extended(tmp_path: Path) -> None:
    """As Docker Compose 2.40 does it: a tag of a base is over with the base, one of its own counts for the earlier file too."""
    one = """
        services:
          base: {ports: !override ["8080:80"]}
          a: {extends: base, ports: ["5432:1"]}
          b: {ports: ["1:1"]}
    """
    two = "services: {b: {extends: {file: docker-compose.yml, service: base}, ports: !override ['2:2']}}"
    found = looked_at(tmp_path, one, two)
    assert overridden(found)["services"]["a"] == {"ports": ("!override", ["11080:80", "8432:1"])}
    assert told(found) == ["services.b: port 2 of the host"]


def test_anchors_and_merges(tmp_path: Path) -> None:
    text = """
        x-ports: &ports ["8080:80"]
        x-base: &base {ports: *ports, container_name: shop}
        services:
          a: {<<: *base}
          b: {<<: [*base, {pid: host}], container_name: "b-${OWN}"}
    """
    found = looked_at(tmp_path, text)
    ports = ("!override", ["11080:80"])
    assert overridden(found) == {"services": {"a": {"ports": ports, "container_name": ("!reset", None)}, "b": {"ports": ports}}}
    assert told(found) == ["services.b: pid: host is the machine's own"]


# Files that are none


def laughs(first: str, form: str) -> str:
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{n}: &a{n} " + form.format(",".join([f"*a{n - 1}"] * 10)) for n in range(1, 12)]
    return "\n".join(lines)


WRONG = {
    "aliases": (laughs("[x]", "[{}]"), "when its aliases are expanded"),
    "aliases as services": (laughs("{k: x}", "{{a: [{}]}}") + "\nservices: {a: *a11}", "when its aliases are expanded"),
    "deep": ("a: " + "[" * 60 + "]" * 60, "when its aliases are expanded"),
    "large": ("a: " + "x" * 300_000, "is larger than"),
    "extended by thousands": (
        "services:\n  base: {ports: [" + "1," * 5000 + "]}\n" + "".join(f"  s{n}: {{extends: base}}\n" for n in range(1000)),
        "with what they extend",
    ),
    "no YAML": ("services: [", "docker-compose.yml:1: "),
    "no mapping": ("- a", "docker-compose.yml:1: has to be a mapping"),
    "twice": ("services: {}\nservices: {}", "docker-compose.yml:2: found duplicate key"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_is_none_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(errors.Config) as caught:
        looked_at(tmp_path, WRONG[name][0])
    assert WRONG[name][1] in caught.value.message


@pytest.mark.parametrize(
    "text", ["services: &a {a: *a}", "services: {a: &a {ports: *a, b: [*a]}}", "services: {a: {ports: &a [*a]}}"]
)
def test_a_value_within_itself_is_no_end(text: str, tmp_path: Path) -> None:
    found = looked_at(tmp_path, text)
    assert overridden(found) == {}
    assert told(found) == []


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("compose: [nothing.yml]")
    with pytest.raises(errors.Config, match=r"nothing\.yml: is not there") as caught:
        compose.read(read(tmp_path / FILE), Slot(project="", root="", label="", name="", slot=0, ports={}, at=""), {}, {})
    assert "compose" in caught.value.hint
    for odd in ("[../x]", "[/x]", "x", "[1]", "['']"):
        (tmp_path / FILE).write_text(f"compose: {odd}")
        with pytest.raises(errors.Config, match="compose: "):
            read(tmp_path / FILE)


WORDS = ["services", "networks", "volumes", "ports", "a", "extends", "service", "file", "container_name", "name", "external"]
WORDS += ["include", "path", "devices", "source", "target", "published", "ipam", "config", "subnet", "driver_opts", "device"]
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
LEAVES |= st.sampled_from([*WORDS, "8080:80", "${WEB_PORT}:1", "/x:/y", "host", "$", "${", "1-2:3-4", "container:x", NAMES[0]])
DOCUMENTS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5),
    max_leaves=40,
)


@for_all(
    st.dictionaries(st.sampled_from(WORDS), DOCUMENTS, max_size=6),
    st.dictionaries(st.sampled_from(WORDS), DOCUMENTS, max_size=6),
)
@settings(max_examples=150, deadline=None)
def test_whatever_it_says_the_override_is_yaml(one: dict[str, Any], other: dict[str, Any]) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as place:
        folder = Path(place)
        found = looked_at(folder, json.dumps(one), json.dumps(other))
        text = compose.written(read(folder / FILE), 3, found)
        YAML(typ="rt").load(text)
        assert all(isinstance(line, str) for line in told(found))
        assert found.ports() is not None


# What is written


def test_the_text_of_an_override(tmp_path: Path) -> None:
    found = looked_at(tmp_path, "services: {a.b: {ports: ['8080:80'], container_name: x}}\nvolumes: {on: {name: x}}", "a: 1")
    made = read(tmp_path / FILE)
    assert compose.written(made, 3, found).splitlines() == [
        "# Generated by `mnemosyne render` from docker-compose.yml, second.yml for slot 3: changes are lost.",
        "services:",
        "  a.b:",
        "    ports: !override",
        '      - "11080:80"',
        "    container_name: !reset null",
        "volumes:",
        '  "on":',
        "    name: !reset null",
    ]
    target = compose.write(made, 3, found)
    assert target == tmp_path / "docker-compose.mnemosyne-3.yml"
    assert compose.written_already(made, 3, found) == target
    before = target.stat()
    compose.write(made, 3, found)
    assert (target.stat().st_ino, target.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns), "it is not touched"
    assert compose.written_already(made, 2, found) is None
    target.write_text("services: {}")
    assert compose.written_already(made, 3, found) is None
    nothing = looked_at(tmp_path, "services: {a: {image: x}, b: {}}")
    assert compose.written(read(tmp_path / FILE), 0, nothing).splitlines()[1:] == ["services:", "  a: {}"]


def test_where_compose_finds_its_files(tmp_path: Path) -> None:
    made = project(tmp_path, "a: 1", "b: 2")
    paths = [tmp_path / name for name in (NAMES[0], NAMES[1], "docker-compose.mnemosyne-3.yml")]

    def value(**surroundings: str) -> str:
        return environment.variables(made, 3, "x", made.ports(3), surroundings)["COMPOSE_FILE"]

    assert value() == ":".join(map(str, paths))
    assert value(COMPOSE_PATH_SEPARATOR="|", COMPOSE_FILE="theirs.yml") == "|".join(map(str, paths))
    (tmp_path / FILE).write_text((tmp_path / FILE).read_text().replace("CONSTANT: same", "COMPOSE_FILE: 'my-{slot}.yml'"))
    made = read(tmp_path / FILE)
    assert value() == "my-3.yml"
    odd = environment.variables(Project(name="x", root=Path("/a:b"), compose=("c.yml",)), 1, "x", {}, {})
    assert odd["COMPOSE_FILE"] == "/a:b/c.yml|/a:b/c.mnemosyne-1.yml"
    assert odd["COMPOSE_PATH_SEPARATOR"] == "|"
    plain = Project(name="x", root=tmp_path)
    assert "COMPOSE_FILE" not in environment.variables(plain, 0, "x", {}, {})
