"""`check_model` passes what the trainers save, and finds each fault that is put into it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import checkpoint
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_rewardplug.model.kinds import ORM, PRM
from hf_rewardplug.score import check, plain
from hf_rewardplug.score.check import check_model, rows_of_file
from hf_rewardplug.score.plain import plain_scores


@pytest.fixture(scope="module")
def base(assets) -> str:
    return str(assets / "stories260K")


def by_name(findings) -> dict:
    return {finding.check: finding for finding in findings}


def edited(folder: str, target, **config) -> str:
    shutil.copytree(folder, target)
    path = target / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return str(target)


@pytest.mark.parametrize("kind", ["orm", "prm", "lora", "bf16"])
def test_what_the_trainers_save_passes(base, kind):
    found = by_name(check_model(checkpoint(kind, base)))
    assert all(finding.ok is not False for finding in found.values()), found
    assert found["scores in fp32"].ok and found["head"].ok and found["pad token"].ok and found["weights"].ok
    assert ("step separator" in found) == (kind == "prm")
    assert ("problem type" in found) == (kind != "prm")
    if kind == "bf16":
        assert (
            found["scores in bfloat16"].ok is None
            and "largest difference from fp32" in found["scores in bfloat16"].found
        )
    else:
        assert "scores in bfloat16" not in found
    assert f"({'PRM' if kind == 'prm' else 'ORM'})" in found["kind"].found


def test_plain_scores_are_transformers_own(base):
    folder = checkpoint("orm", base)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    cases = [{"prompt": "the cat ", "completion": "sat"}, {"prompt": "a dog ", "completion": "ran and ran on"}]
    found = plain_scores(model, tokenizer, cases, separator="\n")
    for case, (score,) in zip(cases, found, strict=True):
        inputs = tokenizer(case["prompt"] + case["completion"] + tokenizer.eos_token, return_tensors="pt")
        with torch.no_grad():
            expected = model(**{key: inputs[key] for key in ("input_ids", "attention_mask")}).logits.item()
        assert score == pytest.approx(expected, abs=1e-5)


def test_rows_of_a_file(base, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{i} ", "completion": "sat"}) + "\n" for i in range(20)))
    found = by_name(check_model(checkpoint("orm", base), rows=rows_of_file(path)))
    assert found["scores in fp32"].ok and "(8 scores of 8 sequences)" in found["scores in fp32"].found
    path.write_text('{"prompt": "a"}\n')
    with pytest.raises(ValueError, match=r"rows.jsonl', line 1: found \['prompt'\]"):
        rows_of_file(path)


def test_rows_with_tools_and_turns_that_only_call_one(base, tmp_path):
    call = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}]}
    user, answer = {"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat\nran"}
    tools = [{"type": "function", "function": {"name": "f"}}]
    rows = [{"prompt": [user], "completion": turns, "tools": tools} for turns in ([call], [answer], [call, answer])]
    for kind in ("prm", "orm"):
        folder = edited(checkpoint(kind, base), tmp_path / kind)
        template = "{{ tools }}{% for m in messages %}{{ m.role + ': ' + (m.content or 'call') + '\n' }}{% endfor %}"
        (tmp_path / kind / "chat_template.jinja").write_text(template)
        found = by_name(check_model(folder, rows=rows))
        assert found["scores in fp32"].ok, found["scores in fp32"]
        scores = [
            check._own_scores(folder, list(check._cases(given, {"orm": ORM, "prm": PRM}[kind], "\n")), "float32")
            for given in (rows, [{**row, "tools": None} for row in rows])
        ]
        assert scores[0] != scores[1]


def test_rows_that_cannot_be_checked(base):
    with pytest.raises(ValueError, match=r"row 0: found \['completion'\]; expected 'prompt'"):
        check_model(checkpoint("orm", base), rows=[{"completion": "a"}])


@pytest.mark.parametrize("kind", ["orm", "lora"])
def test_a_hub_id_is_fetched_as_a_whole(base, tmp_path, monkeypatch, kind):
    hub, cache = Path(checkpoint(kind, base)), tmp_path / "cache"
    cache.mkdir()

    def find_file(name, file, options):  # one file alone is in the cache then
        assert name == "someone/reward"
        return Path(shutil.copy(hub / file, cache)) if (hub / file).exists() else None

    def snapshot_download(name, **patterns):
        assert name == "someone/reward" and patterns
        return shutil.copytree(hub, cache, dirs_exist_ok=True)

    monkeypatch.setattr(check, "find_file", find_file)
    monkeypatch.setattr(check, "snapshot_download", snapshot_download, raising=False)
    folder, adapter = check._folder("someone/reward")
    assert check._weights(folder).ok and adapter == (kind == "lora")
    if adapter:
        monkeypatch.setattr(plain, "find_file", find_file, raising=False)
        assert plain.lacks_head("someone/reward") == []


def test_what_the_scorer_refuses_has_a_remedy(base, monkeypatch):
    def refuse(*arguments):
        raise ValueError("no")

    monkeypatch.setattr(check, "_own_scores", refuse)
    found = by_name(check_model(checkpoint("orm", base)))["scores in fp32"]
    assert found.ok is False and "RewardScorer refuses: no" in found.found and found.remedy


def test_pad_token_that_is_eos(base, tmp_path):
    folder = edited(checkpoint("orm", base), tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    folder = edited(folder, tmp_path / "m2", pad_token_id=tokenizer.eos_token_id)
    found = by_name(check_model(folder))
    assert found["pad token"].ok is False and "it is EOS too" in found["pad token"].found
    assert found["scores in fp32"].ok is False  # transformers scores the token before EOS


def test_pad_token_and_problem_type_of_the_config(base, tmp_path):
    found = by_name(check_model(edited(checkpoint("orm", base), tmp_path / "m", pad_token_id=5, problem_type=None)))
    assert found["pad token"].ok is False and "the config has 5" in found["pad token"].found
    assert found["problem type"].ok is False and "regression" in found["problem type"].remedy


def test_separator_that_is_not_known(base, tmp_path):
    found = by_name(check_model(edited(checkpoint("prm", base), tmp_path / "m", rewardplug=None)))
    assert found["step separator"].ok is False


@pytest.mark.parametrize("value", [None, float("nan")])
def test_head_that_is_not_there_or_not_finite(base, tmp_path, value):
    folder = tmp_path / "m"
    shutil.copytree(checkpoint("orm", base), folder)
    weights = load_file(folder / "model.safetensors")
    head = weights.pop("score.weight")
    if value is not None:
        weights["score.weight"] = torch.full_like(head, value)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    found = by_name(check_model(str(folder)))
    assert found["head"].ok is False and "score.weight" in found["head"].found
    assert found["scores in fp32"].ok is False


def test_weights_that_are_cut_off_or_pickled(base, tmp_path):
    shutil.copytree(checkpoint("orm", base), tmp_path / "m")
    (tmp_path / "m" / "pytorch_model.bin").write_bytes(b"")
    found = check_model(str(tmp_path / "m"))
    assert found[0].ok is False and "pytorch_model.bin" in found[0].found
    whole = (tmp_path / "m" / "model.safetensors").read_bytes()
    (tmp_path / "m" / "model.safetensors").write_bytes(whole[:-100])
    found = check_model(str(tmp_path / "m"))
    assert len(found) == 1 and "cut off" in found[0].found
    (tmp_path / "m" / "model.safetensors").unlink()
    assert "no safetensors file, but pytorch_model.bin" in check_model(str(tmp_path / "m"))[0].found


def test_a_causal_model_and_no_model(base, tmp_path):
    found = check_model(base)
    assert found[-1].check == "kind" and found[-1].ok is False and "LlamaForCausalLM" in found[-1].found
    with pytest.raises(ValueError, match=r"neither a config\.json nor"):
        check_model(str(tmp_path))
