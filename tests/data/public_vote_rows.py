"""One row of every public format of votes and comparisons, with all its published columns, and its canonical rows.

The columns are the publishers' (where they were read stands in each adapter's docstring); the contents are ours.
"""

from public_rows import PAIR, A, B, Q

from hf_rewardplug.data.adapters.turns import assistant, user

TIE = {**PAIR, "tie": True}

PKU = {
    "prompt": "Name a prime.",
    "response_0": "8",
    "response_1": "7",
    "prompt_source": "Alpaca",
    "response_0_source": "Alpaca-7B",
    "response_1_source": "Alpaca-7B",
    "is_response_0_safe": True,
    "is_response_1_safe": True,
    "response_0_harm_category": {"Violence": False},
    "response_1_harm_category": {"Violence": False},
    "response_0_severity_level": 0,
    "response_1_severity_level": 0,
    "better_response_id": 1,
    "safer_response_id": 0,
    "response_0_sha256": "0a",
    "response_1_sha256": "0b",
}
ARENA = {
    "question_id": "58210e39",
    "model_a": "chatglm-6b",
    "model_b": "koala-13b",
    "winner": "model_b",
    "judge": "arena_user_973",
    "conversation_a": [Q, B],
    "conversation_b": [Q, A],
    "turn": 1,
    "anony": True,
    "language": "English",
    "tstamp": 1682351591.1322,
    "openai_moderation": {"flagged": False, "categories": {"hate": False}},
    "toxic_chat_tag": {"t5-large": {"flagged": False, "probability": 0.0}},
}
MT_BENCH = {
    "question_id": 81,
    "model_a": "alpaca-13b",
    "model_b": "gpt-4",
    "winner": "model_a",
    "judge": "author_2",
    "conversation_a": [Q, A, user("And?"), assistant("11")],
    "conversation_b": [Q, B, user("And?"), assistant("12")],
    "turn": 2,
}
ARENA_55K = {
    "id": 30192,
    "model_a": "gpt-4-1106-preview",
    "model_b": "gpt-4-0613",
    "prompt": '["Name a prime.", "And?"]',
    "response_a": '["8", null]',
    "response_b": '["7", "11"]',
    "winner_model_a": 0,
    "winner_model_b": 1,
    "winner_tie": 0,
}

# format, raw row, canonical rows
VOTE_FORMATS = [
    ("pku_saferlhf", PKU, [PAIR]),
    ("pku_saferlhf.safer", PKU, [{**PAIR, "chosen": [B], "rejected": [A]}]),
    ("arena", ARENA, [PAIR]),
    ("arena", {**ARENA, "winner": "tie (bothbad)"}, [{**TIE, "chosen": [B], "rejected": [A]}]),
    ("arena", {**ARENA, "winner": "tie (inconsistent)"}, [{**TIE, "chosen": [B], "rejected": [A]}]),
    ("arena", {**ARENA, "winner": "both_bad"}, [{**TIE, "chosen": [B], "rejected": [A]}]),
    (
        "arena",
        MT_BENCH,
        [{**PAIR, "chosen": [A, *MT_BENCH["conversation_a"][2:]], "rejected": [B, *MT_BENCH["conversation_b"][2:]]}],
    ),
    ("arena", {**MT_BENCH, "turn": 1, "winner": "tie"}, [TIE]),
    (
        "arena.responses",
        ARENA_55K,
        [{"prompt": [Q], "chosen": [A, user("And?"), assistant("11")], "rejected": [B, user("And?"), assistant("")]}],
    ),
    (
        "arena.responses",
        {
            **ARENA_55K,
            "prompt": "Name a prime.",
            "response_a": "7",
            "response_b": "8",
            "winner_model_b": 0,
            "winner_tie": 1,
        },
        [TIE],
    ),
    (
        "judge_votes",
        {
            "model_a": "m",
            "model_b": "n",
            "prompt": '["Name a prime."]',
            "response_a": '["7"]',
            "response_b": '["8"]',
            "winner": "model_a",
        },
        [PAIR],
    ),
    ("judge_votes", {"prompt": "Name a prime.", "response_a": "7", "response_b": "8", "winner": "tie"}, [TIE]),
    (
        "judgebench",
        {
            "pair_id": "81ec57f2",
            "original_id": "10646",
            "source": "mmlu-pro-math",
            "question": "Name a prime.",
            "response_model": "gpt-4o-2024-05-13",
            "response_A": "8",
            "response_B": "7",
            "label": "B>A",
        },
        [PAIR],
    ),
    (
        "preference_collection",
        {
            "orig_instruction": "Name a prime.",
            "orig_response_A": "8",
            "orig_response_B": "7",
            "orig_criteria": "Is it prime?",
            "orig_reference_answer": "2",
            "orig_preference": "B",
            "output": "8 is even. [RESULT] B",
            "instruction": "Evaluate. Name a prime.",
        },
        [PAIR],
    ),
    ("offsetbias", {"instruction": "Name a prime.", "output_1": "8", "output_2": "7", "label": 2}, [PAIR]),
    ("llmbar", {"input": "Name a prime.", "output_1": "7", "output_2": "8", "label": 1}, [PAIR]),
    (
        "shp",
        {
            "post_id": "qt3nxl",
            "domain": "askculinary_train",
            "upvote_ratio": 0.98,
            "history": "Name a prime.",
            "c_root_id_A": "hkh25sc",
            "c_root_id_B": "hkh25lp",
            "created_at_utc_A": 1636822112,
            "created_at_utc_B": 1636822110,
            "score_A": 340,
            "score_B": 166,
            "human_ref_A": "7",
            "human_ref_B": "8",
            "labels": 1,
            "seconds_difference": 2.0,
            "score_ratio": 2.0481927711,
        },
        [PAIR],
    ),
    (
        "webgpt",
        {
            "question": {"dataset": "eli5", "id": "2p6pxe", "full_text": "Name a prime."},
            "quotes_0": {"title": ["Primes (example.org)"], "extract": ["7 is prime."]},
            "answer_0": "7",
            "tokens_0": {"prefix": [24361, 25], "completion": [22]},
            "score_0": 0.5,
            "quotes_1": {"title": [], "extract": []},
            "answer_1": "8",
            "tokens_1": {"prefix": [24361, 25], "completion": [23]},
            "score_1": -0.5,
        },
        [PAIR],
    ),
    (
        "webgpt",
        {"question": {"full_text": "Name a prime."}, "answer_0": "7", "answer_1": "8", "score_0": 0.0, "score_1": 0.0},
        [TIE],
    ),
    (
        "summarize_from_feedback",
        {
            "info": {"id": "t3_2vwp1w", "post": "I like 7.\n\nIs it prime?", "title": "7?", "subreddit": "math"},
            "summaries": [
                {"text": " 8?", "policy": "sup4", "note": None},
                {"text": " 7?", "policy": "ref", "note": "ok"},
            ],
            "choice": 1,
            "worker": "ikNm",
            "batch": "batch9",
            "split": "train",
            "extra": {"confidence": 8},
        },
        [
            {
                "prompt": "SUBREDDIT: r/math\n\nTITLE: 7?\n\nPOST: I like 7.\nIs it prime?\n\nTL;DR:",
                "chosen": " 7?",
                "rejected": " 8?",
            }
        ],
    ),
    (
        "summarize_from_feedback",
        {
            "info": {
                "id": "0a",
                "post": None,
                "title": "7",
                "subreddit": None,
                "site": "cnn",
                "article": "Seven.\n\nPrime.",
            },
            "summaries": [{"text": "7"}, {"text": "8"}],
            "choice": 0,
        },
        [{"prompt": "TITLE: 7\n\nSeven.\nPrime.\n\nTL;DR:", "chosen": "7", "rejected": "8"}],
    ),
    (
        "unified_feedback",
        {
            "id": "0a",
            "conv_A": [Q, B],
            "conv_B": [Q, A],
            "conv_A_rating": 0.0,
            "conv_B_rating": 1.0,
            "source": "webgpt",
        },
        [PAIR],
    ),
    ("unified_feedback", {"conv_A": [Q, A], "conv_B": [Q, B], "conv_A_rating": 1.0, "conv_B_rating": 1.0}, [TIE]),
]
