"""A scorer does or refuses what it is told: columns to ignore, arguments of the template, text that is no solution."""

import pytest
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

from hf_rewardplug import RewardScorer
from hf_rewardplug.data.chat_templates import CHATML
from hf_rewardplug.demo import save_demo_model


@pytest.fixture(scope="module")
def scorer_of(tmp_path_factory):
    folder = str(save_demo_model(tmp_path_factory.mktemp("base"), style="qwen"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHATML
    classes = {"orm": (AutoModelForSequenceClassification, 1), "prm": (AutoModelForTokenClassification, 2)}

    def make(kind, **options):
        auto_class, labels = classes[kind]
        return RewardScorer(auto_class.from_pretrained(folder, num_labels=labels), tokenizer, **options)

    return make


def test_columns_that_may_be_ignored(scorer_of):
    row = {"prompt": "2+2?", "completion": "4", "context": "Numbers are to the base of three."}
    scorer = scorer_of("orm")
    with pytest.raises(ValueError, match=r"row 0: column 'context' looks like a part.*ignore_columns=\['context'\]"):
        list(scorer.score_rows([row]))
    (found,) = scorer.score_rows([row], ignore_columns=["context"])
    assert found == scorer.score("2+2?", "4")


def test_arguments_of_the_template_that_the_encoder_sets(scorer_of):
    bad, prompt = {"tokenize": False}, [{"role": "user", "content": "2+2?"}]
    error = "column 'chat_template_kwargs': has tokenize, which the encoder sets"
    with pytest.raises(ValueError, match=error):
        scorer_of("orm", chat_template_kwargs=bad)
    with pytest.raises(ValueError, match=r"completions\[0\]: " + error):
        scorer_of("orm").score([prompt], ["4"], chat_template_kwargs=bad)
    with pytest.raises(ValueError, match="row 0: " + error):
        list(scorer_of("prm").score_rows([{"prompt": prompt, "steps": ["4"], "chat_template_kwargs": bad}]))


def test_what_is_no_completion_and_no_solution_is_told_with_what_is(scorer_of):
    with pytest.raises(ValueError, match=r"completions\[1\] is NoneType; expected text or messages, or a list of such"):
        scorer_of("orm").score(["p", "q"], ["4", None])
    with pytest.raises(
        ValueError, match=r"steps\[0\] is str; expected a list of steps, or a list of such; `score` cuts"
    ):
        scorer_of("prm").score_steps(["p"], ["2+2=4\n4+2=6"])


def test_the_command_names_every_benchmark():
    from hf_rewardplug.cli import evaluate
    from hf_rewardplug.score.benchmarks import BENCHMARKS

    assert not [name for name in BENCHMARKS if "." not in name and name not in evaluate.__doc__]
