"""What is in deploy/ fits what the node has: names of metrics, runbook, and what promtool thinks of it.

That every name is in the scrape of a real node is tested end to end, in ``test_admin_e2e``.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from support.deployed import DEPLOY, dashboard_expressions, metrics_in, rules

from pulsering_server.cli.app import build_app
from pulsering_server.metrics import FAMILIES, PREFIX

REPOSITORY = Path(__file__).parents[2]
RULES = DEPLOY / "prometheus" / "pulsering.rules.yaml"
RUNBOOK = REPOSITORY / "docs" / "runbook.md"

pytestmark = pytest.mark.skipif(not DEPLOY.is_dir(), reason="only the wheel is here, no sources")

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is not here: apt-get install -y --no-install-recommends prometheus",
)


def promtool(*arguments: str, data: bytes | None = None) -> str:
    done = subprocess.run(
        ["promtool", *arguments], input=data, capture_output=True, check=False, cwd=RULES.parent, timeout=60
    )
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    return done.stdout.decode() + done.stderr.decode()


# --- Alerts -------------------------------------------------------------------------------------------------


@needs_promtool
def test_the_rules_are_rules() -> None:
    assert f"{len(rules())} rules found" in promtool("check", "rules", RULES.name)


@needs_promtool
def test_the_alerts_fire_when_they_should_and_not_otherwise() -> None:
    assert "SUCCESS" in promtool("test", "rules", "pulsering.rules.test.yaml")


def test_every_alert_is_made_to_fire() -> None:
    """In the tests that promtool runs: a query that is only well-formed may still match nothing, ever."""
    text = (RULES.parent / "pulsering.rules.test.yaml").read_text(encoding="utf-8")
    tested = [case for test in YAML(typ="safe").load(text)["tests"] for case in test["alert_rule_test"]]
    fired = {case["alertname"] for case in tested if case.get("exp_alerts")}
    quiet = {case["alertname"] for case in tested if not case.get("exp_alerts")}
    names = {rule["alert"] for rule in rules()}
    assert names - fired == set()
    assert names - quiet == set()


@needs_promtool
def test_the_sample_configuration_is_one() -> None:
    assert "SUCCESS" in promtool("check", "config", "prometheus.yml")


def test_every_alert_says_how_bad_it_is_and_where_to_read_on() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        name = rule["alert"]
        assert name.startswith("Pulsering")
        assert rule["labels"]["severity"] in ("page", "ticket")
        annotations = rule["annotations"]
        assert annotations.keys() == {"summary", "description", "runbook"}, name
        assert annotations["runbook"] == f"docs/runbook.md#{name.lower()}"


def sections() -> dict[str, str]:
    parts = re.split(r"^## (.+)\n", RUNBOOK.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_the_runbook_has_a_section_for_each_alert_and_no_other() -> None:
    assert list(sections()) == [rule["alert"] for rule in rules()], "in the same order"


@pytest.mark.parametrize("name", list(sections()) if RUNBOOK.is_file() else [])
def test_a_section_says_what_it_means_what_users_see_and_what_to_do(name: str) -> None:
    text = sections()[name]
    for words in ("**Means.**", "**Users see.**", "**Do.**", "```console"):
        assert text.count(words) == 1, words
    for link in re.findall(r"\]\(#([a-z]+)\)", text):
        assert link in {other.lower() for other in sections()}, link


def test_the_commands_of_the_runbook_are_verbs_that_there_are() -> None:
    app = build_app()
    verbs = {command.name for command in app.registered_commands} | {
        group.name for group in app.registered_groups
    }
    used = set(re.findall(r"^pulsering ([a-z]+)", RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE))
    assert used
    assert used <= verbs, used - verbs


def test_metrics_in_the_runbook_are_there() -> None:
    """A command may ask for all that begin alike."""
    names = [family.full_name for family in FAMILIES]
    ours = {name for name in metrics_in(RUNBOOK.read_text(encoding="utf-8")) if name.startswith(PREFIX)}
    assert len(ours) > 5
    for name in ours:
        assert any(known.startswith(name) or name.startswith(f"{known}_") for known in names), name


# --- Dashboard ----------------------------------------------------------------------------------------------


def dashboard() -> Any:
    return json.loads((DEPLOY / "grafana" / "pulsering.json").read_text(encoding="utf-8"))


def test_panels_have_titles_and_ids_of_their_own_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        assert panel["title"]
        at = panel["gridPos"]
        for cell in (
            (x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
        ):
            assert cell[0] < 24
            assert cell not in taken, f"{panel['title']} lies on {taken.get(cell)}"
            taken[cell] = panel["title"]


def test_every_query_goes_by_the_variables_of_the_dashboard() -> None:
    """One file for any Prometheus, cluster and choice of nodes."""
    names = {variable["name"] for variable in dashboard()["templating"]["list"]}
    assert names == {"datasource", "job", "instance"}
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == "${datasource}"
    for expression in dashboard_expressions():
        assert 'job=~"$job"' in expression, expression


@needs_promtool
def test_every_query_of_the_dashboard_is_one(tmp_path: Path) -> None:
    """As recording rules, which promtool reads; Grafana's variables stand for something of their kind."""
    written = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "1m")}
        for number, expression in enumerate(dashboard_expressions())
    ]
    path = tmp_path / "panels.yaml"
    with path.open("w") as stream:
        YAML(typ="safe").dump({"groups": [{"name": "panels", "rules": written}]}, stream)
    promtool("check", "rules", str(path))
