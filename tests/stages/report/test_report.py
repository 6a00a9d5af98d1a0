"""The page as a whole: what it says, that it asks for nothing, and that it holds whatever a run holds."""

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agfsync import pipeline
from agfsync.records import Vote
from agfsync.stages import report
from agfsync.stages.evaluation.votes import summarise_votes
from agfsync.stages.report.evidence import gather_evidence
from agfsync.stages.report.page import format_day, format_time
from agfsync.stages.report.truth import compare_with_truth
from agfsync.stages.selection import digest_judge

STAGES = ("captions", "questions", "candidates", "scores", "pairs", "training", "evaluation")


def page_of(context: Any) -> str:
    notes = report.run(context)
    page = (context.run.path / "report.html").read_text(encoding="utf-8")
    assert notes == {"file": "report.html", "bytes": len(page.encode())}
    return page


def test_a_whole_run(made_up: Any) -> None:
    page = page_of(made_up())
    assert re.search(r"<h1 class=\"better\">Better: oracle rose by [\d.]+ points</h1>", page)
    for heading in (
        "Best gains",
        "Worst losses",
        "By category",
        "By element type",
        "Training",
        "Pairs",
        "What was run",
    ):
        assert heading in page
    assert 'class="alarm"' not in page
    assert page.count("<img ") == 2 * page.count('class="card"')
    assert 'class="absent"' not in page


def test_the_page_tells_intervals_corrected_p_values_wins_and_ties(made_up: Any) -> None:
    context = made_up()
    page = page_of(context)
    assert re.search(r"\d+ % <small>\(\d+ to \d+\), ties \d+ %</small>", page)
    assert "Holm’s correction" in page or "(one judge decides)" in page
    assert re.search(r"a gain of [\d.]+ points shows in 4 of 5 such evaluations", page)
    assert re.search(r"The winner scores higher in \d+ % of the pairs, lower in \d+ %, and the same in \d+ %", page)
    assert f'<h1 class="better">{pipeline.read_headline(context.run.path)}</h1>' in page


def test_the_page_says_how_much_each_judge_contributed_to_the_choice(made_up: Any) -> None:
    page = page_of(made_up())
    assert "How much each judge contributed to the choice" in page
    rows = re.findall(r'<tr><th scope="row">(vqa|clip)</th>((?:<td class="number">[^<]*</td>){4})</tr>', page)
    cells = {judge: re.findall(r">([^<]+)<", row) for judge, row in rows}
    assert cells["vqa"] == ["+24.0", "104 %", "90 %", "0 %"]
    assert cells["clip"] == ["−1.0", "−4 %", "25 %", "50 %"]
    assert "by the weighted sum of the scores vqa 0.35, clip 0.55, aesthetic 0.1. Shown from" in page


def test_few_captions_give_a_page_without_a_verdict(made_up: Any) -> None:
    page = page_of(made_up(train=4, held_out=5))
    assert '<h1 class="unclear">Too few captions to tell (5 of 20)</h1>' in page
    assert "none, too few captions" in page
    assert 'class="number up"' not in page and 'class="number down"' not in page


def test_reward_hacking_raises_an_alarm(made_up: Any) -> None:
    page = page_of(made_up(skill={"base": 0.62, "aligned": 0.61}, flattery=0.6))
    assert "Reward hacking?" in page
    assert '<h1 class="better">' not in page


@pytest.mark.parametrize("count", range(len(STAGES) + 1))
def test_a_run_is_shown_as_far_as_it_got(made_up: Any, count: int) -> None:
    page = page_of(made_up(train=4, held_out=6, stages=STAGES[:count]))
    assert page.count("not run yet") == len(STAGES) - count
    assert ("Not evaluated yet" in page) == (count < len(STAGES))


def test_without_an_oracle_it_says_what_that_means(made_up: Any) -> None:
    page = page_of(made_up(oracle=False))
    assert "by its own scores" in page
    assert "No independent judge took part" in page


def test_questions_all_answered_alike(made_up: Any) -> None:
    assert "vqa answers every question alike" in page_of(made_up(differing=False))


def test_no_pairs(made_up: Any) -> None:
    assert "No caption gave a pair" in page_of(made_up(train=4, held_out=6, pairs=False))


def test_what_was_left_out_has_its_reasons(made_up: Any) -> None:
    page = page_of(made_up())
    for reason in (
        "broken image: truncated PNG",
        "tie: every candidate",
        "no aesthetic score: the image is of one colour",
    ):
        assert reason in page


def test_nothing_left_out_is_said(made_up: Any) -> None:
    assert "nothing skipped" in page_of(made_up(train=4, held_out=6, failures=False))


def test_a_training_under_way_shows_its_curves(made_up: Any) -> None:
    context = made_up(train=4, stages=STAGES[:5])
    folder = context.run.path / "training"
    folder.mkdir()
    lines = [json.dumps({"step": i, "loss": 0.7, "winner_error_change": 1.0}) for i in range(5)]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 6, "loss": NaN}', '{"step": 7, "lo']))
    page = page_of(context)
    assert "Training has not ended" in page
    assert "the loser’s rose further" in page
    assert "Implicit accuracy" not in page


def test_every_metric_has_a_chart_and_the_watched_judge_is_next_to_what_is_raised(made_up: Any) -> None:
    """Also metrics of methods that the page doesn't know; times have none."""
    watch = {"training.watch": {"by": "oracle", "every": 2}}
    context = made_up(train=4, stages=STAGES[:5], oracle=True)
    context = replace(context, recipe=context.recipe.with_(watch))
    folder = context.run.path / "training"
    folder.mkdir()
    known = {"loss": 2.0, "reward": 50.0, "gradient_norm": 1.0, "seconds": 1.0}
    lines: list[dict[str, float]] = [{"step": 0, "watched_oracle": 40.0, "watch_seconds": 9.0}]
    lines += [{"step": i, **known, "kl_to_base": i / 9} for i in range(1, 5)]
    lines[2] |= {"watched_oracle": 44.0, "winner_error_change": 0.5}
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    page = page_of(context)
    section = page[page.index('<section id="training">') : page.index('<section id="pairs">')]
    titles = re.findall(r"<figcaption><b>([^<]+)</b>", section)
    assert titles == ["Watched judge: oracle", "Reward", "Loss", "Gradient norm", "Kl to base", "Winner error change"]
    assert "ln 2" not in section
    assert section.count('d="M0,') == 2 and section.count('d="M25,') == 8  # all on the same axis of steps


def test_a_training_that_the_watched_judge_has_ended_says_so(made_up: Any) -> None:
    context = made_up(train=4, held_out=6, stages=STAGES[:6])
    told = {"judge": "oracle", "best_step": 50, "best": 61.24, "last_step": 75, "last": 55.0, "stopped_at": 75}
    context.run.finish("training", "digest", 1.0, {"watch": told})
    assert "Stopped at step 75: oracle, which nothing trains on, fell from 61.2 at step 50 to 55.0" in page_of(context)


def test_a_method_with_rewards_is_named_with_them(made_up: Any) -> None:
    context = made_up(train=4, held_out=6, stages=STAGES[:2])
    method = {"type": "nft", "reward": {"vqa": 1.0, "clip": 0.5}}
    page = page_of(replace(context, recipe=context.recipe.with_({"training.method": method})))
    assert "nft, reward vqa 1 clip 0.5, group 8, " in page


def test_every_text_is_escaped(made_up: Any) -> None:
    evil = '<script>alert(1)</script> & "quotes" \' {{ 7*7 }}'
    page = page_of(made_up(text=evil))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &#34;quotes&#34; &#39; {{ 7*7 }}" in page
    assert re.search(r'alt="before: &lt;script&gt;[^"<>]*"', page)
    assert html.unescape(page).count(evil) > 10


def test_texts_can_neither_hide_nor_turn_the_page_around_them(made_up: Any) -> None:
    """Control characters are shown by their numbers; right-to-left text is text, kept apart from what is beside it."""
    turned = "\u202egnp.tac\u2066 \u2069\u2069 \x00\x1b[2J \u200f \u061c"
    arabic, hebrew = "قطة حمراء على السطح", "חתול אדום על הגג"
    page = page_of(made_up(text=f"{turned} {arabic} {hebrew}"))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]", page)
    shown = f"[U+202E]gnp.tac[U+2066] [U+2069][U+2069] [U+0000][U+001B][2J [U+200F] [U+061C] {arabic} {hebrew}"
    assert f'<p class="caption" dir="auto">{shown}</p>' in page
    assert f"<li><bdi>{shown}</bdi>" in page


def test_nothing_is_asked_for_outside_the_page(made_up: Any) -> None:
    page = page_of(made_up())
    for address in re.findall(r'(?:src|href|srcset|action|data)="([^"]*)"', page):
        assert address.startswith(("data:", "#"))
    assert "@import" not in page
    assert "url(" not in page
    assert "<script" not in page


def test_large_images_keep_the_page_small(made_up: Any) -> None:
    assert len(page_of(made_up(train=6, held_out=6, side=512))) < 1_000_000


def test_a_lost_image_leaves_a_gap(made_up: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "make_data_uris", lambda images: {})
    assert 'class="absent"' in page_of(made_up(train=4, held_out=6))


def test_the_page_of_a_run_is_the_same_each_time(made_up: Any) -> None:
    context = made_up(train=4, held_out=6)
    assert page_of(context) == page_of(context)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.42, "0.4 s"), (37, "37 s"), (65, "1 min 05 s"), (7800, "2 h 10 min"), (59.7, "1 min 00 s")]
)
def test_duration(seconds: float, text: str) -> None:
    assert format_time(seconds) == text


def test_day() -> None:
    assert format_day("2026-03-07T08:00:00+00:00") == "7 March 2026"


def test_the_package_brings_its_templates() -> None:
    folder = Path(report.__file__).parent
    assert {"page.html.j2", "charts.html.j2", "style.css"} <= {path.name for path in folder.iterdir()}


def test_polished_prompts_and_measures_have_tables(made_up: Any) -> None:
    context = made_up()
    counts = {"captions": 5, "categories": {"animals": 5}, "words": {"least": 2, "median": 3, "mean": 3.2, "most": 4}}
    polish = {"before": counts, "after": counts | {"captions": 4, "categories": {"animals": 4}}}
    finished = context.run.find_finished("captions")
    notes = {**finished.notes, "polish": polish | {"changed": 2, "repeated": 1}}
    context.run.finish("captions", finished.digest, 1.0, notes)
    evaluated = context.run.find_finished("evaluation")
    figures = {"with dependencies": [50.0, 62.5]}
    measured = {"benchmark": {"measure": "dsg", "judges": {"vqa": {"captions": 9, "figures": figures}}}}
    context.run.finish("evaluation", evaluated.digest, 1.0, {**evaluated.notes, "measured": measured})
    page = page_of(context)
    assert "5 before, 4 after, 2 of them changed. 1 became the same as another." in page
    assert "benchmark by the rule of dsg" in page
    assert '<td class="number">50.00</td><td class="number">62.50</td><td class="number">+12.5</td>' in page


def test_a_set_that_is_judged_pairwise_has_a_table_that_shows_a_position_bias(made_up: Any) -> None:
    context = made_up()
    votes = [
        Vote(f"{n}{ask}{first}", "arena", f"c{n}", ask, first, "aligned" if ask == "appeal" else first)
        for n in range(12)
        for ask in ("appeal", "preference")
        for first in ("base", "aligned")
    ]
    ended = context.run.find_finished("evaluation")
    notes = {**ended.notes, "pairwise": {"arena": summarise_votes(votes, 50, 0)}}
    context.run.finish("evaluation", "digest of evaluation", 1.0, notes)
    page = page_of(context)
    assert "arena, side by side" in page
    appeal, preference = page[page.index("arena, side by side") :].split('<th scope="row">')[1:3]
    assert "100 %" in appeal and "12, 0, 0" in appeal and "position bias" not in appeal
    assert "50 %" in preference and "0, 12, 0" in preference and "position bias" in preference


def test_the_judges_are_judged_by_the_oracle(made_up: Any) -> None:
    context = made_up(flattery=0.5)
    page = page_of(context)
    assert "Are the judges right?" in page and "against those of oracle" in page
    truth = compare_with_truth(context.run, gather_evidence(context.run, context.recipe))
    assert truth["oracle"] == "oracle" and list(truth["judges"]) == ["vqa"]
    answers = {
        row["candidate_key"]: {a["question_key"]: a["answer"] for a in row["answers"]}
        for row in context.run.rows("evaluation_scores")
        if row["scorer"] == "vqa"
    }
    wrong = yes = asked = 0
    for row in context.run.rows("evaluation_scores"):
        for told in row["answers"] if row["scorer"] == "oracle" else ():
            said = answers.get(row["candidate_key"], {}).get(told["question_key"])
            if said is not None:
                asked, wrong = asked + 1, wrong + (said != told["answer"])
                yes += said == "yes" and told["answer"] == "no"
    vqa = truth["judges"]["vqa"]
    assert vqa["questions"] == asked and vqa["right"] == pytest.approx(1 - wrong / asked)
    assert vqa["yes_where_no"] > vqa["no_where_yes"] and 0 < yes < wrong + 1


def test_without_an_oracle_no_judge_is_judged(made_up: Any) -> None:
    assert "Are the judges right?" not in page_of(made_up(oracle=False))


def test_a_doubtful_judge_is_warned_of(made_up: Any, tmp_path: Path) -> None:
    context = made_up(train=4, held_out=6)
    clip = digest_judge(context.recipe.scorers["clip"])
    figures = {"accuracy": 0.5, "low": 0.45, "high": 0.55, "pairs": 400}
    check = {"path": "t2i.json", "judges": {"c": clip}, "accuracy": {"": {"c": figures}}}
    (tmp_path / "check.json").write_text(json.dumps(check))
    context = replace(context, recipe=context.recipe.with_({"report.checks": [str(tmp_path / "check.json")]}))
    assert "clip has 55 % of the weight, and is near a coin toss" in page_of(context)
