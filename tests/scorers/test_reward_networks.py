"""The networks of reward models: features and frozen parts by hand, files through every scorer that reads them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPModel

from agfsync.errors import ModelError
from agfsync.models.artefact import ModelArtefact
from agfsync.scorers import Item, Measurement
from agfsync.scorers.clip import Clip
from agfsync.scorers.imagereward import ImageReward
from agfsync.scorers.reward_networks import RewardModel
from agfsync.scorers.reward_networks.blip2_head import Blip2Reward
from agfsync.scorers.reward_networks.blip_head import BlipReward, resize_positions
from agfsync.scorers.reward_networks.clip_head import ClipReward, join_embeddings
from agfsync.scorers.vp_score import VpScore

KINDS = ("clip", "blip", "t5", "opt")
HEAD = {"hidden": (8, 4), "seed": 3, "device": "cpu"}


@pytest.fixture
def clip(folders: Path) -> ClipReward:
    return ClipReward(path=str(folders / "clip"), **HEAD)  # type: ignore[arg-type]


@pytest.fixture
def blip(folders: Path) -> BlipReward:
    return BlipReward(path=str(folders / "matcher"), **HEAD)  # type: ignore[arg-type]


@pytest.fixture
def t5(folders: Path) -> Blip2Reward:
    return Blip2Reward(path=str(folders / "t5"), **HEAD)  # type: ignore[arg-type]


@pytest.fixture
def opt(folders: Path) -> Blip2Reward:
    return Blip2Reward(path=str(folders / "opt"), **HEAD)  # type: ignore[arg-type]


def values(scorer: VpScore, items: list[Item]) -> list[float]:
    return [each.value for each in scorer.score(items) if isinstance(each, Measurement)]


def test_the_features_of_a_clip_head_by_hand() -> None:
    images, texts = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]])
    # (0.6, 0.8) and (0, 1): sqrt(2) x the image's, then 2 x the products.
    assert join_embeddings(images, texts).tolist()[0] == pytest.approx([0.848528, 1.131371, 0.0, 1.6])


def test_the_products_add_up_to_the_cosine(clip: ClipReward, folders: Path, items: list[Item]) -> None:
    tokens, _ = clip.tokenize([item.prompt for item in items])
    pixels = clip.standardise_images(clip.resize_images([item.image for item in items]))
    with torch.no_grad():
        features = clip.network.embed(pixels, tokens)
    cosines = [each.value for each in Clip(path=str(folders / "clip"), device="cpu").score(items)]
    width = features.shape[1] // 2
    assert (100 * features[:, width:].sum(1) / width).clamp(min=0).tolist() == pytest.approx(cosines, abs=1e-3)


@pytest.mark.parametrize(("share", "blocks"), [(0.0, 0), (0.4, 0), (0.5, 1), (0.7, 1), (1.0, 2)])
@pytest.mark.parametrize("kind", ["clip", "blip"])
def test_the_first_blocks_are_frozen(kind: str, share: float, blocks: int, request: pytest.FixtureRequest) -> None:
    model: RewardModel = request.getfixturevalue(kind)
    model.network.freeze(share)
    trained = {name for name, each in model.network.named_parameters() if each.requires_grad}
    for n in range(2):
        of_block = {name for name, _ in model.network.named_parameters() if f".{n}." in name and "mlp" not in name}
        assert of_block and (of_block <= trained) == (n >= blocks) and bool(of_block & trained) == (n >= blocks)
    embeddings = {name for name, _ in model.network.named_parameters() if "embeddings" in name}
    assert embeddings and bool(embeddings & trained) == (blocks == 0)
    assert all(name in trained for name, _ in model.network.named_parameters() if name.startswith("mlp."))
    assert "clip.logit_scale" not in trained
    if share == 1:
        assert all(name.startswith("mlp.") for name in trained)


@pytest.mark.parametrize(("share", "blocks"), [(0.0, 0), (0.5, 1), (1.0, 2)])
@pytest.mark.parametrize("kind", ["t5", "opt"])
def test_a_blip2_trains_the_language_models_blocks(
    kind: str, share: float, blocks: int, request: pytest.FixtureRequest
) -> None:
    model: Blip2Reward = request.getfixturevalue(kind)
    model.network.freeze(share)
    trained = {name for name, each in model.network.named_parameters() if each.requires_grad}
    assert {name for name in trained if name.startswith("mlp.")}
    others = {name for name in trained if not name.startswith("mlp.")}
    assert all(name.startswith("blip2.language_model.") and "embed" not in name for name in others)
    for n in range(2):
        marks = (f"encoder.block.{n}.", f"decoder.block.{n}.") if kind == "t5" else (f"decoder.layers.{n}.",)
        for mark in marks:
            assert any(mark in name for name in others) == (n >= blocks), (mark, others)
    assert bool(others) == (share < 1)


@pytest.mark.parametrize("kind", ["t5", "opt"])
def test_a_prompts_padding_changes_no_blip2(kind: str, items: list[Item], request: pytest.FixtureRequest) -> None:
    model: Blip2Reward = request.getfixturevalue(kind)
    short, long = "a red circle", "is there a blue star left of the green square"
    pixels = model.standardise_images(model.resize_images([items[0].image] * 2))
    alone, _ = model.tokenize([short])
    both, _ = model.tokenize([short, long])
    assert both["attention_mask"][0].tolist() == sorted(both["attention_mask"][0].tolist(), reverse=True)
    with torch.no_grad():
        assert float(model.network(pixels, both)[0]) == pytest.approx(float(model.network(pixels[:1], alone)), abs=1e-5)
        other = model.network.embed(pixels, both)
    assert not torch.allclose(other[0], other[1], atol=1e-4)


def test_the_state_of_an_opt_is_its_last_tokens(opt: Blip2Reward, items: list[Item]) -> None:
    tokens, _ = opt.tokenize(["a red circle"])
    pixels = opt.standardise_images(opt.resize_images([items[0].image]))
    blip2 = opt.network.blip2
    with torch.no_grad():
        found = opt.network.embed(pixels, tokens)
        image = torch.full((1, blip2.config.num_query_tokens), blip2.config.image_token_id)
        ids = torch.cat([image, tokens["input_ids"]], dim=1)
        states = blip2(input_ids=ids, pixel_values=pixels, output_hidden_states=True).language_model_outputs
    assert torch.allclose(found, states.hidden_states[-1][:, -1], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_is_the_scorer_of_its_folder(
    kind: str, tmp_path: Path, items: list[Item], request: pytest.FixtureRequest
) -> None:
    model: RewardModel = request.getfixturevalue(kind)
    model.scale = (0.5, 2.0)
    model.save(tmp_path / "saved")
    tokens, _ = model.tokenize([item.prompt for item in items])
    with torch.no_grad():
        outputs = model.network(model.standardise_images(model.resize_images([i.image for i in items])), tokens)
    expected = (100 * torch.sigmoid((outputs - 0.5) / 2)).tolist()
    scorer = VpScore(path=str(tmp_path / "saved"), device="cpu")
    assert values(scorer, items) == pytest.approx(expected, abs=1e-3)
    assert ModelArtefact.load(tmp_path / "saved").kind == "reward"


def test_a_blip_head_is_also_an_imagereward(blip: BlipReward, tmp_path: Path, items: list[Item]) -> None:
    blip.scale = (0.5, 2.0)
    blip.save(tmp_path)
    assert values(ImageReward(path=str(tmp_path), device="cpu"), items) == values(
        VpScore(path=str(tmp_path), device="cpu"), items
    )


def test_published_weights_are_equal_through_both_scorers(folders: Path, items: list[Item], tmp_path: Path) -> None:
    place = {"path": str(folders / "matcher"), "weights": str(folders / "reward.safetensors"), "device": "cpu"}
    published = values(ImageReward(**place), items)  # type: ignore[arg-type]
    assert published == values(VpScore(**place), items)  # type: ignore[arg-type]
    # Opened for training and saved, they are still the same reward.
    model = BlipReward(**place, hidden=(99,))  # type: ignore[arg-type]
    model.scale = (0.16717362830052426, 1.0333394966054072)
    model.save(tmp_path)
    assert values(VpScore(path=str(tmp_path), device="cpu"), items) == pytest.approx(published, abs=1e-4)
    assert values(ImageReward(path=str(tmp_path), device="cpu"), items) == pytest.approx(published, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_its_rewards_have_the_pixels_gradient(
    kind: str, tmp_path: Path, items: list[Item], request: pytest.FixtureRequest
) -> None:
    model: RewardModel = request.getfixturevalue(kind)
    model.save(tmp_path)
    scorer = VpScore(path=str(tmp_path), device="cpu")
    pixels = torch.stack([torch.as_tensor(model.resize_images([item.image])[0]) for item in items]).float() / 255
    pixels.requires_grad_(True)
    rewards = scorer.rewards(pixels, [item.prompt for item in items])
    assert rewards.tolist() == pytest.approx(values(scorer, items), abs=0.5)
    rewards.sum().backward()  # type: ignore[no-untyped-call]
    assert pixels.grad is not None and float(pixels.grad.abs().max()) > 0


def test_its_saved_clip_is_a_clip(clip: ClipReward, folders: Path, tmp_path: Path) -> None:
    clip.save(tmp_path)
    before, after = CLIPModel.from_pretrained(folders / "clip"), load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(after[name], each) for name, each in before.state_dict().items())


def test_new_heads_follow_from_the_seed(folders: Path, clip: ClipReward) -> None:
    again = ClipReward(path=str(folders / "clip"), **HEAD)  # type: ignore[arg-type]
    other = ClipReward(path=str(folders / "clip"), **HEAD | {"seed": 4})  # type: ignore[arg-type]
    first, second, third = (each.network.mlp.layers[0].weight for each in (clip, again, other))
    assert torch.equal(first, second) and not torch.equal(first, third)
    assert float(first.std()) == pytest.approx(17**-0.5, rel=0.2)


def test_positions_are_resized_to_another_side(folders: Path) -> None:
    positions = torch.arange(17.0)[None, :, None].expand(1, 17, 3)
    assert resize_positions(positions, 4) is positions
    smaller = resize_positions(positions, 2)
    assert smaller.shape == (1, 5, 3) and smaller[0, 0, 0] == 0
    # The mean of each quarter of the grid, which rises by 1 to the right and by 4 downwards.
    assert smaller[0, 1:, 0].tolist() == pytest.approx([3.5, 5.5, 11.5, 13.5], abs=0.5)
    model = BlipReward(path=str(folders / "matcher"), side=32, **HEAD)  # type: ignore[arg-type]
    assert model.config.vision_config.image_size == 32


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda at: ClipReward(path=str(at / "matcher"), hidden=(4,)), "is a blip model: a clip-head takes clip"),
        (lambda at: BlipReward(path=str(at / "clip"), hidden=(4,)), "is a clip model: a blip-head takes blip"),
        (lambda at: Blip2Reward(path=str(at / "clip"), hidden=(4,)), "is a clip model: a blip2-head takes blip-2"),
        (lambda at: ClipReward(path=str(at / "clip")), "it holds no head"),
    ],
)
def test_another_model_is_an_error(make: object, words: str, folders: Path) -> None:
    with pytest.raises(ModelError, match=words):
        make(folders)  # type: ignore[operator]


def test_an_imagereward_takes_no_clip_head(clip: ClipReward, tmp_path: Path) -> None:
    clip.save(tmp_path)
    with pytest.raises(ModelError, match="an imagereward scorer takes a blip-head"):
        ImageReward(path=str(tmp_path), device="cpu")


def test_an_aligned_model_rates_no_image(tmp_path: Path) -> None:
    ModelArtefact("base", {}).save(tmp_path)
    with pytest.raises(ModelError, match="holds a model of the kind base, which rates no image"):
        VpScore(path=str(tmp_path), device="cpu")
