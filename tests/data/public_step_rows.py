"""One row of every public format of rated steps, with all its published columns, and its canonical rows.

The columns are the publishers' (where they were read stands in each adapter's docstring); the contents are ours.
"""

SOLVED = {"prompt": "What is 2+2+2?", "completions": ["Step 1: 2+2=4", "Step 2: 4+2=7"], "labels": [True, False]}
PLAIN = {"prompt": "What is 2+2+2?", "completions": ["2+2=4", "4+2=7"], "labels": [True, False]}
CRITIQUE = "<analyze>\nA \\boxed{No} in between.\n</analyze>\n<output>\n**Judgement**: $\\boxed{%s}$\n</output>"


def turns(*contents, opening=()):
    roles = ("user", "assistant")
    return [*opening, *({"role": roles[index % 2], "content": content} for index, content in enumerate(contents))]


def alternative(text, rating, flagged=False):
    return {"text": text, "rating": rating, "flagged": flagged}


def step(*alternatives, chosen=None, human=None):
    return {"completions": list(alternatives) or None, "human_completion": human, "chosen_completion": chosen}


def prm800k(phase, question, reason, *steps, generation=None, control=False, screening=False):
    return {
        "labeler": "e90a38f3-3135-4465-87af-3e6322e3d772",
        "timestamp": "2022-07-30T23:23:32.118856",
        "generation": generation,
        "is_quality_control_question": control,
        "is_initial_screening_question": screening,
        "question": {"problem": "What is 2+2+2?", "ground_truth_answer": "6", **question},
        "label": {"steps": list(steps), "total_time": 293250, "finish_reason": reason},
        "split": phase,
    }


PRE_GENERATED = {
    "ground_truth_solution": "It is $6$.",
    "pre_generated_steps": ["2+2=4", "4+2=7", "# Answer\n\n7"],
    "pre_generated_answer": "7",
    "pre_generated_verifier_score": 0.01,
}
WRITTEN = {"text": "4+2=6", "rating": None, "source": "human", "flagged": False}
FOUR = {"text": "2+2=4", "label": 1, "parent": -1}

# format, raw row, canonical rows
STEP_FORMATS = [
    ("rlhflow_prm", {"conversations": turns("What is 2+2+2? Step 1: 2+2=4", "+", "Step 2: 4+2=7", "-")}, [SOLVED]),
    ("rlhflow_prm", {"conversations": turns("What is 2+2+2? 2+2=4", "+", "4+2=7", "-")}, [PLAIN]),
    (
        "rlhflow_prm",
        {"conversations": turns("Add 2 to 4. 2 is even.", "+", "So 6.", "+")},
        [{"prompt": "", "completions": ["Add 2 to 4. 2 is even.", "So 6."], "labels": [True, True]}],
    ),
    (
        "genprm",
        {
            "conversations": turns(
                *("Question: What is 2+2+2?\n\n2+2=4", CRITIQUE % "Yes", "4+2=7", CRITIQUE % "No"),
                opening=[{"role": "system", "content": "You are a math teacher."}],
            )
        },
        [PLAIN],
    ),
    (
        "openrlhf_prm",
        {
            "input": "What is 2+2+2? Step 1: 2+2=4 ки\nStep 2: 4+2=7 ки",
            "label": "What is 2+2+2? Step 1: 2+2=4 +\nStep 2: 4+2=7 -",
            "task": "GSM8K",
            "value": ["+", "-"],
        },
        [SOLVED],
    ),
    (
        "openrlhf_prm",
        {"input": "What is 2+2+2? 2+2=4<extra_0>4+2=7<extra_0>So 7.", "value": [0.9, 0]},
        [{"prompt": "What is 2+2+2?", "completions": ["2+2=4", "4+2=7", "So 7."], "labels": [0.9, 0, -100]}],
    ),
    ("openrlhf_prm.label", {"input": "What is 2+2+2? 2+2=4 ки 4+2=7 ки", "label": ["+", "-"]}, [PLAIN]),
    (
        "openr",
        {"question": "What is 2+2+2?", "process": "2+2=4 \n\n\n\n\n 4+2=7 \n\n\n\n\n", "label": ["+", "-"]},
        [PLAIN],
    ),
    ("openr", {"question": "What is 2+2+2?", "process": "What is 2+2+2? 2+2=4 ки 4+2=7 ки", "label": [1, 0]}, [PLAIN]),
    (
        "math_aps",
        {
            "question": "What is 2+2+2?",
            "final_answer": "6",
            "reasoning_steps": {
                "text": "What is 2+2+2?",
                "mc_value": 0.5,
                "children": [
                    {
                        "text": "2+2=4",
                        "mc_value": 0.75,
                        "children": [{"text": "So 6.", "mc_value": 1.0, "children": []}],
                    },
                    {"text": "2+2=5", "mc_value": None, "children": []},
                ],
            },
            "question_id": 3,
        },
        [
            {
                "prompt": "What is 2+2+2?",
                "nodes": [
                    {"text": "2+2=4", "label": 0.75, "parent": -1},
                    {"text": "So 6.", "label": 1.0, "parent": 0},
                    {"text": "2+2=5", "label": -100, "parent": -1},
                ],
            }
        ],
    ),
    (
        "math_aps",
        {
            "question": "What is 2+2+2?",
            "final_answer": "6",
            "reasoning_steps": [
                {"solution_prefix": "What is 2+2+2?", "mc_value": 0.5},
                {"solution_prefix": "What is 2+2+2?\n\n\n2+2=4", "mc_value": 0.75},
                {"solution_prefix": "What is 2+2+2?\n\n2+2=4\n\nSo 6.", "mc_value": 1.0},
                {"solution_prefix": "What is 2+2+2?\n\n2+2=42", "mc_value": 0},  # no child: the line goes on
            ],
            "question_id": 3,
        },
        [
            {
                "prompt": "What is 2+2+2?",
                "nodes": [
                    {"text": "2+2=4", "label": 0.75, "parent": -1},
                    {"text": "So 6.", "label": 1.0, "parent": 0},
                    {"text": "2+2=42", "label": 0.0, "parent": -1},
                ],
            }
        ],
    ),
    (
        "versaprm",
        {
            "question": "What is 2+2+2?",
            "answer": "A",
            "chain_of_thoughts": "['2+2=4', '4+2=7', 'So 7.']",
            "labels": "[1, -1, -1]",
            "category": "math",
        },
        [{**PLAIN, "completions": [*PLAIN["completions"], "So 7."], "labels": [True, False, -100]}],
    ),
    (
        "versaprm.chains",
        {
            "domain": "prm_math",
            "source": "prm800k_phase2_test",
            "question": "What is 2+2+2?",
            "answer": "6",
            "chain_of_thoughts": [
                {"steps": ["2+2=4"], "labels": None, "augs": []},
                {"steps": ["2+2=4", "4+2=7", "So 7."], "labels": [1, -1, -1], "augs": []},
                {"steps": ["2+2=4"], "labels": [1], "augs": [{"aug_step": "4+2=7", "aug_idx": 1, "aug_type": -1}]},
            ],
        },
        [
            {"prompt": "What is 2+2+2?", "nodes": [FOUR, {"text": "4+2=7", "label": 0, "parent": 0}]},
            {"prompt": "What is 2+2+2?", "nodes": [FOUR, {"text": "4+2=7", "label": 0, "parent": 0}]},
        ],
    ),
    (
        "bigbench_mistake",
        {
            "input": "What is 2+2+2?",
            "target": "6",
            "answer": "7",
            "steps": ["2+2=4", "4+2=7", "So 7."],
            "mistake_index": 1,
        },
        [{**PLAIN, "completions": [*PLAIN["completions"], "So 7."], "labels": [True, False, -100]}],
    ),
    (
        "bigbench_mistake",
        {"input": "What is 2+2+2?", "target": "6", "answer": "6", "steps": ["2+2=4", "So 6."], "mistake_index": None},
        [{"prompt": "What is 2+2+2?", "completions": ["2+2=4", "So 6."], "labels": [True, True]}],
    ),
    (  # phase 1: alternatives, and a step that the labeller wrote
        "prm800k",
        prm800k(
            *("phase1-train", {}, "solution"),
            step(alternative("2+2=4", 1), alternative("2+2=5", -1), chosen=0),
            step(alternative("4+2=7", -1), human=WRITTEN),
            step(alternative("# Answer\n\n6", 1), chosen=0),
        ),
        [
            {
                "prompt": "What is 2+2+2?",
                "nodes": [
                    FOUR,
                    {"text": "2+2=5", "label": 0, "parent": -1},
                    {"text": "4+2=7", "label": 0, "parent": 0},
                    {"text": "4+2=6", "label": -100, "parent": 0},
                    {"text": "# Answer\n\n6", "label": 1, "parent": 3},
                ],
            }
        ],
    ),
    (  # phase 2: the first error ends it, with its alternatives
        "prm800k",
        prm800k(
            *("phase2-train", PRE_GENERATED, "found_error"),
            step(alternative("2+2=4", 1, None), chosen=0),
            step(alternative("4+2=7", -1, None), alternative("4+2=6", 1), alternative("Let us add.", 0)),
            generation=9,
        ),
        [
            {
                "prompt": "What is 2+2+2?",
                "nodes": [
                    FOUR,
                    {"text": "4+2=7", "label": 0, "parent": 0},
                    {"text": "4+2=6", "label": 1, "parent": 0},
                    {"text": "Let us add.", "label": 1, "parent": 0},
                ],
            }
        ],
    ),
    (  # screening and quality control; a step without anything at the end, a flagged step without a rating
        "prm800k",
        prm800k(
            *("phase2-test", PRE_GENERATED, "give_up"),
            step(alternative("2+2=4", 1), chosen=0),
            step(alternative("Hm.", None, True), chosen=0),
            step(),
            generation=-1,
            control=True,
            screening=True,
        ),
        [{"prompt": "What is 2+2+2?", "nodes": [FOUR, {"text": "Hm.", "label": -100, "parent": 0}]}],
    ),
    ("prm800k", prm800k("phase1-test", {"problem": "Draw it."}, "bad_problem"), []),
]
