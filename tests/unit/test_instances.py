"""What a project's file may say, which slot a checkout gets, what a shell is told, and where stores lie."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import jsonschema
import pytest
import support
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

import mnemo_coord
from mnemo_coord import errors
from mnemo_coord.cli.here import warn_unscoped
from mnemo_coord.instances import environment, scope, templates
from mnemo_coord.instances.project import FILE, Project, find, read
from mnemo_coord.instances.services import Service
from mnemo_coord.instances.slots import Checkout, Listener, Slot, Slots, choose, cksum, recognise

SCHEMA = json.loads((support.REPOSITORY / "docs" / "reference" / "schemas" / "mnemosyne.yaml.json").read_text())
EXAMPLES = support.REPOSITORY / "examples"


def project(folder: Path, text: str) -> Project:
    (folder / FILE).write_text(text)
    return read(folder / FILE)


# The file


@pytest.mark.parametrize("name", ["orient", "protoagent", "jiuwenswarm"])
def test_the_examples_are_what_the_schema_says(name: str) -> None:
    document = YAML(typ="safe").load(EXAMPLES / name / FILE)
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    assert read(EXAMPLES / name / FILE).name in {"orienter", "protoagent", "jiuwenswarm"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("service: {}", ":1: service: is not known (did you mean 'services'?)"),
        ("project: shop\nservices:\n  web: {prot: 1}", ":3: services.web.prot: is not known (did you mean 'port'?)"),
        ("services: {web: {}}", ":1: services.web: needs a port"),
        ("services:\n  a: {port: 1}\n  b: {port: 1}", ":3: services.b: has the port of a"),
        ("services:\n  a-b: {port: 1}\n  a_b: {port: 2}", ":3: services.a_b: has the variable of a-b"),
        ("services: {web: {port: true}}", "services.web.port: has to be a whole number, not True"),
        ("services: {web: {port: '80'}}", "services.web.port: has to be a whole number, not '80'"),
        ("services: {web: {port: 0}}", "services.web.port: has to be 1 to 65535, not 0"),
        ("services: {web: {port: 70000}}", "services.web.port: has to be 1 to 65535, not 70000"),
        ("services: {'a b': {port: 1}}", "services.a b: is not a name"),
        ("services: []", "services: has to be a mapping"),
        ("stride: 0", ":1: stride: has to be 1 to 65535, not 0"),
        ("slots: 1.5", ":1: slots: has to be a whole number, not 1.5"),
        ("project: a b", ":1: project: 'a b' is not a name"),
        ("project: [a]", ":1: project: has to be text"),
        ("instance: {prefer: cksum}", "instance.prefer: 'cksum' is none of hash, first"),
        ("instance: {variable: A-B}", "instance.variable: 'A-B' is not the name of a variable"),
        ("environment: {A: true}", "environment.A: has to be a mapping"),
        ("environment: {A: {numbered: x, url: y}}", "environment.A: is either"),
        ("environment: {A: {url: 'x://y'}}", "environment.A: needs the port of a service"),
        ("environment: {A: {url: 'x://y', port: web}}", "environment.A.port: there is no service 'web'"),
        ("environment: {A: {singleton: x}}", "environment.A.singleton: there is no singleton 'x'"),
        ("environment: {A-B: x}", "environment.A-B: is not the name of a variable"),
        ("templates: {a: {from: ../x}}", "templates.a.from: '../x' is not a path in the project"),
        ("templates: {/a: {from: x}}", "templates./a: '/a' is not a path in the project"),
        ("templates: {a: {}}", "templates.a.from: '' is not a path in the project"),
        ("templates: {a: {from: a}}", "templates.a: would be written over its own template"),
        ("templates: {a: {from: b, variables: [1]}}", "templates.a.variables: has to be a list of texts"),
        ("stores: {a: ../x}", "stores.a: '../x' is not a path below the root"),
        ("stores: {a: /x}", "stores.a: '/x' is not a path below the root"),
        ("stores: {a: 7}", "stores.a: has to be text, not 7"),
        ("a: 1\na: 2", ":2: found duplicate key"),
        ("a: [", "expected the node content"),
        ("- a", ":1: has to be a mapping"),
        ("\0", "is not YAML"),
        ("1: x", "1: 1 is not a name"),
        ("x: !!python/object:os.system {}", "x: is not known"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(errors.Config) as caught:
        project(tmp_path, text)
    told = f"{caught.value.message} ({caught.value.hint})"
    assert told.startswith(str(tmp_path / FILE))
    assert said in told


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match="is in no project"):
        find(tmp_path)
    (tmp_path / FILE).write_text("a: " + "x" * 300_000)
    with pytest.raises(errors.Config, match="larger than"):
        find(tmp_path)
    (tmp_path / FILE).write_bytes(b"a: \xff")
    with pytest.raises(errors.Config, match="is not YAML"):
        find(tmp_path)
    (tmp_path / FILE).write_text("")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    assert find(tmp_path / "deep" / "er").root == tmp_path.resolve()


# Slots


@pytest.mark.parametrize(
    ("name", "preferred"), [("hotfix", 9), ("feature-a", 3), ("feature-c", 1), ("feature-auth-refactor", 8), ("feature-b", 8)]
)
def test_the_slot_that_a_name_prefers(name: str, preferred: int) -> None:
    orient = read(EXAMPLES / "orient" / FILE)
    for place in (f"/home/you/claude-worktrees/orienter/{name}", f"/claude-worktrees/orienter/{name}/deep/er"):
        checkout = recognise(orient, {}, Path(place))
        assert (checkout.name, checkout.preferred, checkout.source) == (name, preferred, "path")


@for_all(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=50))
@settings(max_examples=25, deadline=None)
def test_the_hash_is_that_of_cksum(text: str) -> None:
    said = subprocess.run(["cksum"], input=text.encode(), capture_output=True, check=True).stdout
    assert cksum(text) == int(said.split()[0])


def test_what_is_asked_for_wins_and_nonsense_is_refused() -> None:
    orient = read(EXAMPLES / "orient" / FILE)
    here = Path("/claude-worktrees/orienter/hotfix")
    assert recognise(orient, {"AI_INSTANCE_ID": "3"}, here).preferred == 3
    assert recognise(orient, {"AI_INSTANCE_ID": ""}, here).preferred == 9
    assert recognise(orient, {}, Path("/claude-worktrees/orienter")).preferred == 0
    assert recognise(orient, {}, Path("/claude-worktrees/other/hotfix")).preferred == 0
    for odd in ("10", "-1", "x", "1.0", " 1", "1\n", "٣", "0x1"):
        with pytest.raises(errors.Config, match="is not a slot"):
            recognise(orient, {"AI_INSTANCE_ID": odd}, here)


def of(root: str, name: str = "shop", port: int = 8000, slots: int = 10) -> Project:
    services = (Service(name="web", port=port, short="w", variable="WEB_PORT", group="", command=()),)
    return Project(name=name, root=Path(root), services=services, slots=slots)


def at(root: Path, preferred: int, label: str = "") -> Checkout:
    return Checkout(root=root, label=label, name=root.name, preferred=preferred, source="path")


def test_which_slot_is_chosen() -> None:
    taken = [Slot(project="shop", root="/a", label="", name="a", slot=2, ports={"web": 10000}, at="")]
    heard = {11000: Listener(port=11000, address="::", pid=7, command="nginx")}
    assert choose(of("/b"), 1, taken, heard) == (1, ())
    number, reasons = choose(of("/b"), 2, taken, heard)
    assert number == 4
    assert reasons[0] == "slot 2: web's port 10000 is that of shop, slot 2, in /a"
    assert reasons[1] == "slot 3: web's port 11000 is used by process 7 (nginx)"
    assert choose(of("/b", slots=3), 2, taken, {})[0] == 1, "and around, but never that of the main checkout"
    with pytest.raises(errors.Conflict, match="no slot of shop is free"):
        choose(of("/b", slots=2), 1, [Slot(project="x", root="/", label="", name="", slot=0, ports={"y": 9000}, at="")], {})
    with pytest.raises(errors.Config, match="above 65535"):
        choose(of("/b", port=65000), 1, [], {})
    assert (
        choose(
            of("/b", port=64000, slots=4),
            1,
            [Slot(project="x", root="/", label="", name="", slot=0, ports={"y": 1}, at="")],
            {},
        )[0]
        == 1
    )


def test_a_slot_is_allocated_once_and_stored(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "data" / "deep", seen=dict)
    assert slots.all() == []
    assert not (tmp_path / "data").exists(), "looking makes nothing"
    roots = [tmp_path / f"w{number}" for number in range(9)]
    for root in roots:
        root.mkdir()
    given = {root: slots.allocate(of(str(root)), at(root, 8)).slot.slot for root in roots}
    assert sorted(given.values()) == list(range(1, 10)), "nine that prefer the same one"
    for root in reversed(roots):
        again = slots.allocate(of(str(root)), at(root, 1))
        assert (again.slot.slot, again.fresh, again.passed_over) == (given[root], False, ()), "whatever it would like now"
    with pytest.raises(errors.Conflict):
        slots.allocate(of(str(tmp_path)), at(tmp_path, 3))
    roots[4].rmdir()
    assert slots.allocate(of(str(tmp_path)), at(tmp_path, 3)).slot.slot == given[roots[4]], "of a checkout that is gone"
    assert [slot.root for slot in slots.release(roots[0])] == [str(roots[0])]
    assert slots.release(roots[0]) == []


def test_what_somebody_listens_on_is_kept_although_its_checkout_is_gone(tmp_path: Path) -> None:
    heard = {9000: Listener(port=9000, address="127.0.0.1", pid=1, command="x")}
    slots = Slots(tmp_path / "data", seen=lambda: heard)
    assert slots.allocate(of("/gone", port=8500), at(Path("/gone"), 1)).slot.ports == {"web": 9500}
    heard[9500] = Listener(port=9500, address="::", pid=2, command="y")
    found = slots.allocate(of(str(tmp_path), port=8500), at(tmp_path, 1))
    assert (found.slot.slot, len(slots.all())) == (2, 2)
    assert "/gone" in found.passed_over[0]


def test_two_projects_with_the_same_ports(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "data", seen=dict)
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    first = slots.allocate(of(str(one), "shop"), at(one, 0)).slot
    second = slots.allocate(of(str(other), "blog"), at(other, 0)).slot
    assert (first.ports, second.ports) == ({"web": 8000}, {"web": 9000})


def test_when_the_services_change_the_number_stays(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "data", seen=lambda: {8000: Listener(port=8000, address="::", pid=1, command="its own")})
    slots._seen = dict
    slots.allocate(of(str(tmp_path)), at(tmp_path, 0))
    slots._seen = lambda: {8000: Listener(port=8000, address="::", pid=1, command="its own")}
    changed = Project(
        name="shop",
        root=tmp_path,
        services=(*of("/").services, Service(name="db", port=5000, short="d", variable="DB_PORT", group="", command=())),
    )
    found = slots.allocate(changed, at(tmp_path, 0))
    assert (found.slot.slot, found.slot.ports) == (0, {"web": 8000, "db": 5000})


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version":2,"slots":[]}', '{"version":1,"slots":[{}]}', '{"version":1}', "null"]
)
def test_a_damaged_registry_is_nobodys_slots(text: str, tmp_path: Path) -> None:
    slots = Slots(tmp_path / "data", seen=dict)
    slots.allocate(of(str(tmp_path)), at(tmp_path, 0))
    (tmp_path / "data" / "slots.json").write_text(text)
    for act in (slots.all, lambda: slots.allocate(of(str(tmp_path)), at(tmp_path, 0)), lambda: slots.release(tmp_path)):
        with pytest.raises(errors.Damaged, match=r"slots\.json"):
            act()
    assert (tmp_path / "data" / "slots.json").read_text() == text, "it is for a person to look at"


# The environment


def shell(text: str, before: str = "", shell: str = "sh") -> dict[str, str]:
    """What a shell has in its environment after it has evaluated some texts."""
    done = subprocess.run(
        [shell, "-c", f"{before}\n{text}\nenv -0"], env={"PATH": "/usr/bin:/bin"}, capture_output=True, check=True
    )
    pairs = (entry.partition("=") for entry in done.stdout.decode(errors="surrogateescape").split("\0") if entry)
    return {name: value for name, _, value in pairs if name not in {"_", "PWD", "SHLVL", "OLDPWD"}}


VALUES = st.dictionaries(
    st.from_regex(r"V[A-Z0-9_]{0,5}", fullmatch=True),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20),
    max_size=4,
)


@for_all(VALUES, VALUES, VALUES)
@settings(max_examples=40, deadline=None)
def test_evaluating_again_is_evaluating_once(own: dict[str, str], one: dict[str, str], other: dict[str, str]) -> None:
    """In a shell where a person has set ``own``: one, twice, another, and back."""

    def after(wanted: dict[str, str], surroundings: dict[str, str]) -> dict[str, str]:
        return shell(
            environment.FORMATS["sh"](wanted, surroundings),
            "\n".join(f"export {n}={environment._quoted(v)}" for n, v in surroundings.items()),
        )

    once = after(one, own)
    assert {name: once[name] for name in one} == one
    assert after(one, once) == once
    assert environment.given(once) == {"PATH": "/usr/bin:/bin"} | own
    fresh = after(other, own)
    assert after(other, once) == fresh, "switching in one shell is like a fresh one"
    assert after(one, fresh) == once


def test_what_a_person_changes_afterwards_is_theirs() -> None:
    first, _ = environment.changes({"A": "1"}, {})
    assert environment.given(first) == {}
    assert environment.given({**first, "A": "mine"}) == {"A": "mine"}
    assert environment.given({"MNEMOSYNE_ENV": "not ours", "A": "1"}) == {"A": "1"}
    assert environment.given({"MNEMOSYNE_ENV": '{"A":1}', "A": "1"}) == {"A": "1"}


def test_the_values_of_orient() -> None:
    orient = read(EXAMPLES / "orient" / FILE)

    def values(slot: int, **given: str) -> dict[str, str]:
        return environment.variables(orient, slot, "x", orient.ports(slot), given)

    one = values(1)
    assert one["DATABASE_URL"] == "postgresql://aibot:aibot123@localhost:6432/whatsapp_bot_1"
    assert (one["COMPOSE_PROJECT_NAME"], one["S3_BUCKET"]) == ("orienter-instance-1", "orienter-data-1")
    assert (one["NGINX_PORT"], one["MINIO_CONSOLE_PORT"], one["PORT"]) == ("1080", "10001", "1080")
    assert (one["DATA_DIR"], one["LOG_DIR"], one["PID_DIR"]) == (
        ".dev-data/instance-1",
        "logs/instance-1",
        ".dev-pids/instance-1",
    )
    assert [values(slot)["WHATSAPP_ENABLED"] for slot in (0, 1, 9)] == ["true", "false", "false"]
    assert values(2, WHATSAPP_ENABLED="true")["WHATSAPP_ENABLED"] == "true"
    assert values(3, POSTGRES_DB="mine_7")["POSTGRES_DB"] == "mine_3"
    assert values(3, POSTGRES_DB="mine")["DATABASE_URL"].endswith(":8432/mine_3")
    assert (
        values(3, DATABASE_URL="postgresql://me:p%40w@db.example:1/zz?x=1")["DATABASE_URL"]
        == "postgresql://me:p%40w@db.example:8432/whatsapp_bot_3?x=1"
    )
    assert values(3, DATABASE_URL="postgresql://[::1]/zz")["DATABASE_URL"] == "postgresql://[::1]:8432/whatsapp_bot_3"


def test_a_placeholder_that_means_nothing(tmp_path: Path) -> None:
    odd = project(tmp_path, "services: {web: {port: 1}}\nenvironment:\n  A: '{env.B}'\n  B: x\n")
    with pytest.raises(errors.Config) as caught:
        environment.variables(odd, 0, "x", odd.ports(0), {})
    assert f"{FILE}:3: environment.A: {{env.B}} means nothing here" in caught.value.message


@pytest.mark.parametrize("text", ["plain", "a b", "it's", '$HOME `x` \\ "q"', "", "a\nb", "é", "!x", "-n", "a=b#c"])
def test_every_format_carries_every_value(text: str, tmp_path: Path) -> None:
    wanted = {"V": text}
    assert shell(environment.FORMATS["sh"](wanted, {}))["V"] == text
    assert shell(environment.FORMATS["direnv"](wanted, {}), shell="bash")["V"] == text
    assert json.loads(environment.FORMATS["json"](wanted, {})) == wanted
    (tmp_path / ".env").write_text(environment.FORMATS["dotenv"](wanted, {}) + "\n")
    assert shell(f"set -a; . {tmp_path}/.env")["V"] == text, "a shell reads it, too"


# Templates


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("$A ${A} $AB ${AB} $HOST $$A", "1 1 2 2 $HOST $1"),
        ("$A_x $A1 ${A}x $a", "$A_x $A1 1x $a"),
        ("${A:-3} ${HOST} $ {A} \\$A", "${A:-3} ${HOST} $ {A} \\1"),
    ],
)
def test_only_what_is_named_is_replaced(text: str, filled: str) -> None:
    assert templates.fill(text, ["A", "AB"], {"A": "1", "AB": "2", "HOST": "x"}) == filled
    assert templates.fill(text, [], {"A": "1"}) == text


def test_files_are_written_whole_and_left_alone_when_they_are_right(tmp_path: Path) -> None:
    made = project(tmp_path, "services: {web: {port: 80}}\ntemplates:\n  out/{slot}.sh: {from: t, variables: [WEB_PORT]}\n")
    values = environment.variables(made, 2, "x", made.ports(2), {})
    with pytest.raises(errors.Config, match="is not there"):
        templates.render(made, values, {"slot": "2"})
    (tmp_path / "t").write_bytes(b"#!/bin/sh\r\necho $WEB_PORT \xff\n")
    (tmp_path / "t").chmod(0o755)
    (target,) = templates.render(made, values, {"slot": "2"})
    assert (target, target.read_bytes()) == (tmp_path.resolve() / "out" / "2.sh", b"#!/bin/sh\r\necho 2080 \xff\n")
    assert target.stat().st_mode & 0o777 == 0o755
    before = target.stat()
    templates.render(made, values, {"slot": "2"})
    assert (target.stat().st_ino, target.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    (tmp_path / FILE).write_text("templates:\n  o: {from: t, variables: [NOPE]}\n")
    with pytest.raises(errors.Config, match="there is no variable 'NOPE'"):
        templates.render(read(tmp_path / FILE), values, {})
    target.unlink()
    target.mkdir()
    with pytest.raises(errors.State):
        templates.render(made, values, {"slot": "2"})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["2.sh"], "nothing half written"


# Scopes


@pytest.mark.parametrize(
    ("folder", "name"), [("/home/dev/agents/gina-work", "gina-work-9d9fe6"), ("/tmp/demo/My Agent", "My_Agent-4d0c7c")]
)
def test_the_name_that_is_derived(folder: str, name: str) -> None:
    assert scope.auto_name(Path(folder)) == name


def agent(folder: Path, config: str | None = None) -> Project:
    (folder / FILE).write_text((EXAMPLES / "protoagent" / FILE).read_text().replace("~/.protoagent", str(folder / "root")))
    if config is not None:
        (folder / "config.yaml").write_text(config)
    return read(folder / FILE)


def test_where_a_name_comes_from(tmp_path: Path) -> None:
    both = {"PROTOAGENT_INSTANCE": "alice", "PROTOAGENT_AUTO_SCOPE": "1"}
    configured = agent(tmp_path, "instance_id: bob\nother: [1]\n")
    assert (scope.resolve(configured, both, tmp_path).name, scope.resolve(configured, {}, tmp_path).name) == ("alice", "bob")
    plain = agent(tmp_path, "other: 1\n")
    for on in ("1", "true", " YES ", "On"):
        found = scope.resolve(plain, {"PROTOAGENT_AUTO_SCOPE": on}, tmp_path)
        assert (found.name, str(found.source)) == (scope.auto_name(tmp_path), "auto")
    for off in ("", "0", "no", "2", "onn"):
        assert scope.resolve(plain, {"PROTOAGENT_AUTO_SCOPE": off}, tmp_path).name is None


def test_every_store_nests_and_two_names_share_nothing(tmp_path: Path) -> None:
    plain = agent(tmp_path)
    unscoped = scope.resolve(plain, {}, tmp_path).stores
    assert unscoped["checkpoints"] == str(tmp_path / "root" / "checkpoints.db")
    assert unscoped["jobs"] == str(tmp_path / "root" / "scheduler" / "jobs.db")
    alice, bob = (
        set(scope.resolve(plain, {"PROTOAGENT_INSTANCE": name}, tmp_path).stores.values()) for name in ("alice", "bob")
    )
    assert all(path.startswith(str(tmp_path / "root" / "alice") + "/") for path in alice)
    assert not alice & bob
    assert not alice & set(unscoped.values())


@pytest.mark.parametrize(
    "name",
    [
        *("..", ".", "../x", "a/b", "/x", "a b", "é", "x\n", "a" * 129, "memory", "checkpoints.db", "scheduler", "~"),
        *("checkpoints.db.lock", "inbox.db-wal", "inbox.db-shm", "knowledge.db-journal", "scheduler.lock"),
    ],
)
def test_names_that_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(errors.Config, match="PROTOAGENT_INSTANCE"):
        scope.resolve(agent(tmp_path), {"PROTOAGENT_INSTANCE": name}, tmp_path)


def test_the_warning_comes_where_something_lies_and_nobody_has_a_name(tmp_path: Path) -> None:
    plain = agent(tmp_path)
    nameless, named = (scope.resolve(plain, environ, tmp_path) for environ in ({}, {"PROTOAGENT_INSTANCE": "alice"}))
    assert scope.warning(plain, nameless) is None
    (tmp_path / "root" / "memory").mkdir(parents=True)
    loud = scope.warning(plain, nameless)
    assert loud
    assert str(tmp_path / "root") in loud
    assert "PROTOAGENT_INSTANCE" in loud
    assert "PROTOAGENT_AUTO_SCOPE" in loud
    assert scope.warning(plain, named) is None


@pytest.mark.parametrize("left", ["alice/checkpoints.db", "notes.txt", "inbox.db", "memory/", None])
def test_anything_in_the_home_counts(left: str | None, tmp_path: Path) -> None:
    """\"Runs unscoped against a non-empty data home\"."""
    plain = agent(tmp_path)
    root = tmp_path / "root"
    root.mkdir()
    if left is not None:
        (root / left).parent.mkdir(exist_ok=True)
        (root / left).mkdir() if left.endswith("/") else (root / left).touch()
    assert bool(scope.warning(plain, scope.resolve(plain, {}, tmp_path))) == (left is not None)


def test_where_the_project_itself_lies_only_stores_count(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("scope: {root: .}\nstores: {inbox: inbox.db}\n")
    here = read(tmp_path / FILE)
    assert scope.warning(here, scope.resolve(here, {}, tmp_path)) is None
    (tmp_path / "inbox.db").symlink_to("nowhere")
    assert scope.warning(here, scope.resolve(here, {}, tmp_path))


def test_a_program_is_told_once_and_not_because_of_what_it_stores(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    agent(tmp_path)
    (tmp_path / "below").mkdir()
    assert mnemo_coord.scope(tmp_path / "below", {}).name is None
    Path(mnemo_coord.scope(tmp_path, {}).root).mkdir()
    (tmp_path / "root" / "inbox.db").touch()
    mnemo_coord.scope(tmp_path, {})
    assert not caplog.records, "the home was empty when it came"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "root" / "memory").mkdir(parents=True)
    agent(tmp_path / "other")
    (tmp_path / "other" / "root" / "alice" / "memory").mkdir(parents=True)
    named = mnemo_coord.scope(tmp_path / "other", {"PROTOAGENT_INSTANCE": "alice"})
    assert (named.name, named.source, named.root) == ("alice", "variable", str(tmp_path / "other" / "root" / "alice"))
    assert not caplog.records, "it has a name"
    for _ in range(3):
        mnemo_coord.scope(tmp_path / "other", {})
    assert [(record.levelname, str(tmp_path / "other" / "root") in record.message) for record in caplog.records] == [
        ("WARNING", True)
    ]


def test_a_program_gets_our_errors(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound):
        mnemo_coord.scope(tmp_path)
    agent(tmp_path)
    with pytest.raises(errors.Config):
        mnemo_coord.scope(tmp_path, {"PROTOAGENT_INSTANCE": "../x"})


def test_what_is_started_unscoped_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = agent(tmp_path)
    warn_unscoped(plain, {})
    (tmp_path / "root" / "memory").mkdir(parents=True)
    warn_unscoped(plain, {"PROTOAGENT_INSTANCE": "alice"})
    assert capsys.readouterr().err == ""
    warn_unscoped(plain, {})
    assert capsys.readouterr().err.startswith(f"WARNING: unscoped, and {tmp_path / 'root'} is not empty")
    with pytest.raises(errors.Config):
        warn_unscoped(plain, {"PROTOAGENT_INSTANCE": "memory"})
