"""An outcome reward model with an output for each attribute (helpfulness, correctness, ...).

In: a name or a sequence classifier, and the config's `attributes`. Out: the model, through TRL's constructor, which
insists on one label.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel, set_seed

from ..model.kinds import ORM, attributes
from .config import RewardConfig
from .models import load_model


def attribute_model(model: str | PreTrainedModel, args: RewardConfig, quantization_config=None) -> PreTrainedModel:
    """`model`, loaded if it is a name, with an output an attribute.

    Raises:
        ValueError: it has another number of outputs, or was trained on other attributes or in another order.
    """
    count = len(args.attributes)
    if isinstance(model, str):
        set_seed(args.seed)  # the head is drawn when the model is loaded
        model = load_model(model, args, ORM, count, quantization_config)
    trained = list(attributes(model.config) or args.attributes)
    if model.config.num_labels == count and trained != args.attributes:
        raise ValueError(
            f"The model's outputs are {', '.join(trained)}, in this order, but attributes={args.attributes}. Name them "
            "so, or take the base model to train others."
        )
    if model.config.num_labels != count:
        raise ValueError(
            f"The model has `num_labels={model.config.num_labels}`, but {count} attributes are named "
            f"({', '.join(args.attributes)}). Load it with `num_labels={count}`, or give its name."
        )
    return model


@contextmanager
def one_label(model: PreTrainedModel, args: RewardConfig, by_name: bool) -> Iterator[None]:
    """TRL's constructor asks the config for one label; the head has the outputs that it has.

    It also warns of `model_init_kwargs` beside a model, which here were used where it was given `by_name`.
    """
    model.config.num_labels, given = 1, args.model_init_kwargs
    args.model_init_kwargs = None if by_name else given
    try:
        yield
    finally:
        args.model_init_kwargs = given
        model.config.id2label = dict(enumerate(args.attributes))
        model.config.label2id = {name: index for index, name in enumerate(args.attributes)}
