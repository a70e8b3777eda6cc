import json
import re
from collections.abc import Callable
from pathlib import Path

import build_run
import numpy as np
import pytest
from built import Built
from scenes import Scene, captures

from mismatch_lab.captures.store import save_capture
from mismatch_lab.errors import InputError
from mismatch_lab.report.numbers import count, estimate_value, interval
from mismatch_lab.report.page import write_report

EVERY = list(build_run.BUILDERS)
Build = Callable[[str], Built]


@pytest.mark.parametrize("name", EVERY)
def test_numbers_shown_are_the_findings(built: Build, name: str) -> None:
    run = built(name)
    for edge, measures in run.findings.edges.items():
        table = run.page.root.one("table", data_edge_numbers=edge)
        for measure, estimate in measures.items():
            cells = [cell.text for cell in table.one("tr", data_measure=measure).children
                     if not isinstance(cell, str)]  # fmt: skip
            assert cells[:5] == [
                measure,
                estimate_value(estimate),
                interval(estimate) or "–",
                count(estimate.n),
                count(estimate.n_dropped),
            ]


def test_answer_comes_first_with_status_in_words(built: Build) -> None:
    run = built("mismatch")
    root = run.page.root
    assert root.one("h1").text == run.findings.verdict.headline
    assert root.one("span", class_="badge").text == "✕Mismatch"
    main = root.one("main").text
    cause = run.findings.verdict.causes[0]
    for said in (
        *run.findings.verdict.reasons,
        run.findings.verdict.next_command,
        cause.id,
        "confidence 97 %",
        cause.location,
        cause.remedy.how,
        "0.490 before, 0.0210 after",
    ):
        assert said in main
    sections = [node.attributes.get("id") for node in root.one("main").all("section")]
    assert sections[:3] == ["answer", "causes", "edges"]


def test_a_cause_is_shown_as_a_chain(built: Build) -> None:
    root = built("mismatch").page.root
    card = root.one("section", id="causes").one("article")
    links = card.one("ol", class_="chain").all("h4")
    assert [link.text for link in links] == ["Observed", "Ruled out", "Confirmed by", "Do this"]
    ruled_out = card.one("ol", class_="chain").all("dt")
    assert len(ruled_out) == 6
    assert ruled_out[0].text == "sliding-window"
    assert "2 more" in card.text  # of six, four are not folded away
    remedies = card.one("dl", class_="remedies").all("dt")
    assert [entry.text for entry in remedies] == ["verl", "TRL", "NeMo-RL", "slime", "FSDP"]
    assert "2 experiments were run" in root.one("section", id="causes").text


def test_a_tie_says_what_would_decide(built: Build) -> None:
    section = built("tied").page.root.one("section", id="causes")
    assert section.one("h2").text == "Possible causes"
    assert len(section.all("article")) == 2
    undecided = section.one("div", class_="undecided").text
    assert "raw-logprobs-temperature and logit-scale explain" in undecided
    assert undecided.count("sample at temperature 1") == 1
    assert len(section.all("li", class_="open")) == 2  # nothing has confirmed either


def test_diagram_shows_the_broken_edges_and_the_suspect(built: Build) -> None:
    diagram = built("mismatch").page.root.one("svg", class_="diagram")
    states = {g.attributes["data-edge"]: g.attributes["class"] for g in diagram.all("g")}
    assert states == {
        "decode_train": "beyond", "prefill_train": "beyond", "train_ref": "beyond",
        "decode_prefill": "within", "infer_ref": "within",
        "train_train": "same", "infer_infer": "unmeasured",
    }  # fmt: skip
    # All broken lines meet in the trainer, and only it is marked.
    suspects = diagram.all("rect", class_="suspect")
    assert [node.attributes["x"] for node in suspects] == ["274"]


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("underpowered", {"edge infer_ref", "noise floor", "localisation", "routing",
                          "what was asked"}),
        ("error", {"edge decode_train", "noise floor", "calibration", "token view"}),
        ("mismatch", {"edge infer_infer", "routing"}),
    ],
)  # fmt: skip
def test_what_was_not_measured_is_said(built: Build, name: str, missing: set[str]) -> None:
    items = built(name).page.root.all("li")
    said = {item.children[0].text for item in items if not isinstance(item.children[0], str)}
    assert missing <= said


def test_no_data_is_never_a_zero(built: Build) -> None:
    page = built("error").page.root
    assert page.one("dd", class_="value").text == "not measured"
    rows = page.one("table", id="edge-table").one("tbody").all("tr")
    assert {row.all("td")[0].text for row in rows} == {"not measured", "not measured (n = 0)"}


@pytest.mark.parametrize(("name", "figures"), [("mismatch", 4), ("numerics", 5), ("error", 0)])
def test_figures_have_words_and_numbers(built: Build, name: str, figures: int) -> None:
    found = built(name).page.root.all("figure")
    assert len(found) == figures
    for figure in found:
        drawing = figure.one("svg")
        assert drawing.attributes["role"] == "img"
        assert drawing.attributes["aria-label"]
        assert len(figure.one("figcaption").text) > 40
        assert figure.one("details").all("td")


def test_histogram_table_adds_up_to_all_tokens(built: Build) -> None:
    run = built("numerics")
    rows = run.page.root.all("figure")[0].one("tbody").all("tr")
    n = run.findings.edges["decode_train"]["abs_delta_mean"].n
    assert sum(int(row.all("td")[-1].text.replace(",", "")) for row in rows) == n


def test_first_divergent_module_is_set_off(built: Build) -> None:
    root = built("mismatch").page.root
    marked = root.one("section", id="location").one("tr", class_="marked")
    assert marked.one("th").text == "model.layers.0.self_attn"
    assert "diverges" in marked.text


def test_details_of_a_token_match_the_captures(built: Build) -> None:
    root = built("numerics").page.root
    data = json.loads(root.one("script", id="token-data").children[0])
    shown = {chip.attributes["data-t"] for chip in root.all("button", class_="tok")}
    assert shown == set(data["tokens"])
    sides = captures(Scene(noise=0.03))
    delta = sides["train"].logp.astype(float) - sides["decode"].logp
    worst = int(np.nanargmax(np.abs(delta)))
    first = root.one("ol", class_="worst").all("li")[0]
    assert first.one("button", class_="focus").attributes["data-t"] == str(worst)
    values = dict(zip(data["fields"], data["tokens"][str(worst)][1], strict=True))
    assert values["token id"] == str(sides["decode"].rows.token_ids[worst])
    assert float(values["delta"].replace("−", "-")) == pytest.approx(delta[worst], rel=5e-3)
    probe = int(sides["train"].probe_positions[0])
    if str(probe) in data["tokens"]:
        assert len(data["tokens"][str(probe)][3]) == 5


@pytest.mark.parametrize("name", EVERY)
def test_page_is_one_file_that_asks_for_nothing(built: Build, name: str) -> None:
    run = built(name)
    root = run.page.root
    for node in root.walk():
        assert node.tag not in {"link", "img", "iframe", "base", "object", "image"}
        for key in ("src", "srcset", "action", "formaction", "data"):
            assert key not in node.attributes
        for key in ("href", "xlink:href"):
            assert node.attributes.get(key, "#").startswith("#")
        assert not [key for key in node.attributes if key.startswith("on")]
    assert "url(http" not in run.html
    assert "@import" not in run.html
    policy = next(m for m in root.all("meta") if "http-equiv" in m.attributes)
    assert policy.attributes["content"].startswith("default-src 'none'")
    assert re.search(r"script-src 'sha256-[\w+/=]+';", policy.attributes["content"])
    assert len(root.all("script")) == (2 if root.all("script", id="token-data") else 1)


@pytest.mark.parametrize("name", EVERY)
def test_ids_are_unique_and_links_lead_somewhere(built: Build, name: str) -> None:
    nodes = list(built(name).page.root.walk())
    ids = [node.attributes["id"] for node in nodes if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    targets = {node.attributes["href"][1:] for node in nodes if "href" in node.attributes}
    assert targets <= set(ids)


def test_hostile_text_stays_text(built: Build) -> None:
    run = built("hostile")
    for bad in ("\x00", "\u202e", "\u200b", "\u2028", "\x1b"):
        assert bad not in run.html
    assert "<img" not in run.html
    assert "<svg onload" not in run.html
    root = run.page.root
    said = "</script><script>alert(1)</script><img src=x onerror=alert(2)>nul⟨U+0000⟩byte"
    assert root.one("h1").text.startswith(said)
    assert root.one("title").text.startswith(f"Mismatch: {said}")
    # id, why, observation, expected, experiment and remedy of both causes, and more around them.
    assert root.one("section", id="causes").text.count(said) >= 12
    assert "{{·7·*·7·}}" in root.one("ol", class_="worst").text
    json.loads(root.one("script", id="token-data").children[0])


def test_report_is_replaced_whole(built, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    build_run.build_error(folder)
    (folder / "report.html").write_text("old", encoding="utf-8")
    assert write_report(folder) == folder / "report.html"
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert sorted(path.name for path in folder.iterdir()) == ["findings.json", "report.html"]


def test_a_folder_without_findings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no findings\.json"):
        write_report(tmp_path)


def test_a_damaged_or_misaligned_capture_costs_only_its_part(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    build_run.build_match(folder)
    other = captures(Scene(seed=1))["train"]
    (folder / "captures" / "train").rename(folder / "elsewhere")
    save_capture(folder / "captures" / "train", other, build_run.manifest("train", other))
    arrays = folder / "captures" / "prefill" / "arrays.safetensors"
    whole = arrays.read_bytes()
    arrays.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    html = write_report(folder).read_text(encoding="utf-8")
    assert "do not hold the same tokens" in html
    assert "does not match its checksum" in html
    assert "Engine and trainer agree" in html
