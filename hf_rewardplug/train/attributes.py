"""An outcome reward model with an output for each attribute (helpfulness, correctness, ...).

In: a name or a sequence classifier, and the config's `attributes`. Out: the model, through TRL's constructor, which
insists on one label.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import AutoModelForSequenceClassification, PreTrainedModel, set_seed

from .config import RewardConfig
from .models import load_model


def attribute_model(model: str | PreTrainedModel, args: RewardConfig, quantization_config=None) -> PreTrainedModel:
    """`model`, loaded if it is a name, with an output an attribute.

    Raises:
        ValueError: it has another number of outputs.
    """
    count = len(args.attributes)
    if isinstance(model, str):
        set_seed(args.seed)  # the head is drawn when the model is loaded
        model = load_model(model, args, AutoModelForSequenceClassification, count, quantization_config)
        args.model_init_kwargs = None
        return model
    if model.config.num_labels != count:
        raise ValueError(
            f"The model has `num_labels={model.config.num_labels}`, but {count} attributes are named "
            f"({', '.join(args.attributes)}). Load it with `num_labels={count}`, or give its name."
        )
    return model


@contextmanager
def one_label(model: PreTrainedModel, attributes: list[str]) -> Iterator[None]:
    """TRL's constructor asks the config for one label; the head has the outputs that it has."""
    model.config.num_labels = 1
    try:
        yield
    finally:
        model.config.id2label = dict(enumerate(attributes))
        model.config.label2id = {name: index for index, name in enumerate(attributes)}
