"""One row of every public format of pairs, lists and scores, with all its published columns, and its canonical rows.

Votes and comparisons stand in `public_vote_rows.py`.

The columns are the publishers' (where they were read stands in each adapter's docstring); the contents are ours.
"""

from hf_rewardplug.data.adapters.turns import assistant, user


def system(content):
    return {"role": "system", "content": content}


Q, A, B = user("Name a prime."), assistant("7"), assistant("8")
PAIR = {"prompt": [Q], "chosen": [A], "rejected": [B]}
BRIEF = {**PAIR, "prompt": [system("Be brief."), Q]}
GOOD, BAD = ({"prompt": [Q], "completion": [answer], "score": score} for answer, score in ((A, 1.0), (B, 0.0)))

HUMAN, GPT_7, GPT_8 = (
    {"from": role, "value": text} for role, text in (("human", "Name a prime."), ("gpt", "7"), ("gpt", "8"))
)

ORCA_ARGILLA = {
    "system": "Be brief.",
    "input": "Name a prime.",
    "chosen": "7",
    "rejected": "8",
    "generations": ["7", "8"],
    "order": ["chosen", "rejected"],
    "labelling_model": "gpt-4-1106-preview",
    "labelling_prompt": [system("You rate."), user("Rate.")],
    "raw_labelling_response": "9 3",
    "rating": [9.0, 3.0],
    "rationale": "7 is prime.",
    "status": "unchanged",
    "original_chosen": "7",
    "original_rejected": "8",
    "chosen_score": 9.0,
    "in_gsm8k_train": False,
}
BINARIZED = {"prompt": "Name a prime.", "chosen": [Q, A], "rejected": [Q, B]}
GENERATED = {
    "generations": ["7", "8", None],
    "ratings": [5, 1, None],
    "rationales": ["a", "b", None],
    "model_name": "m",
}
RANKED = {"prompt": [Q], "completions": [[A], [B]], "scores": [5, 1]}

# format, raw row, canonical rows
PAIR_FORMATS = [
    (
        "orca_pairs",
        {"system": "Be brief.", "question": "Name a prime.", "chosen": "7", "rejected": "8"},
        [BRIEF],
    ),
    (
        "orca_pairs",
        {"system": "", "question": "Name a prime.", "chosen": "7", "rejected": "8", "margin": 1},
        [{**PAIR, "margin": 1}],
    ),
    ("orca_pairs.argilla", ORCA_ARGILLA, [BRIEF]),
    ("orca_pairs.argilla", {**ORCA_ARGILLA, "status": "tie", "rating": [9.0, 9.0]}, [{**BRIEF, "tie": True}]),
    (
        "orca_kto",
        {
            "system": "Be brief.",
            "prompt": "Name a prime.",
            "completion": "8",
            "label": False,
            "rating": 3.0,
            "status": "swapped",
            "in_gsm8k_train": False,
        },
        [{**BAD, "prompt": [system("Be brief."), Q]}],
    ),
    (
        "alpaca",
        {
            "instruction": "Name a",
            "input": "prime.",
            "system": "Be brief.",
            "history": [["Hi", "Yes?"]],
            "chosen": "7",
            "rejected": "8",
        },
        [{**PAIR, "prompt": [system("Be brief."), user("Hi"), assistant("Yes?"), user("Name a\nprime.")]}],
    ),
    ("alpaca", {"instruction": "Name a prime.", "input": "", "chosen": "7", "rejected": "8", "tools": ""}, [PAIR]),
    ("alpaca.kto", {"instruction": "Name a prime.", "input": "", "output": "7", "kto_tag": True}, [GOOD]),
    ("sharegpt", {"conversations": [HUMAN], "chosen": GPT_7, "rejected": GPT_8}, [PAIR]),
    (
        "sharegpt",
        {
            "conversations": [
                HUMAN,
                {"from": "function_call", "value": '{"name": "primes", "arguments": {"below": 9}}'},
                {"from": "observation", "value": "[2, 3, 5, 7]"},
            ],
            "chosen": GPT_7,
            "rejected": GPT_8,
            "system": "Be brief.",
            "tools": '[{"name": "primes"}]',
        },
        [
            {
                **PAIR,
                "prompt": [
                    system("Be brief."),
                    Q,
                    {
                        "role": "assistant",
                        "tool_calls": [{"type": "function", "function": {"name": "primes", "arguments": {"below": 9}}}],
                    },
                    {"role": "tool", "content": "[2, 3, 5, 7]"},
                ],
                "tools": '[{"name": "primes"}]',
            }
        ],
    ),
    ("sharegpt.messages", {"messages": [Q], "chosen": A, "rejected": B}, [PAIR]),
    ("sharegpt.kto", {"conversations": [HUMAN, GPT_8], "kto_tag": False}, [BAD]),
    ("kto.messages", {"messages": [Q, A], "label": True}, [GOOD]),
    ("kto.completion", {"completion": [Q, B], "label": False}, [BAD]),
    ("ms_swift", {"messages": [system("Be brief."), Q, A], "rejected_response": "8"}, [BRIEF]),
    ("ms_swift.messages", {"messages": [Q, A], "rejected_messages": [Q, B], "margin": 2}, [{**PAIR, "margin": 2}]),
    (
        "ultrafeedback_binarized",
        {**BINARIZED, "prompt_id": "0a", "messages": [Q, A], "score_chosen": 8.5, "score_rejected": 7.0},
        [PAIR],
    ),
    (
        "ultrafeedback_binarized.argilla",
        {
            **BINARIZED,
            "source": "evol_instruct",
            "chosen-rating": 5.0,
            "chosen-model": "gpt-4",
            "rejected-rating": 3.0,
            "rejected-model": "llama-2-7b-chat",
        },
        [PAIR],
    ),
    (
        "distilabel.pairs",
        {
            **BINARIZED,
            "instruction": "Name a prime.",
            **GENERATED,
            "prompt_id": "0a",
            "chosen_model": "m",
            "chosen_rating": 5,
            "rejected_model": "n",
            "rejected_rating": 1,
        },
        [PAIR],
    ),
    ("binarized_responses", {"instruction": "Name a prime.", "chosen_response": "7", "rejected_response": "8"}, [PAIR]),
    ("distilabel", {"instruction": "Name a prime.", "generation_models": ["m", "n", "o"], **GENERATED}, [RANKED]),
    (
        "distilabel",
        {"system_prompt": "Be brief.", "instruction": "Name a prime.", **GENERATED},
        [{**RANKED, "prompt": [system("Be brief."), Q]}],
    ),
    ("distilabel.input", {"input": "Name a prime.", **GENERATED}, [RANKED]),
    ("distilabel.rating", {"input": "Name a prime.", "generations": ["7", "8"], "rating": [5, 1]}, [RANKED]),
    ("distilabel.chat", {"messages": [Q], **GENERATED}, [RANKED]),
    (
        "oasst_pairs",
        {
            "lang": "en",
            "parent_id": "70a3",
            "prompt": "prompter: Hi\nprompter: is what I say.\nassistant: Yes?\nprompter: Name a prime.",
            "chosen": "7",
            "rejected": "8",
        },
        [{**PAIR, "prompt": [user("Hi\nprompter: is what I say."), assistant("Yes?"), Q]}],
    ),
    (
        "ultrainteract",
        {
            "id": "d1f0_5_3",
            "parent_id": "d1f0",
            "task": "Math_PoT",
            "dataset": "MATH",
            "trajectory": [
                {"from": "user", "value": "Name a prime."},
                {"from": "assistant", "value": "9"},
                {"from": "user", "value": "Your answer is wrong."},
            ],
            "chosen": "7",
            "rejected": "8",
        },
        [{**PAIR, "prompt": [Q, assistant("9"), user("Your answer is wrong.")]}],
    ),
    (
        "step_dpo",
        {
            "dataset": "MATH_Rephrased",
            "prompt": "Name a prime.",
            "initial_reason_steps": "Step 1: Try 7.\nStep 2:",
            "chosen": " 7 is prime.",
            "rejected": " 8 is prime.",
            "full_chosen": " 7 is prime. The answer is: 7",
            "full_rejected": " 8 is prime. The answer is: 8",
            "answer": "7",
        },
        [
            {
                "prompt": [Q],
                "chosen": [assistant("Step 1: Try 7.\nStep 2: 7 is prime.")],
                "rejected": [assistant("Step 1: Try 7.\nStep 2: 8 is prime.")],
            }
        ],
    ),
    (
        "code_preference",
        {"instruction": "", "input": "Name a prime.", "accepted": "7", "rejected": "8", "ID": 7},
        [PAIR],
    ),
    (
        "stack_exchange_paired",
        {
            "qid": 7,
            "question": "Name a prime.",
            "date": "2011/01/18",
            "metadata": ["a"],
            "response_j": "7",
            "response_k": "8",
        },
        [PAIR],
    ),
]
