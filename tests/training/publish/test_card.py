import yaml

from agfsync.training.publish.card import CardFacts, render_model_card

FACTS = CardFacts(
    name="run",
    base="someone/model",
    base_is_public=True,
    method="dpo",
    trained_on="to prefer the better image of 1,200 pairs on 600 prompts",
    choice="the best | by vqa 0.35",
    settings={"beta": 2000.0, "note": "a | b\n<script>"},
    lora_files=("lora.safetensors", "run-kohya.safetensors"),
)


def head(card: str) -> dict[str, object]:
    tree: dict[str, object] = yaml.safe_load(card.split("---")[1])
    return tree


def test_a_lora_tells_how_it_is_loaded_and_on_what() -> None:
    card = render_model_card(FACTS)
    assert head(card)["base_model"] == "someone/model" and head(card)["base_model_relation"] == "adapter"
    assert (
        "1,200 pairs on 600 prompts" in card and "run-kohya.safetensors" in card and "the best \\| by vqa 0.35." in card
    )
    assert "a \\| b &lt;script>" in card


def test_given_pairs_and_a_base_of_ones_own() -> None:
    facts = CardFacts("run", "mine", False, "dpo", "on 3 images", "", {}, None)
    card = render_model_card(facts)
    assert "base_model" not in head(card) and "load_lora_weights" not in card
    assert "The pairs were given" in card
