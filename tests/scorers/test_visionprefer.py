"""The recipe `visionprefer` from polished prompts to the report, on tiny models and a fake server."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_diffusion
from fake_annotator import FakeAnnotator
from fake_language import FakeServer

from agfsync import pipeline
from agfsync.recipe import Recipe
from agfsync.records import Annotation, Candidate, Caption, Pair
from agfsync.store import Run

pytestmark = pytest.mark.long

ASPECTS = ("prompt-following", "aesthetic", "fidelity", "harmlessness")
SMALL = {"steps": 2, "height": 16, "width": 16}


def answer_all(annotator: FakeAnnotator) -> Any:
    """Answers of one server that polishes prompts, of which it changes none, and annotates images."""

    def answer(body: Mapping[str, Any]) -> Any:
        content = body["messages"][-1]["content"]
        if not isinstance(content, str):
            return annotator(body)
        prompts = json.loads(content)["prompts"]
        return json.dumps({"prompts": [{**each, "changed": "", "usable": "yes"} for each in prompts]})

    return answer


def write_metadata(path: Path, count: int) -> str:
    prompts = {
        "image_name": [f"{n}.png" for n in range(count)],
        "prompt": [f"a red star and {n}" for n in range(count)],
    }
    pq.write_table(pa.table(prompts | {"prompt_nsfw": [0.0] * count}), path)
    return str(path)


def test_all_of_it_runs_on_tiny_models(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    drawing, xl, blip = (str(tmp_path / "sd"), str(tmp_path / "xl"), str(folders / "matcher"))
    tiny_diffusion.pipeline().save_pretrained(drawing)
    tiny_diffusion.xl_pipeline().save_pretrained(xl)
    paths = {"clip": {"path": "embedded:clip"}, "aesthetic": {"path": "embedded:clip", "head": "embedded:aesthetic"}}
    paths["pickscore"] = {"path": "embedded:clip", "weights": None}
    beside = {"sd21": drawing, "dreamlike": drawing, "sdxl": xl}
    network = {"path": blip, "side": None, "hidden": [8, 4], "dropout": [0.2], "device": "cpu"}
    with FakeServer(answer=answer_all(FakeAnnotator())) as server:
        recipe = Recipe.load("visionprefer").with_(
            {
                "captions.source": write_metadata(tmp_path / "metadata.parquet", 14),
                "captions.count": 10,
                "captions.held_out": 3,
                "captions.polish.base_url": server.url,
                "scorers.annotator.server.base_url": server.url,
                "model.path": drawing,
                **{f"model.sampling.{key}": value for key, value in SMALL.items()},
                **{f"candidates.beside.{name}.path": path for name, path in beside.items()},
                **{f"candidates.beside.{name}.sampling.{key}": v for name in beside for key, v in SMALL.items()},
                **{f"scorers.{name}.{key}": v for name, of in paths.items() for key, v in of.items()},
                **{f"reward.method.network.{key}": value for key, value in network.items()},
                "reward.steps": 3,
                "reward.batch": 8,
                "reward.validation": 0.3,
                "reward.test": 0.3,
                "training.method.group": 2,
                "training.steps": 1,
                "training.batch": 2,
                "evaluation.resamples": 50,
            }
        )
        pipeline.prepare(tmp_path / "run", recipe)
        pipeline.run(tmp_path / "run")
    statuses = {each.name: each for each in pipeline.read_status(tmp_path / "run")}
    assert {each.state for each in statuses.values()} == {"done"}
    with Run.open(tmp_path / "run") as run:
        captions, candidates = list(run.read("captions", Caption)), list(run.read("candidates", Candidate))
        replies, pairs = list(run.read("scores_annotations", Annotation)), list(run.read("pairs", Pair))
    assert {each.original for each in captions} == {each.text for each in captions}
    assert len(candidates) == 4 * 10 and len({each.generator for each in candidates}) == 4
    assert len(replies) == 10 * 4 * 2
    assert {pair.aspect for pair in pairs} == {f"annotator.{aspect}" for aspect in ASPECTS}
    assert max(sum(pair.aspect == a for pair in pairs) for a in {p.aspect for p in pairs}) <= 6 * 10
    reward, evaluation = statuses["reward"].finished, statuses["evaluation"].finished
    assert reward is not None and evaluation is not None
    assert "vp" in evaluation.notes["judges"]
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
