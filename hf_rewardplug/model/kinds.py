"""The kinds of reward model, in one table: what the config says, what loads it, which head it has, how it is scored.

    name         class of transformers         labels             head         a score is
    orm          ...ForSequenceClassification  1                  `score`      the output at the last token
    attributes   the same                      one an attribute   `score`      the sum of the outputs with their weights
    prm          ...ForTokenClassification     1 or 2             `score`      the probability that a step is right, at
                                                                               the last token of its separator
    lm           ...ForCausalLM                -                  the LM head  the same, of two label tokens

In: the name of a class or a PEFT task type, and what the config says. Out: a `Kind`. A new kind is a row here, and what
trains it.
"""

from dataclasses import dataclass, replace
from typing import Any

from .description import Description


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of reward model.

    Attributes:
        config_name: what `rewardplug.kind` in the config says, "orm" or "prm".
        words: what a person reads.
        score_position: what `rewardplug.score_position` in the config says.
        class_endings: how the names of transformers' classes end; the first belongs to the auto class.
        task_type: PEFT's.
        labels: numbers of labels that the head may have, where no attributes say how many.
    """

    name: str
    config_name: str
    words: str
    score_position: str
    class_endings: tuple[str, ...]
    task_type: str
    labels: tuple[int, ...]

    @property
    def auto_class(self) -> Any:
        """The class of transformers whose `from_pretrained` loads it."""
        # Imported here, because a report reads this table without torch and transformers.
        import transformers

        return getattr(transformers, f"AutoModel{self.class_endings[0]}")

    @property
    def rates_steps(self) -> bool:
        """Whether each step of a solution has a score, and not a whole completion."""
        return self.config_name == "prm"


ORM = Kind(
    name="orm",
    config_name="orm",
    words="outcome reward model",
    score_position="last_token",
    class_endings=("ForSequenceClassification",),
    task_type="SEQ_CLS",
    labels=(1,),
)
ATTRIBUTES = replace(ORM, name="attributes")
PRM = Kind(
    name="prm",
    config_name="prm",
    words="process reward model",
    score_position="last_separator_token",
    class_endings=("ForTokenClassification",),
    task_type="TOKEN_CLS",
    labels=(1, 2),
)
LM = replace(PRM, name="lm", class_endings=("ForCausalLM", "LMHeadModel"), task_type="CAUSAL_LM", labels=())

_LOADED = (ORM, PRM, LM)
"""the kinds that are loaded in different ways"""

PUBLISHED = {
    "Qwen2ForRewardModel": (ORM, 1),  # Qwen2.5-Math-RM
    "Qwen2ForProcessRewardModel": (PRM, 2),  # Qwen2.5-Math-PRM
}
"""classes of public checkpoints' own code, with the same body and a head of two layers: (kind, labels)"""


def kind_of_class(name: str) -> Kind | None:
    """The kind that a class of transformers is loaded as; None for a class with another head, or of a model's own code.

    >>> kind_of_class("Qwen3ForTokenClassification").name, kind_of_class("GPT2LMHeadModel").name
    ('prm', 'lm')
    """
    return next((model_kind for model_kind in _LOADED if name.endswith(model_kind.class_endings)), None)


def kind_of_task(task_type: str | None) -> Kind | None:
    """The kind that an adapter of this PEFT task type belongs to.

    >>> kind_of_task("SEQ_CLS").name, kind_of_task("SEQ_2_SEQ_LM")
    ('orm', None)
    """
    return next((model_kind for model_kind in _LOADED if model_kind.task_type == task_type), None)


def kind_of(class_name: str, description: Description) -> Kind:
    """The kind that a model is scored as: as its config says, or else as its class suggests (a causal LM rates steps).

    >>> kind_of("LlamaForCausalLM", Description()).name, kind_of("TheirRewardModel", Description(kind="prm")).name
    ('lm', 'prm')
    """
    model_kind = kind_of_class(class_name) or ORM
    says_orm = (description.kind or model_kind.config_name) == ORM.config_name
    if says_orm == model_kind.rates_steps:
        model_kind = ORM if says_orm else PRM
    return ATTRIBUTES if model_kind is ORM and description.attribute_weights else model_kind


def labels_of(model_kind: Kind, description: Description) -> tuple[int, ...]:
    """How many labels a model of this kind may have."""
    if description.attribute_weights and not model_kind.rates_steps:
        return (len(description.attribute_weights),)
    return model_kind.labels


def attributes(config: Any) -> dict[str, float] | None:
    """{name: weight in the sum that is the score} of an ORM that was trained on several; else None."""
    weights = Description.of(config).attribute_weights
    return None if weights is None else {config.id2label[index]: weight for index, weight in enumerate(weights)}


def architecture(config: Any) -> str:
    """The class that a config names."""
    return (config.architectures or ["a model without architectures"])[0]


def published(config: Any) -> tuple[Kind, int] | None:
    """(kind, labels) of a public checkpoint whose class is its own code's; else None."""
    return PUBLISHED.get(architecture(config))
