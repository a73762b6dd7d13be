"""Short runs with everything random that there is; prints a digest of each one's losses, data order and weights.

python seeded_run.py MODEL_FOLDER OUTPUT_FOLDER SEED
"""

import hashlib
import json
import sys

from datasets import Dataset
from peft import LoraConfig
from rows import quick, solutions, text_pairs

from hf_rewardplug import PRMConfig, PRMTrainer, RewardConfig, RewardTrainer

LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.3)
RUNS = {
    "orm": (RewardTrainer, RewardConfig, text_pairs, {}, None),
    "orm padded": (RewardTrainer, RewardConfig, text_pairs, {"prefix_sharing": False}, None),
    "orm attention dropout": (
        *(RewardTrainer, RewardConfig, text_pairs),
        *({"disable_dropout": False, "model_init_kwargs": {"attention_dropout": 0.2}}, None),
    ),
    "orm tokens, workers": (
        *(RewardTrainer, RewardConfig, text_pairs),
        *({"max_tokens_per_batch": 90, "group_by_prefix": True, "dataloader_num_workers": 1}, None),
    ),
    "orm lora": (RewardTrainer, RewardConfig, text_pairs, {"disable_dropout": False}, LORA),
    "prm": (PRMTrainer, PRMConfig, solutions, {}, None),
    "prm dropout, checkpointing": (
        *(PRMTrainer, PRMConfig, solutions),
        *({"disable_dropout": False, "gradient_checkpointing": True}, None),
    ),
    "prm lora": (PRMTrainer, PRMConfig, solutions, {"disable_dropout": False}, LORA),
}


def digest(name: str, model: str, folder: str, seed: int) -> dict[str, str]:
    trainer_class, config_class, make, options, peft_config = RUNS[name]
    trainer = trainer_class(
        model,
        config_class(**quick(folder, seed=seed, **options)),
        train_dataset=Dataset.from_list(make(16)),
        eval_dataset=Dataset.from_list(make(5, 1)),
        peft_config=peft_config,
    )
    head = hashlib.sha256()
    for key, value in trainer.model.state_dict().items():
        if "score" in key:
            head.update(value.numpy().tobytes())
    order, collate = [], trainer.data_collator
    if not trainer.args.dataloader_num_workers:  # else in another process

        def noting(rows):
            order.append([row["rewardplug_id"] for row in rows])
            return collate(rows)

        trainer.data_collator = noting
    trainer.train()
    weights = hashlib.sha256()
    for value in trainer.model.state_dict().values():
        weights.update(value.numpy().tobytes())
    logs = [(log["loss"], log["grad_norm"]) for log in trainer.state.log_history if "loss" in log]
    figures = {key: value for key, value in trainer.evaluate().items() if "second" not in key and "time" not in key}
    return {
        "head": head.hexdigest(),
        "order": repr(order),
        "losses": repr(logs),
        "weights": weights.hexdigest(),
        "figures": repr(sorted(figures.items())),
    }


def main(words: list[str]) -> None:
    model, folder, seed = words
    print(json.dumps({name: digest(name, model, folder, int(seed)) for name in RUNS}))


if __name__ == "__main__":
    main(sys.argv[1:])
