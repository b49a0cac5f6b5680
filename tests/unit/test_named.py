"""Named instances: what instances.yaml may say, which ports an instance has, what stays of a file that a person wrote, workspaces."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import support
from hypothesis import HealthCheck, settings
from hypothesis import given as for_all
from hypothesis import strategies as st
from ruamel.yaml import YAML
from unit.kernel import need_root

from mnemo_coord import errors
from mnemo_coord.disk import trees
from mnemo_coord.instances import removal, roster, workspace
from mnemo_coord.instances.home import home, instances_file, tilde
from mnemo_coord.instances.named import Instances, Named
from mnemo_coord.instances.project import FILE, Project, read
from mnemo_coord.instances.slots import Listener, Slots

SWARM = (support.REPOSITORY / "examples" / "jiuwenswarm" / FILE).read_text()
SEED = """\
# Mine, by hand.
instances:
  dev:                        # the one for trying out
    workspace: ~/.jiuwenswarm_dev
    ports:
      agent_server: 19092
      web: 20000
      gateway: 20001
      frontend: 6173

  # never touch this one
  "prod":
    workspace: '~/.jiuwenswarm_prod'
    ports:
      agent_server: 20092   # known to the firewall
      web: 21000
      gateway: 21001
      frontend: 7173
    # and here it ends
# the end
"""


@pytest.fixture(autouse=True)
def home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    for name in ("XDG_DATA_HOME", "WEB_BASE_PORT", "JIUWENSWARM_WEB_PORT"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "me").mkdir()
    return tmp_path / "me"


def swarm(folder: Path, text: str = SWARM, environ: dict[str, str] | None = None) -> Project:
    folder.mkdir(exist_ok=True)
    (folder / FILE).write_text(text)
    return read(folder / FILE, environ or {})


def instances(folder: Path, seen: Callable[[], dict[int, Listener]] = dict, **environ: str) -> Instances:
    project = swarm(folder / "project")
    return Instances(project, environ, slots=Slots(folder / "data", seen=seen))


def listed(folder: Path, text: str) -> Instances:
    """With an instances.yaml in the home."""
    found = instances(folder)
    found.file.parent.mkdir(mode=0o700, exist_ok=True)
    found.file.write_text(text)
    return found


# Where things are


def test_where_the_home_and_the_list_are(tmp_path: Path, home_folder: Path) -> None:
    plain, own = swarm(tmp_path / "a", "project: a"), swarm(tmp_path / "b", "project: b\nhome: ~/.b\n")
    assert home(plain, {}) == home_folder / ".local/share/mnemosyne/a"
    assert home(own, {}) == home_folder / ".b"
    assert home(own, {"MNEMOSYNE_DATA_DIR": str(tmp_path / "d")}) == tmp_path / "d" / "b"
    assert instances_file(own, {}) == home_folder / ".b" / "instances.yaml"
    (tmp_path / "b" / "instances.yaml").touch()
    assert instances_file(own, {}) == tmp_path / "b" / "instances.yaml", "beside mnemosyne.yaml"
    assert instances_file(own, {"MNEMOSYNE_CONFIG_DIR": str(tmp_path / "c")}) == tmp_path / "c" / "b" / "instances.yaml"
    named = swarm(tmp_path / "e", "project: e\nhome: ~/.e\nhome_variable: E_DATA\nconfig_variable: E_CONFIG\n")
    assert home(named, {"E_DATA": ""}) == home_folder / ".e"
    assert home(named, {"E_DATA": "~/x", "MNEMOSYNE_DATA_DIR": str(tmp_path / "d")}) == home_folder / "x"
    assert instances_file(named, {"E_DATA": "~/x"}) == home_folder / "x" / "instances.yaml"
    both = {"E_CONFIG": str(tmp_path / "f"), "MNEMOSYNE_CONFIG_DIR": str(tmp_path / "c")}
    assert instances_file(named, both) == tmp_path / "f" / "instances.yaml"
    with pytest.raises(errors.Config, match="is a folder that all projects share"):
        home(swarm(tmp_path / "c", "project: locks"), {})
    assert (tilde(home_folder / "x"), tilde(home_folder), tilde(Path("/x"))) == ("~/x", str(home_folder), "/x")


@pytest.mark.parametrize("text", ["home: ~/", "home: /", "home: ''", "home: ..", "home: ~", "home: 7", 'home: "a\\nb"'])
def test_a_home_that_is_none(text: str, tmp_path: Path) -> None:
    with pytest.raises(errors.Config, match=r"mnemosyne\.yaml:1: home: "):
        swarm(tmp_path / "a", text)


# Ports


def test_a_base_can_be_overridden(tmp_path: Path) -> None:
    def ports(**environ: str) -> list[int]:
        return [service.port for service in swarm(tmp_path / "p", environ=environ).services]

    assert ports() == [18092, 19000, 19001, 5173]
    assert ports(AGENT_SERVER_BASE_PORT="18192", WEB_BASE_PORT="") == [18192, 19000, 19001, 5173]
    assert ports(WEB_BASE_PORT="29000", JIUWENSWARM_WEB_PORT="39000") == [18092, 39000, 19001, 5173]
    assert ports(WEB_BASE_PORT="19001", GATEWAY_BASE_PORT="19000") == [18092, 19001, 19000, 5173], "and they can change places"
    for odd in ("x", "0", "65536", "-1", "1.0", " 1", "٣", "9" * 5000):
        with pytest.raises(errors.Config, match=r"WEB_BASE_PORT is .* which is not a port"):
            ports(WEB_BASE_PORT=odd)
    with pytest.raises(errors.Config, match="WEB_BASE_PORT gives web and gateway one port, 19001"):
        ports(WEB_BASE_PORT="19001")
    odd = swarm(tmp_path / "q", "services: {web: {port: 1}, web_base: {port: 2}}", {"WEB_BASE_PORT": "1002"})
    assert odd.service("web").port == 1, "that says which port web_base has"


def test_the_ports_of_the_seed(tmp_path: Path, home_folder: Path) -> None:
    found = instances(tmp_path)
    (default,) = found.all()
    assert (default.name, default.workspace, default.slot) == ("default", home_folder / ".jiuwenswarm", 0)
    assert list(default.ports.values()) == [18092, 19000, 19001, 5173]
    assert list(home_folder.iterdir()) == [], "looking makes nothing"
    (dev, new), (prod, _) = found.add("dev"), found.add("prod")
    assert (list(dev.ports.values()), dev.slot, new) == ([19092, 20000, 20001, 6173], 1, True)
    assert (list(prod.ports.values()), prod.slot) == ([20092, 21000, 21001, 7173], 2)
    assert (dev.workspace, stat.S_IMODE(dev.workspace.stat().st_mode)) == (home_folder / ".jiuwenswarm_dev", 0o700)
    plain = YAML(typ="safe").load(found.file)
    schema = json.loads((support.REPOSITORY / "docs" / "reference" / "schemas" / "instances.yaml.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(plain)
    assert plain == YAML(typ="safe").load(SEED)
    assert found.all() == [default, dev, prod]
    assert found.notes == ()


def test_again_changes_nothing_and_other_wishes_are_refused(tmp_path: Path) -> None:
    found = instances(tmp_path)
    dev, _ = found.add("dev", ports={"web": 21500})
    before = found.file.read_bytes()
    assert dev.ports == {"agent_server": 19092, "web": 21500, "gateway": 20001, "frontend": 6173}
    assert found.add("dev") == found.add("dev", ports={"w": 21500}) == (dev, False)
    assert found.add("dev", workspace=dev.workspace) == (dev, False)
    with pytest.raises(errors.Conflict, match="exists with web on port 21500"):
        found.add("dev", ports={"web": 21501})
    with pytest.raises(errors.Conflict, match="exists with the workspace"):
        found.add("dev", workspace=tmp_path / "other")
    assert found.file.read_bytes() == before
    assert not (tmp_path / "other").exists()


def test_what_another_has_is_not_given(tmp_path: Path) -> None:
    found = instances(tmp_path)
    found.add("dev")
    for wish, said in (({"web": 20000}, "in .*_dev"), ({"web": 19000}, "jiuwenswarm, slot 0")):
        with pytest.raises(errors.Conflict, match=f"web's port {wish['web']} is that of .*{said}"):
            found.add("new", ports=wish)
    with pytest.raises(errors.Conflict, match="is the workspace of dev"):
        found.add("new", workspace=found.get("dev").workspace)
    (tmp_path / "link").symlink_to(found.home)
    with pytest.raises(errors.Conflict, match="is the workspace of default"):
        found.add("new", workspace=tmp_path / "link")
    with pytest.raises(errors.NotFound, match="has no service 'wbe'"):
        found.add("new", ports={"wbe": 1})
    for folder in (Path("/"), Path("~")):
        with pytest.raises(errors.Config, match="is not a folder for one instance"):
            found.add("new", workspace=folder)
    other = Instances(swarm(tmp_path / "o", "project: other\nhome: ~/.other"), {}, slots=Slots(tmp_path / "data", seen=dict))
    with pytest.raises(errors.Conflict, match="is the workspace of dev of jiuwenswarm"):
        other.add("x", workspace=found.get("dev").workspace)
    assert [one.name for one in found.all()] == ["default", "dev"]
    assert not (found.home.parent / ".jiuwenswarm_new").exists(), "nothing is left of those"
    assert found.add("new", ports={"web": 20002})[0].slot == 2


def test_two_never_have_one_number(tmp_path: Path) -> None:
    """Also when all their ports are others: it is in the names of databases and the like."""
    found = instances(tmp_path)
    ports = {"agent_server": 31001, "web": 31002, "gateway": 31003, "frontend": 31004}
    assert found.add("one", ports=ports)[0].slot == 1
    assert found.add("two")[0].slot == 2
    assert found.add("three", ports={"web": 22001})[0].slot == 4, "in slot 3 that is the gateway's"


def test_strangers_are_told_with_their_process(tmp_path: Path) -> None:
    heard = {port: Listener(port=port, address="::", pid=7, command="nginx") for port in (20001, 31000)}
    found = instances(tmp_path, seen=lambda: heard)
    assert found.add("dev")[0].slot == 2
    assert found.notes == ("slot 1: gateway's port 20001 is used by process 7 (nginx)",)
    assert found.add("new", ports={"web": 31000})[0].ports["web"] == 31000, "what is asked for is given"
    assert "web's port 31000 is used by process 7 (nginx)" in found.notes


def test_no_slot_left_and_ports_that_are_none(tmp_path: Path) -> None:
    project = swarm(tmp_path / "p", "project: p\nhome: ~/.p\nslots: 3\nservices: {web: {port: 64000}}\n")
    found = Instances(project, {}, slots=Slots(tmp_path / "data", seen=dict))
    found.add("one")
    with pytest.raises(errors.Conflict, match=r"no slot of p is free: .*slot 2: a port is above 65535"):
        found.add("two")
    assert [one.name for one in found.all()] == ["default", "one"]
    assert not (tmp_path / "me" / ".p_two").exists()


def test_what_a_person_edits_wins_and_the_ledger_follows(tmp_path: Path) -> None:
    found = instances(tmp_path)
    slots = Slots(tmp_path / "data")
    found.add("dev")
    found.add("prod")
    text = found.file.read_text()
    found.file.write_text(text.replace("web: 20000", "web: 22222").replace("~/.jiuwenswarm_dev", f"{tmp_path}/moved"))
    dev = found.get("dev")
    assert (dev.ports["web"], dev.workspace, dev.slot) == (22222, tmp_path / "moved", 1)
    used, allocation = found.allocate("dev")
    assert (used, allocation.slot.ports, allocation.slot.root) == (dev, dev.ports, str(tmp_path / "moved"))
    assert sorted(slot.slot for slot in slots.all()) == [1, 2], "what it had before is given back"
    assert found.allocate("dev")[1].fresh is False
    assert found.add("third", ports={"web": 20000})[0].slot == 3


def test_a_list_by_hand_and_a_ledger_that_is_lost(tmp_path: Path) -> None:
    found = listed(tmp_path, SEED)
    assert [(one.name, one.slot) for one in found.all()] == [("default", 0), ("dev", 1), ("prod", 2)], "as their ports tell"
    third, _ = found.add("third")
    assert third.slot == 3, "the ledger knows nothing of the others"
    assert found.allocate("prod")[0].slot == 2
    (tmp_path / "data" / "slots.json").unlink()
    assert [one.slot for one in found.all()] == [0, 1, 2, 3]
    assert found.add("fourth")[0].slot == 4


def test_an_entry_by_hand_has_the_slot_that_its_ports_tell(tmp_path: Path) -> None:
    found = listed(tmp_path, "instances:\n  prod: {ports: {web: 21000, gateway: 7}}\n  dev: {ports: {web: 20000}}\n  new: {}\n")
    assert [(one.name, one.slot) for one in found.all()[1:]] == [("prod", 2), ("dev", 1), ("new", 3)]
    assert found.get("prod").ports == {"agent_server": 20092, "web": 21000, "gateway": 7, "frontend": 7173}


def test_another_project_is_given_other_ports_at_once(tmp_path: Path) -> None:
    """Before anything uses the instance: a slot whose folder is not there would be free."""
    found = instances(tmp_path)
    found.add("dev")
    other = swarm(tmp_path / "o", SWARM.replace("project: jiuwenswarm", "project: o").replace("~/.jiuwenswarm", "~/.o"))
    assert Instances(other, {}, slots=Slots(tmp_path / "data", seen=dict)).add("dev")[0].slot == 2


def test_an_entry_with_nothing_in_it(tmp_path: Path, home_folder: Path) -> None:
    found = listed(tmp_path, "instances:\n  dev:\n  prod: {ports: {web: 21000}}\n")
    dev, prod = found.all()[1:]
    assert (dev.workspace, dev.slot, dev.ports["web"]) == (home_folder / ".jiuwenswarm_dev", 1, 20000)
    assert (prod.slot, list(prod.ports.values())) == (2, [20092, 21000, 21001, 7173])
    assert found.allocate("dev")[0] == dev


def test_a_project_without_a_home_shares_the_slot_of_its_checkout(tmp_path: Path) -> None:
    from mnemo_coord.instances.slots import recognise

    project = swarm(tmp_path / "p", "project: p\nservices: {web: {port: 8000}}\n")
    slots = Slots(tmp_path / "data", seen=dict)
    here = slots.allocate(project, recognise(project, {}, project.root)).slot
    default, allocation = Instances(project, {}, slots=slots).allocate()
    assert allocation.slot == here
    assert default.ports == {"web": 8000}
    assert default.workspace == tmp_path / "me/.local/share/mnemosyne/p"
    inherited = recognise(project, {"MNEMOSYNE_SLOT": "0"}, project.root)
    assert slots.allocate(project, inherited).slot == here, "what `run` starts finds its number, and means the same"


def test_checkouts_of_such_a_project_share_no_workspace(tmp_path: Path) -> None:
    """By path, by variable, and one that is only a second one: each is its own default instance."""
    text = "project: p\nslots: 10\ninstance: {variable: AI, path: trees/p/}\nservices: {web: {port: 8000}}\n"
    slots, base = Slots(tmp_path / "data", seen=dict), tmp_path / "me/.local/share/mnemosyne"

    def of(folder: Path, **environ: str) -> Instances:
        folder.mkdir(parents=True, exist_ok=True)
        return Instances(swarm(folder, text), environ, slots=slots)

    main, second = of(tmp_path / "a"), of(tmp_path / "b")
    tree, asked = of(tmp_path / "trees/p/hotfix"), of(tmp_path / "a", AI="3")
    workspaces = []
    for one, slot in ((main, 0), (second, 1), (tree, 9), (asked, 3)):
        before = one.get("default")
        used, _ = one.allocate()
        assert used == before == one.get("default"), "what is looked at is what is used"
        assert (used.slot, used.ports) == (slot, {"web": 8000 + 1000 * slot})
        assert used.workspace == (base / f"p.{slot}" if slot else base / "p")
        workspaces.append(used.workspace)
    third = of(tmp_path / "c", AI="3")
    assert third.get("default").workspace not in workspaces, "not that of the one that has slot 3, before it has one"
    assert third.allocate()[0] == third.get("default")
    assert of(tmp_path / "trees/p/hotfix", AI="9").get("default").workspace == base / "p.9", "as what is started there finds it"
    dev, _ = tree.add("dev")
    assert dev.workspace == base / "p_dev"


# The file


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ": has no `instances`"),
        ("# nothing\n", ": has no `instances`"),
        ("instance: {}", ":1: instance: is not known (did you mean 'instances'?)"),
        ("x-own: 1", ": has no `instances`"),
        ("instances: [", ":1: "),
        ("instances:\n\tdev: {}", ":2: found character '\\t'"),
        ("- dev", ":1: has to be a mapping"),
        ("instances: []", ":1: instances: has to be a mapping"),
        ("instances: {dev: 7}", ":1: instances.dev: has to be a mapping"),
        ("instances:\n  dev: {}\n  dev: {}", ":3: found duplicate key"),
        ("instances:\n  dev: {ports: {web: 1, web: 2}}", ":2: found duplicate key"),
        ("instances:\n  config: {}", ":2: instances.config: instance 'config' is reserved"),
        ("instances:\n  Default: {}", ":2: instances.Default: instance 'Default' is reserved"),
        ("instances:\n  JiuwenSwarm: {}", ":2: instances.JiuwenSwarm: instance 'JiuwenSwarm' is called like its project"),
        ("instances:\n  a.b: {}", ":2: instances.a.b: instance 'a.b' has a character other than"),
        ('instances:\n  "dev\\n": {}', ":2: instances.dev\n: instance 'dev\\n' has a character other than"),
        (f"instances:\n  {'a' * 65}: {{}}", "has 65 characters, 64 are allowed"),
        ("instances:\n  deadbeef: {}", ":2: instances.deadbeef: instance 'deadbeef' looks like an instance id"),
        ("instances:\n  1: {}", ":2: instances.1: 1 is not a name"),
        ("instances:\n  dev:\n    workspac: x", ":3: instances.dev.workspac: is not known (did you mean 'workspace'?)"),
        ("instances:\n  dev:\n    workspace: 7", ":3: instances.dev.workspace: has to be text, not 7"),
        ("instances:\n  dev:\n    workspace: ~", ":3: instances.dev.workspace: has to be text, not None"),
        ("instances:\n  dev:\n    workspace: ''", ":3: instances.dev.workspace: '' is not a path"),
        ("instances:\n  dev:\n    ports:\n      wbe: 1", ":4: instances.dev.ports.wbe: is not known (did you mean 'web'?)"),
        ("instances:\n  dev:\n    ports:\n      web: true", ":4: instances.dev.ports.web: has to be a whole number, not True"),
        ("instances:\n  dev:\n    ports:\n      web: '80'", ":4: instances.dev.ports.web: has to be a whole number, not '80'"),
        ("instances:\n  dev:\n    ports:\n      web: 80.0", ":4: instances.dev.ports.web: has to be a whole number, not 80.0"),
        ("instances:\n  dev:\n    ports:\n      web: 0", ":4: instances.dev.ports.web: has to be 1 to 65535, not 0"),
        ("instances:\n  dev:\n    ports:\n      web: 65536", ":4: instances.dev.ports.web: has to be 1 to 65535, not 65536"),
        ("instances:\n  dev:\n    ports: 7", ":3: instances.dev.ports: has to be a mapping"),
        ("instances:\n  a: {ports: {web: 7}}\n  b:\n    ports: {gateway: 7}", ":4: instances.b.ports.gateway: 7 is the port of a's web"),
        ("instances:\n  a:\n    ports: {web: 7, gateway: 7}", ":3: instances.a.ports.gateway: 7 is the port of a's web"),
        ("instances:\n  a:\n    ports: {web: 19001}", ":3: instances.a.ports.web: 19001 is the port of default's gateway"),
        ("instances:\n  a:\n    workspace: ~/.jiuwenswarm/", ":3: instances.a.workspace: {me}/.jiuwenswarm is that of default"),
        ("instances:\n  a: {workspace: ~/x}\n  b:\n    workspace: ~/y/../x", ":4: instances.b.workspace: {me}/x is that of a"),
        ("instances:\n  a: {workspace: ~/.jiuwenswarm_b}\n  b: {}", ":3: instances.b: its workspace {me}/.jiuwenswarm_b is that of a"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_file_line_and_key(text: str, said: str, tmp_path: Path, home_folder: Path) -> None:
    found = listed(tmp_path, text)
    for act in (found.all, lambda: found.get("dev"), lambda: found.add("new"), lambda: found.remove("dev"), found.allocate):
        with pytest.raises(errors.Config) as caught:
            act()
        told = f"{caught.value.message} ({caught.value.hint})"
        assert told.startswith(str(found.file))
        assert said.replace("{me}", str(home_folder)) in told
    assert found.file.read_text() == text, "and nothing is touched"


@pytest.mark.parametrize("name", ["", "..", ".x", "a b", "é", "dev\n", "a" * 65, "ALL", "tmp", "JIUWENSWARM", "mnemosyne"])
def test_names_that_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(errors.Config, match="instance"):
        instances(tmp_path).add(name)
    assert not (tmp_path / "me" / ".jiuwenswarm").exists()


def test_no_file_and_files_that_are_none(tmp_path: Path) -> None:
    found = instances(tmp_path)
    with pytest.raises(errors.NotFound, match="has no instance 'dev'"):
        found.remove("dev")
    with pytest.raises(errors.Config, match="has no entry"):
        found.remove("default")
    found.file.parent.mkdir()
    os.mkfifo(found.file)
    with pytest.raises(errors.State, match="is not a regular file"):
        found.all()
    found.file.unlink()
    found.file.mkdir()
    with pytest.raises(errors.State):
        found.all()


def test_near_names_are_told(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound) as caught:
        listed(tmp_path, SEED).get("prd")
    assert caught.value.hint == "did you mean 'prod'?"
    with pytest.raises(errors.NotFound) as caught:
        listed(tmp_path, SEED).get("xyz")
    assert caught.value.hint == "known are default, dev, prod"


def test_what_a_person_wrote_stays_byte_for_byte(tmp_path: Path) -> None:
    found = listed(tmp_path, SEED)
    found.add("third")
    added = found.file.read_text()
    before, after = SEED.removesuffix("# the end\n"), "# the end\n"
    assert added.startswith(before)
    assert added.endswith(after)
    assert added[len(before) : -len(after)].startswith("  third:\n    workspace: ~/.jiuwenswarm_third\n    ports:\n      agent")
    found.remove("third")
    assert found.file.read_text() == SEED
    found.remove("dev")
    left = found.file.read_text()
    assert left.startswith('# Mine, by hand.\ninstances:\n\n  # never touch this one\n  "prod":\n')
    assert SEED.endswith(left.split("  # never")[1])
    found.remove("prod")
    assert found.file.read_text() == "# Mine, by hand.\ninstances:\n\n  # never touch this one\n# the end\n"
    found.add("again")
    assert "  # never touch this one\n# the end\n" in found.file.read_text()


@pytest.mark.parametrize(
    "text",
    [
        "instances: {}\n",
        "instances:\n",
        "instances: ~ # none yet\n",
        "instances:",
        "# all\ninstances: {dev: {workspace: ~/d}} # one\n",
        "---\nx-own: [1, '2']   # kept\ninstances:\n    dev:\n        workspace: \"~/d\"\n        ports: {web: 7000}\n",
        "x-base: &base\n  ports: {web: 7000}\ninstances:\n  dev: *base\nx-more: 1\n",
        "instances:\r\n  dev:\r\n    workspace: ~/d\r\n",
        "instances:\n dev:\n  workspace: |-\n   ~/d\n x: {}",
        "instances:\n  dev:\n    workspace: ~/d\n...\n",
    ],
)
def test_other_ways_to_write_it(text: str, tmp_path: Path) -> None:
    found = listed(tmp_path, text)
    found.file.write_bytes(text.encode())
    before = YAML(typ="safe").load(text)
    found.add("new", workspace=tmp_path / "it's a 'new' one")
    after = YAML(typ="safe").load(found.file)
    new = after["instances"].pop("new")
    assert (new["workspace"], new["ports"].keys()) == (str(tmp_path / "it's a 'new' one"), found.all()[0].ports.keys())
    assert {**after, "instances": after["instances"] or None} == {**before, "instances": before["instances"] or None}
    assert all(comment in found.file.read_text() for comment in ("# all", "# one", "# kept", "# none yet") if comment in text)
    found.remove("new")
    if "dev" in text:
        found.remove("dev")
        assert "dev" not in found.file.read_text()


NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True)


@for_all(st.lists(NAMES, min_size=1, max_size=5, unique=True), st.data())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_entries_come_and_go_and_nothing_else_changes(names: list[str], data: st.DataObject) -> None:
    text = SEED.encode()
    for name in names:
        text = roster.with_entry(text, name, "~/x", {"web": 1})
    assert list(YAML(typ="safe").load(text)["instances"]) == ["dev", "prod", *names]
    for name in data.draw(st.permutations(names)):
        text = roster.without_entry(text, name)
    assert text.decode() == SEED


def test_a_file_that_changed_meanwhile_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = listed(tmp_path, SEED)
    real, edits = roster.with_entry, iter(["# edited\n", "# and again\n"])

    def edited(before: Any, *rest: Any) -> bytes:
        done = real(before, *rest)
        found.file.write_text(next(edits, "") + found.file.read_text())
        return done

    monkeypatch.setattr(roster, "with_entry", edited)
    found.add("third")
    assert found.file.read_text().startswith("# and again\n# edited\n# Mine, by hand.\n")
    assert [one.name for one in found.all()] == ["default", "dev", "prod", "third"]
    monkeypatch.setattr(
        roster, "with_entry", lambda before, *rest: (found.file.write_bytes(before + b"#\n"), real(before, *rest))[1]
    )
    with pytest.raises(errors.Conflict, match="somebody else keeps changing it"):
        found.add("fourth")
    assert not (tmp_path / "me" / ".jiuwenswarm_fourth").exists()
    assert len(Slots(tmp_path / "data").all()) == 1


def test_mode_and_link_are_kept_and_nothing_is_left(tmp_path: Path) -> None:
    found = listed(tmp_path, SEED)
    (tmp_path / "elsewhere").mkdir()
    found.file.rename(tmp_path / "elsewhere" / "list.yaml")
    found.file.symlink_to(tmp_path / "elsewhere" / "list.yaml")
    (tmp_path / "elsewhere" / "list.yaml").chmod(0o640)
    found.add("third")
    assert found.file.is_symlink()
    assert stat.S_IMODE(found.file.stat().st_mode) == 0o640
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["list.yaml"]
    assert [path.name for path in found.file.parent.iterdir()] == ["instances.yaml"]


def test_what_a_killed_writer_has_left_is_removed(tmp_path: Path) -> None:
    found = listed(tmp_path, SEED)
    (found.file.parent / ".instances.yaml.7.tmp").write_text("half")
    (found.file.parent / "other.tmp").write_text("mine")
    third, _ = found.add("third")
    (third.workspace / ".env.7.tmp").write_text("API_KEY=sk-")
    (third.workspace / ".env.own.tmp").write_text("mine")
    workspace.make(third, found.project)
    assert sorted(path.name for path in found.file.parent.iterdir()) == ["instances.yaml", "other.tmp"]
    assert sorted(path.name for path in third.workspace.iterdir()) == [".env", ".env.own.tmp", ".instance.made", "logs"]


# Workspaces


def made(folder: Path, **ports: int) -> tuple[Named, Project]:
    project = swarm(folder / "project")
    return Named(name="dev", workspace=folder / "w", ports=project.ports(1) | ports, slot=1), project


def test_a_workspace_and_its_env(tmp_path: Path) -> None:
    named, project = made(tmp_path)
    place = workspace.make(named, project)
    assert (place.env, place.lock, place.pid, place.logs) == tuple(
        tmp_path / "w" / name for name in (".env", ".instance.lock", ".instance.pid", "logs")
    )
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (place.path, place.env, place.logs)}
    assert modes == {"w": 0o700, ".env": 0o600, "logs": 0o700}
    values = place.values({})
    assert values["MNEMOSYNE_INSTANCE"] == "dev"
    assert values["MNEMOSYNE_WORKSPACE"] == str(tmp_path / "w")
    assert (values["AGENT_SERVER_PORT"], values["WEB_PORT"]) == ("19092", "20000")
    before = place.env.stat()
    workspace.make(named, project)
    assert (place.env.stat().st_ino, place.env.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns), "nothing to do"


@pytest.mark.parametrize(
    ("above", "below"),
    [
        (b"API_KEY='sk-1'\n", b""),
        (b"# mine\r\nA=1\r\n\r\n", b"\nB=${A}  # also\n\n"),
        (b"", b"source shared.env"),
        (b"\xff\xfe not even text\n", b"\0"),
    ],
)
def test_the_lines_of_a_person_stay(above: bytes, below: bytes, tmp_path: Path) -> None:
    named, project = made(tmp_path)
    place = workspace.make(named, project)
    part = place.env.read_bytes().partition(b"# >>>")
    place.env.write_bytes(above + part[1] + part[2] + below)
    workspace.make(Named(name="dev", workspace=named.workspace, ports=named.ports | {"web": 22222}, slot=1), project)
    assert place.env.read_bytes() == above + (part[1] + part[2]).replace(b"20000", b"22222") + below


def test_an_env_that_was_there_before_is_added_to(tmp_path: Path) -> None:
    named, project = made(tmp_path)
    named.workspace.mkdir(mode=0o700)
    (named.workspace / ".env").write_text("API_KEY=sk-1")
    (named.workspace / ".env").chmod(0o600)
    place = workspace.make(named, project)
    assert place.env.read_text().startswith("API_KEY=sk-1\n# >>> mnemosyne >>>")
    assert place.values({})["API_KEY"] == "sk-1"
    assert not place.made


@pytest.mark.parametrize("text", ["{begin}\n", "{end}\n", "{end}\n{begin}\n", "{begin}\n{end}\n{begin}\n{end}\n"])
def test_comment_lines_that_do_not_fit_are_refused(text: str, tmp_path: Path) -> None:
    named, project = made(tmp_path)
    place = workspace.make(named, project)
    odd = text.format(begin=workspace.BEGIN, end=workspace.END)
    place.env.write_text(odd)
    with pytest.raises(errors.Config, match=r"\.env:\d: the lines"):
        workspace.make(named, project)
    assert place.env.read_text() == odd


def planted(kind: str, path: Path) -> None:
    if kind == "symlink":
        (path.parent / "other").write_text("A=1")
        path.symlink_to(path.parent / "other")
    elif kind == "hard link":
        (path.parent / "other").write_text("A=1")
        (path.parent / "other").chmod(0o600)
        os.link(path.parent / "other", path)
    elif kind == "fifo":
        os.mkfifo(path, 0o600)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_text("A=1")
        path.chmod(0o644)


@pytest.mark.parametrize("kind", ["symlink", "hard link", "fifo", "folder", "open to others"])
def test_an_env_that_is_no_file_of_ours_alone(kind: str, tmp_path: Path) -> None:
    named, project = made(tmp_path)
    named.workspace.mkdir(mode=0o700)
    planted(kind, named.workspace / ".env")
    for act in (lambda: workspace.make(named, project), lambda: workspace.Workspace(named.workspace).values({})):
        with pytest.raises(errors.Untrusted) as caught:
            act()
        assert str(named.workspace / ".env") in caught.value.message
        assert "chmod 600" in caught.value.hint or "put a plain file" in caught.value.hint
    assert stat.S_IMODE(os.lstat(named.workspace / ".env").st_mode) != 0o600 or kind in {"hard link", "fifo"}


def test_an_env_of_another_user(tmp_path: Path) -> None:
    need_root()
    named, project = made(tmp_path)
    place = workspace.make(named, project)
    os.chown(place.env, 65534, 65534)
    with pytest.raises(errors.Untrusted, match="belongs to user 65534"):
        workspace.make(named, project)


def test_what_others_reach_is_tightened_only_where_we_made_it(tmp_path: Path) -> None:
    named, project = made(tmp_path)
    place = workspace.make(named, project)
    place.path.chmod(0o755)
    place.logs.chmod(0o755)
    place.env.chmod(0o644)
    workspace.make(named, project)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (place.path, place.logs, place.env)] == [0o700, 0o700, 0o600]
    (place.path / ".instance.made").unlink()
    place.path.chmod(0o755)
    with pytest.raises(errors.Untrusted, match="other users can reach it") as caught:
        workspace.make(named, project)
    assert "chmod 700" in caught.value.hint
    assert stat.S_IMODE(place.path.stat().st_mode) == 0o755


def test_a_workspace_that_is_no_folder(tmp_path: Path) -> None:
    named, project = made(tmp_path)
    for plant in (lambda: named.workspace.write_text(""), lambda: named.workspace.symlink_to(tmp_path / "project")):
        plant()
        with pytest.raises(errors.Untrusted):
            workspace.make(named, project)
        named.workspace.unlink()


@for_all(
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"], exclude_characters="$"), min_size=1, max_size=20)
)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_path_is_read_back_from_the_env(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("w")
    (folder / ".env").write_text(f"V={workspace._quoted(text)}\n")
    (folder / ".env").chmod(0o600)
    folder.chmod(0o700)
    assert workspace.Workspace(folder).values({}) == {"V": text}


# Removing


def test_what_a_folder_has(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("xyz")
    (tmp_path / "outside").write_text("kept")
    (tmp_path / "a" / "link").symlink_to(tmp_path)
    found = trees.measure(tmp_path / "a")
    assert (found.files, found.mounted) == (2, ())
    trees.remove(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir() if path.name not in {"me", "fleet"}] == ["outside"]
    (tmp_path / "link").symlink_to(tmp_path / "me")
    with pytest.raises(OSError, match="symbolic link"):
        trees.remove(tmp_path / "link")


def test_what_is_not_removed(tmp_path: Path, home_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = instances(tmp_path)
    dev = found.add("dev")[0]
    assert removal.check(found, dev).files == 1
    inner = found.add("inner", workspace=dev.workspace / "inner")[0]
    refused: list[tuple[Named, str]] = [(dev, "the workspace of inner is in it")]
    (inner.workspace / ".git").mkdir()
    refused.append((inner, "it is the root of a repository"))
    (tmp_path / "before").mkdir(mode=0o700)
    before = found.add("before", workspace=tmp_path / "before")[0]
    refused.append((before, "it was there before the instance was made"))
    for name, place, why in (
        ("h", home_folder.parent, "your home folder is in it"),
        ("p", found.project.root, "it is the project"),
        ("l", found.file.parent, "instances.yaml is in it"),
        ("r", Path("/"), ".*"),
    ):
        if not (place / ".instance.made").exists() and place != Path("/"):
            (place / ".instance.made").touch()
        refused.append((Named(name=name, workspace=place, ports={}, slot=9), why))
    for named, why in refused:
        with pytest.raises(errors.Conflict, match=f"{named.workspace} stays: (?:{why})"):
            removal.remove(found, named)
    monkeypatch.chdir(found.add("here")[0].workspace)
    with pytest.raises(errors.Conflict, match="it is the current folder"):
        removal.remove(found, found.get("here"))
    assert all(named.workspace.is_dir() for named, _ in refused)
    found.remove("inner")
    removal.remove(found, dev)
    assert not dev.workspace.exists()
    assert removal.check(found, dev).files == 0, "gone already"
