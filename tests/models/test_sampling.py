"""Schedulers: any class of diffusers, as a model was saved with it, and those by name."""

from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers_pixels import (
    PIPELINES,
    PROMPT,
    SEED,
    STEPS,
    are_same_pixels,
    by_diffusers,
    by_ours,
    drawn_by,
    edited,
    ours,
    replaced,
    theirs,
)

from agfsync.errors import ModelError
from agfsync.models.sampling import SCHEDULERS, find_schedule_obstacle, make_scheduler

CONFIG = "scheduler/scheduler_config.json"
CLASSES = sorted(
    name for name in dir(diffusers) if name.endswith("Scheduler") and isinstance(getattr(diffusers, name), type)
)
FROM_ELSEWHERE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture(params=PIPELINES)
def type_(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(type_: str, tiny_generator: Path, tiny_xl_generator: Path) -> Path:
    return {"stable-diffusion": tiny_generator, "stable-diffusion-xl": tiny_xl_generator}[type_]


def attempt(work: Any, *arguments: Any, **settings: Any) -> Any:
    try:
        return work(*arguments, **settings)
    except Exception as failure:
        return failure


@pytest.fixture(scope="module")
def both(tiny_generator: Path, tiny_xl_generator: Path) -> dict[str, tuple[Any, Any]]:
    """By type: the same model as a pipeline of diffusers and as a generator of ours."""
    folders = {"stable-diffusion": tiny_generator, "stable-diffusion-xl": tiny_xl_generator}
    return {type_: (theirs(type_, folder), ours(type_, folder)) for type_, folder in folders.items()}


@pytest.mark.parametrize("name", CLASSES)
def test_any_scheduler_of_diffusers_draws_its_pixels_or_is_refused_in_a_line(
    both: dict[str, tuple[Any, Any]], type_: str, name: str
) -> None:
    made = attempt(getattr(diffusers, name))
    if isinstance(made, Exception):
        pytest.skip("it needs settings, or a package, that isn't there")
    pipeline, generator = both[type_][0], copy(both[type_][1])
    pipeline.scheduler = deepcopy(made)
    generator._scheduler = attempt(make_scheduler, made, "model", STEPS)
    if isinstance(generator._scheduler, Exception):
        assert isinstance(generator._scheduler, ModelError) and "\n" not in str(generator._scheduler)
        assert isinstance(attempt(drawn_by, pipeline, type_), Exception)
    else:
        assert are_same_pixels(drawn_by(pipeline, type_), np.asarray(generator.draw([PROMPT], [SEED], 0.0)[0], int))


@pytest.mark.parametrize("name", ["AmusedScheduler", "VQDiffusionScheduler", "NoSuchScheduler"])
def test_a_scheduler_that_cant_be_made_is_said_in_a_line(tiny_generator: Path, tmp_path: Path, name: str) -> None:
    where = edited(tiny_generator, tmp_path / "model", {"model_index.json": {"scheduler": ["diffusers", name]}})
    with pytest.raises(ModelError, match="can't load the model") as caught:
        ours("stable-diffusion", where)
    assert "\n" not in str(caught.value)


def test_how_many_schedulers_draw() -> None:
    """So that the test above can't pass by refusing all."""
    latents: dict[str, bool] = {}
    for name in CLASSES:
        made = attempt(getattr(diffusers, name))
        latents[name] = not isinstance(made, Exception) and not isinstance(
            attempt(make_scheduler, made, "model", 4), Exception
        )
    assert sum(latents.values()) >= 24
    assert all(latents[kind.__name__] for kind, _ in SCHEDULERS.values())
    assert latents["PNDMScheduler"] and latents["TCDScheduler"] and latents["EDMEulerScheduler"]
    assert not latents["FlowMatchEulerDiscreteScheduler"]


@pytest.mark.parametrize("kind", ["DDIMScheduler", "PNDMScheduler", "DDPMScheduler", "LMSDiscreteScheduler"])
def test_an_old_configuration_is_corrected_as_by_diffusers(kind: str, tiny_generator: Path, tmp_path: Path) -> None:
    where = edited(
        tiny_generator,
        tmp_path / "old",
        {CONFIG: {"_class_name": kind}, "model_index.json": {"scheduler": ["diffusers", kind]}},
        without={CONFIG: ["clip_sample", "steps_offset"]},
    )
    assert are_same_pixels(by_diffusers("stable-diffusion", where), by_ours("stable-diffusion", where))
    assert ours("stable-diffusion", where)._pipeline.scheduler.config.steps_offset == 1


def test_a_scheduler_by_name_keeps_what_the_pipeline_corrected(tiny_generator: Path, tmp_path: Path) -> None:
    plain = {
        CONFIG: {"_class_name": "DDIMScheduler"},
        "model_index.json": {"scheduler": ["diffusers", "DDIMScheduler"]},
    }
    new = edited(tiny_generator, tmp_path / "new", plain)
    old = edited(tiny_generator, tmp_path / "old", plain, without={CONFIG: ["clip_sample", "steps_offset"]})
    for name in ("model", *SCHEDULERS):
        drawn = [by_ours("stable-diffusion", where, scheduler=name) for where in (new, old)]
        assert are_same_pixels(*drawn), name


def test_the_saved_scheduler_stays_as_it_is(type_: str, folder: Path) -> None:
    generator = ours(type_, folder)
    before = generator._pipeline.scheduler.timesteps.clone()
    first, second = (np.asarray(generator.draw(["a"], [1], 0.0)[0]) for _ in range(2))
    assert are_same_pixels(first, second)
    assert torch.equal(generator._pipeline.scheduler.timesteps, before)


def test_a_flow_scheduler_is_refused_in_a_line(tiny_xl_generator: Path, tmp_path: Path) -> None:
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    where = replaced(tiny_xl_generator, tmp_path / "flow", "scheduler", flow)
    for name in ("model", "ddim"):
        with pytest.raises(ModelError, match="a FlowMatchEulerDiscreteScheduler, which has no scale_model_input"):
            ours("stable-diffusion-xl", where, scheduler=name)


def test_a_scheduler_by_name_cant_stand_for_one_without_betas() -> None:
    with pytest.raises(ModelError, match="ddim can't take the place of the model's EDMEulerScheduler"):
        make_scheduler(diffusers.EDMEulerScheduler(), "ddim", 4)


@pytest.mark.parametrize("kind", ["DDIMScheduler", "DDPMScheduler", "LCMScheduler"])
def test_zero_terminal_snr_with_a_noise_prediction_is_told_by_its_cause(
    kind: str, tiny_generator: Path, tmp_path: Path
) -> None:
    zero = getattr(diffusers, kind)(
        rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False, **FROM_ELSEWHERE
    )
    where = replaced(tiny_generator, tmp_path / "zero", "scheduler", zero)
    with pytest.raises(ModelError, match=f"{kind} begins at zero terminal SNR .*v_prediction") as caught:
        ours("stable-diffusion", where)
    assert "dtype" not in str(caught.value)


def test_zero_terminal_snr_with_a_velocity_is_drawn(tiny_generator: Path, tmp_path: Path) -> None:
    zero = diffusers.DDIMScheduler(
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
        clip_sample=False,
        steps_offset=1,
        **FROM_ELSEWHERE,
    )
    where = replaced(tiny_generator, tmp_path / "zero", "scheduler", zero)
    assert are_same_pixels(by_diffusers("stable-diffusion", where), by_ours("stable-diffusion", where))
    assert find_schedule_obstacle(zero) is None


def test_a_scheduler_whose_noise_no_seed_gives_is_refused() -> None:
    class Restless(diffusers.DDIMScheduler):
        def step(self, model_output: Any, timestep: Any, sample: Any, return_dict: bool = True) -> Any:
            return (super().step(model_output, timestep, sample).prev_sample + torch.randn(sample.shape),)

    with pytest.raises(ModelError, match="noise that no seed of an image gives"):
        make_scheduler(Restless(), "model", 4)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (diffusers.EDMEulerScheduler(), "EDMEulerScheduler, has no alphas_cumprod"),
        (diffusers.DDIMScheduler(prediction_type="sample"), "it predicts 'sample'"),
        (diffusers.DPMSolverMultistepScheduler(prediction_type="flow_prediction"), "it predicts 'flow_prediction'"),
    ],
)
def test_why_a_model_cant_be_trained(made: Any, says: str) -> None:
    reason = find_schedule_obstacle(made)
    assert reason is not None and says in reason
